"""Compares models, each scored from its artifact on this workspace's val."""

from __future__ import annotations

import logging
import os
import shutil
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

import segops
from segops import files, paths
from segops.data.store import PackedStore
from segops.evaluate.comparison import oppose
from segops.evaluate.exports import of_model
from segops.evaluate.image_table import image_rows, page_places
from segops.evaluate.metrics_file import evaluation
from segops.evaluate.pictures import gallery
from segops.evaluate.score import EXPLAINED, Scores, read_scores, score
from segops.evaluate.speed import measure
from segops.params.file import Params, load_params
from segops.predict.seen import of_store, seen_images
from segops.release.named_models import NamedModel, open_models
from segops.report.evaluation_page import write_evaluation_page
from segops.runtime.errors import SegopsError
from segops.voc.layout import VAL

if TYPE_CHECKING:
    from segops.report.page_inputs import Opponent

PAGE = Path("reports/comparison.html")
KEPT = 12
"""Number of models whose scores are kept for later comparisons."""
log = logging.getLogger("segops")


@dataclass(frozen=True)
class Compared:
    """The result of a comparison.

    Attributes:
        names: The models' names, in the order of the command line.
        evaluations: Their evaluations, in the form of ``metrics/evaluation.json``.
        opponents: All models but the first, with the first model's difference to each.
        speeds: Speed and memory of each model with its `name` and `mib`, the size of its bundle;
            see :func:`segops.evaluate.exports.of_model`. Empty where `evaluate.speed` is false.
        images: Number of scored images of val.
        excluded: Number of images left out because a model was trained on them.
        page: The page.
    """

    names: tuple[str, ...]
    evaluations: tuple[Mapping[str, Any], ...]
    opponents: tuple[Opponent, ...]
    speeds: tuple[Mapping[str, Any], ...]
    images: int
    excluded: int
    page: Path


def compare(references: Sequence[str], root: Path, page: Path) -> Compared:
    """Score models on this workspace's val, compare the first with the others, write the page.

    All models are scored on the same images: those that none of them was trained on.

    Args:
        references: References to the models; see :func:`segops.release.named_models.open_models`.
        root: The workspace.
        page: The HTML file to write.

    Raises:
        SegopsError: Fewer than two models are given, the page cannot be written, a model does not
            exist or has other classes, or the models were trained on all of val.
        TransientError: MLflow does not answer.
    """
    if len(references) < 2 or len(set(references)) < len(references):
        raise SegopsError(
            f"{' '.join(references) or 'nothing'}: expected at least two models, each given once: "
            "segops compare RUN RUN..."
        )
    _require_writable(page)
    settings, store = load_params(root), PackedStore(root / paths.PACKED)
    with open_models(references, root) as models:
        excluded = _trained_on(store, models)
        shown, threads = settings.report.pictures, settings.hardware.threads
        scored = [
            _scored(root, model, store, excluded, threads, pictures=shown) for model in models
        ]
        evaluations = [evaluation(scores, store, VAL, settings.evaluate) for scores in scored]
        first = scored[0]
        opponents = tuple(
            replace(
                oppose(
                    model.name,
                    first.counts,
                    scores.counts,
                    tree,
                    excluded,
                    settings.evaluate,
                    first.class_names,
                ),
                excluded=len(first.excluded),
                about=model.about,
            )
            for model, scores, tree in zip(models[1:], scored[1:], evaluations[1:], strict=True)
        )
        speeds = _speeds(models, store, settings)
        images = image_rows(first, others=scored[1:]) if shown else []
        write_evaluation_page(
            page,
            evaluations[0],
            first.confusion,
            gallery(first, store, scored[1:]) if shown else (),
            None,
            opponents,
            name=models[0].name,
            about=models[0].about,
            evaluated=f"{datetime.now(UTC):%Y-%m-%d %H:%M} UTC",
            classes=first.classes,
            speeds=speeds,
            images=images,
            places=page_places(first, store, VAL, images) if shown else None,
        )
        _prune(root)
    return Compared(
        names=tuple(model.name for model in models),
        evaluations=tuple(evaluations),
        opponents=opponents,
        speeds=speeds,
        images=len(first.images),
        excluded=len(first.excluded),
        page=page,
    )


def _require_writable(page: Path) -> None:
    """Check before the scoring, which takes minutes, that the page can be written.

    Raises:
        SegopsError: It is a directory or no plain file, or its directory cannot be created or is
            not writable.
    """
    advice = "Give --output a file to write, in a directory where you may write."
    try:
        if page.is_dir():
            raise SegopsError(
                f"{page}: a directory; expected the HTML file to write, such as {page / PAGE.name}."
            )
        if os.path.lexists(page) and not (page.is_file() or page.is_symlink()):
            raise SegopsError(f"{page}: exists and is not a plain file. {advice}")
        # A broken link counts as existing, since no directory can take its name.
        place = next(parent for parent in page.absolute().parents if os.path.lexists(parent))
        with tempfile.TemporaryFile(dir=place):
            pass
    except OSError as error:
        raise SegopsError(f"{page}: cannot be written: {error.strerror}. {advice}") from None


def _trained_on(store: PackedStore, models: list[NamedModel]) -> frozenset[str]:
    """Return the SHA-256 of the images of val that at least one model was trained on.

    Raises:
        SegopsError: A model has other classes than the data, or no image is left.
    """
    for model in models:
        if model.class_names != store.class_names:
            raise SegopsError(
                f"{model.name}: it has the classes {', '.join(model.class_names)}; the data have "
                f"{', '.join(store.class_names)}. Only models of the same classes are compared. "
                "Leave this model out, or compare in a checkout whose data have its classes."
            )
    hashes = frozenset(store.image_sha256(image_id) for image_id in store.ids(VAL))
    seen = [seen_images(model.described, of_store(store, VAL)) & hashes for model in models]
    excluded = frozenset[str]().union(*seen)
    if excluded == hashes:
        trained = ", ".join(
            model.name for model, images in zip(models, seen, strict=True) if images
        )
        raise SegopsError(
            f"{trained}: trained on the {len(hashes)} image(s) of {VAL}; no image is left for "
            "the comparison. Add images to it that no model was trained on."
        )
    return excluded


def _scored(
    root: Path,
    model: NamedModel,
    store: PackedStore,
    excluded: frozenset[str],
    threads: int | None,
    *,
    pictures: bool,
) -> Scores:
    """Return a model's scores from an earlier comparison, or new scores."""
    plain = root / paths.COMPARED / _key(model, store, excluded)
    with_pictures = plain.with_name(f"{plain.name}-pictures")
    for kept in (with_pictures,) if pictures else (with_pictures, plain):
        if kept.is_dir():
            os.utime(kept)
            return read_scores(kept)
    log.info("Scoring %s.", model.name)
    return score(
        model.bundle,
        store,
        VAL,
        with_pictures if pictures else plain,
        model.bundle_digest,
        threads=threads,
        exclude_sha256=excluded,
        masks=pictures,
        explain=EXPLAINED if pictures else 0,
    )


def _speeds(
    models: Sequence[NamedModel], store: PackedStore, settings: Params
) -> tuple[dict[str, Any], ...]:
    """Measure the models in turns; none where `evaluate.speed` is false."""
    if not settings.evaluate.speed:
        return ()
    timings = measure(
        [(one.bundle, one.bundle_digest) for one in models],
        store,
        VAL,
        threads=settings.hardware.threads,
    )
    return tuple(
        {"name": one.name, "mib": one.mib, **of_model(timing)}
        for one, timing in zip(models, timings, strict=True)
    )


def _key(model: NamedModel, store: PackedStore, excluded: frozenset[str]) -> str:
    """Return a key of all that scores depend on: the model, the images and the scoring code."""
    here = Path(segops.__file__).parent
    code = [files.sha256_tree(here / room) for room in ("evaluate", "metrics", "predict")]
    parts = (model.bundle_digest, store.split_hash(VAL), *sorted(excluded), *code)
    return files.sha256_lines(list(parts))[:32]


def _prune(root: Path) -> None:
    """Delete the least recently used scores."""
    kept = sorted(
        (root / paths.COMPARED).iterdir(),
        key=lambda directory: directory.stat().st_mtime,
        reverse=True,
    )
    for old in kept[KEPT:]:
        shutil.rmtree(old)
