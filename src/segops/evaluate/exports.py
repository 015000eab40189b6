"""Parity: how the exports of a model predict beside the model itself, on the same images.

Each export is scored with its own runtime and by its whole path of prediction (windows, mirroring,
scales), as the model was. An export that fails is not an error: it is found out, and not offered.
"""

from __future__ import annotations

import logging
import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from segops import files, paths
from segops.data.store import PackedStore
from segops.evaluate import speed
from segops.evaluate.bootstrap import paired_class_differences, paired_difference, true_classes
from segops.evaluate.score import Scores, score
from segops.metrics.catalogue import compute_metrics
from segops.params.evaluate import EvaluateParams
from segops.predict.bundle import TORCH, load_bundle, read_model, runtime_of
from segops.runtime.errors import SegopsError

MIB = 2**20
SAME_LOGITS = 1e-3
"""Largest difference, as a share of the largest logit, of an image alone and in a batch."""
CROPS = ((64, 96), (75, 50))
"""Heights and widths of the images of a batch; smaller ones where an image is."""
log = logging.getLogger("segops")


def exports(root: Path) -> dict[str, str]:
    """The digests of the workspace's exports by the name of their form; empty without any."""
    listed = root / paths.EXPORTS / paths.EXPORT_LIST
    return dict(files.read_json(listed)) if listed.is_file() else {}


def judge(
    root: Path,
    bundle: Path,
    scores: Scores,
    store: PackedStore,
    split: str,
    settings: EvaluateParams,
    threads: int | None,
) -> dict[str, Any]:
    """Compare the workspace's exports with the model that they were made of.

    Args:
        root: The workspace.
        bundle: The model's bundle.
        scores: Its scores on the split, with all masks.
        store: The packed data.
        split: The split.
        settings: Level, resamples and seed of the paired bootstrap.
        threads: CPU threads; None: each runtime's own choice.

    Returns:
        Figures ready for JSON by the name of the form, and those of the model under `torch`; empty
        where there is no export. `error` says why an export has no figures. The differences are the
        export's minus the model's.
    """
    digests = exports(root)
    found: dict[str, Any] = {}
    for name, digest in digests.items():
        directory = root / paths.EXPORTS / name
        figures: dict[str, Any] = {
            "digest": digest,
            "runtime": runtime_of(read_model(directory)),
            "mib": size_mib(directory),
            "error": None,
        }
        try:
            require_any_batch(directory, digest, store.image(scores.images[0]), threads)
            figures |= _parity(directory, digest, scores, store, split, settings, threads)
        except SegopsError as error:
            figures["error"] = str(error)
            log.warning("%s: %s", directory, error)
        found[name] = figures
    if not found:
        return {}
    found[TORCH] = {
        "bundle_digest": scores.bundle_digest,
        "mib": size_mib(bundle),
        "error": None,
    }
    sound = {name: one for name, one in found.items() if one["error"] is None}
    places = [
        (bundle, scores.bundle_digest)
        if name == TORCH
        else (root / paths.EXPORTS / name, digests[name])
        for name in sound
    ]
    timings = speed.measure(places, store, split, device="cpu", threads=threads)
    for figures, timing in zip(sound.values(), timings, strict=True):
        figures["milliseconds_p50"] = timing.p50
        figures["milliseconds_p95"] = timing.p95
        figures["peak_mib"] = timing.peak_mib
    return found


def _parity(
    directory: Path,
    digest: str,
    model: Scores,
    store: PackedStore,
    split: str,
    settings: EvaluateParams,
    threads: int | None,
) -> dict[str, Any]:
    with files.scratch() as scratch:
        ours = score(
            directory,
            store,
            split,
            scratch / "scores",
            digest,
            threads=threads,
            masks=True,
        )
        differing = sum(
            int(np.count_nonzero(ours.prediction(one) != model.prediction(one)))
            for one in model.images
        )
        pixels = sum(ours.prediction(one).size for one in model.images)
        return compared(ours, model, settings) | {"differing_pixels": differing / pixels}


def compared(ours: Scores, model: Scores, settings: EvaluateParams) -> dict[str, Any]:
    """The scores of an export beside those of its model; see :func:`judge`."""
    classes = true_classes(model.counts)
    samples, seed = settings.bootstrap_samples, settings.seed
    one_sided = (1 + settings.confidence) / 2
    whole = paired_difference(ours.counts, model.counts, classes, samples, one_sided, seed)
    single = paired_class_differences(
        ours.counts, model.counts, classes, samples, settings.confidence, seed
    )
    worst = min(single, key=lambda label: single[label].difference)
    metrics, models = (compute_metrics(one.split_counts, one.class_names) for one in (ours, model))
    return {
        "miou": metrics["miou"],
        "miou_difference": whole.difference,
        "miou_low": _number(whole.low),
        "miou_high": _number(whole.high),
        "boundary_iou": metrics["boundary"]["iou"],
        "boundary_iou_difference": _less(metrics["boundary"]["iou"], models["boundary"]["iou"]),
        "worst_class": model.class_names[worst],
        "worst_class_difference": single[worst].difference,
    }


def require_any_batch(
    directory: Path, digest: str, image: NDArray[np.uint8], threads: int | None
) -> None:
    """Check that an export takes batches, and images of sizes that are not square.

    Prediction shows it one image at a time; a server may not.

    Raises:
        SegopsError: It does not, or an image in a batch has other logits than alone.
    """
    predictor = load_bundle(directory, "cpu", digest, threads=threads)
    for height, width in CROPS:
        part = image[:height, :width].transpose(2, 0, 1)
        batch = np.stack([part, part[..., ::-1]])
        try:
            together = predictor.batch_logits(batch)
            alone = [predictor.batch_logits(one[None])[0] for one in batch]
        except SegopsError:
            raise
        except Exception as error:  # the runtimes' own errors have no common base
            first = str(error).strip().partition("\n")[0]
            raise SegopsError(
                f"the export does not take a batch of 2 images of {height} x {width} pixels: "
                f"{type(error).__name__}: {first}"
            ) from error
        expected = (2, len(predictor.class_names), *part.shape[1:])
        if together.shape != expected:
            raise SegopsError(
                f"the export gives logits of shape {together.shape}; expected {expected}"
            )
        apart = float(np.abs(together - np.stack(alone)).max())
        if not apart <= SAME_LOGITS * float(np.abs(together).max()):
            raise SegopsError("the export gives an image other logits in a batch than alone")


def size_mib(directory: Path) -> float:
    """Size of the files of a bundle or export, MiB."""
    return sum(one.stat().st_size for one in directory.rglob("*") if one.is_file()) / MIB


def rows(found: Mapping[str, Any]) -> list[dict[str, Any]]:
    """The figures of :func:`judge` as rows of a table, the model first; empty without exports."""
    names = sorted(found, key=lambda name: (name != TORCH, name))
    return [{"name": name, **found[name]} for name in names]


def _number(value: float) -> float | None:
    return None if math.isnan(value) else value


def _less(one: float | None, other: float | None) -> float | None:
    return None if one is None or other is None else one - other
