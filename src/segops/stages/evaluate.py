"""Stage evaluate: scores the packaged model on val, with confidence intervals."""

from __future__ import annotations

import logging
from pathlib import Path
from threading import Thread

from segops import files, paths
from segops.data.store import PackedStore
from segops.evaluate import exports, kept_masks
from segops.evaluate.robustness import robustness
from segops.evaluate.score import EXPLAINED, require_corruptible, score
from segops.params.base import Sections
from segops.params.evaluate import EvaluateParams
from segops.params.hardware import HardwareParams
from segops.params.registry import RegistryParams
from segops.params.report import ReportParams
from segops.predict.seen import of_store, seen_images
from segops.report.figures import sentence
from segops.runtime import opener
from segops.runtime.errors import SegopsError
from segops.voc.layout import VAL

log = logging.getLogger("segops")


class Settings(Sections):
    """The parameters that the stage reads."""

    evaluate: EvaluateParams = EvaluateParams()
    report: ReportParams = ReportParams()
    registry: RegistryParams = RegistryParams()
    hardware: HardwareParams = HardwareParams()


def run(root: Path) -> None:
    """Write the evaluation, the table of counts, some masks, the plots and the page.

    Raises:
        SegopsError: The model or the data is not usable, val holds an image that the model was
            trained on, or val has no labelled pixel.
    """
    settings = Settings.read(root)
    store = PackedStore(root / paths.PACKED)
    bundle = root / paths.SEGMENTER
    if settings.evaluate.robustness:
        require_corruptible(store, store.ids(VAL))  # before the scoring, which takes minutes
    trained_on = _require_unseen(store, bundle)
    shown = settings.report.pictures
    Thread(target=_load).start()
    with files.scratch() as scratch:
        scores = score(
            bundle,
            store,
            VAL,
            scratch / "scores",
            threads=settings.hardware.threads,
            masks=shown or bool(exports.exports(root)) or kept_masks.chosen(store, store.ids(VAL)),
            explain=EXPLAINED if shown else 0,
        )
        from segops.evaluate.results import write_results

        threads = settings.hardware.threads
        parity = exports.judge(root, bundle, scores, store, VAL, settings.evaluate, threads)

        corrupted = None
        if settings.evaluate.robustness:
            corrupted = robustness(bundle, store, VAL, threads=threads)
        found = write_results(
            root,
            scores,
            store,
            VAL,
            trained_on,
            settings.evaluate,
            shown,
            registered=settings.registry.model,
            parity=parity,
            corrupted=corrupted,
        )
    log.info("%s", sentence(found))


def _load() -> None:
    """Import, in a second, what is used later; the scoring process loads its libraries as well."""
    import segops.evaluate.results  # noqa: F401


def _require_unseen(store: PackedStore, bundle: Path) -> frozenset[str]:
    """Return the SHA-256 of the images that the model has seen; raise if one is in val."""
    hashes = seen_images(files.read_json(bundle / opener.MODEL), of_store(store, VAL))
    leaked = [image_id for image_id in store.ids(VAL) if store.image_sha256(image_id) in hashes]
    if leaked:
        raise SegopsError(
            f"{bundle}: the model was trained on {len(leaked)} image(s) of {VAL}: "
            f"{', '.join(leaked)}. Remove them from one of the two splits and train again."
        )
    return hashes
