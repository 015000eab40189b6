"""How quickly a model predicts, and parity: how its exports predict beside it, on the same images.

Each export is scored with its own runtime and by its whole path of prediction (windows, mirroring,
scales), as the model was. An export that fails is not an error of the stage: it gets an error in
place of figures and is not offered.
"""

from __future__ import annotations

import logging
import math
from collections.abc import Mapping
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from segops import files, paths
from segops.data.store import PackedStore
from segops.evaluate import speed
from segops.evaluate.bootstrap import paired_class_differences, paired_difference, true_classes
from segops.evaluate.score import Scores, score
from segops.metrics.catalogue import compute_metrics
from segops.params.evaluate import EvaluateParams
from segops.predict.bundle import EXPORT, TORCH, read_bundle, size
from segops.runtime.errors import SegopsError
from segops.words import MIB

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
    """Measure a model's speed and memory, and compare the workspace's exports with it.

    Args:
        root: The workspace.
        bundle: The model's bundle.
        scores: Its scores on the split, with all masks.
        store: The packed data.
        split: The split.
        settings: Level, resamples and seed of the paired bootstrap, and whether to measure a model
            that has no exports.
        threads: CPU threads; None: each runtime's own choice.

    Returns:
        Figures ready for JSON by the name of the form, and those of the model under `torch`; empty
        where nothing is to be measured. `error` says why an export has no figures. The differences
        are the export's minus the model's. Beside exports the model is measured on the CPU too.
    """
    digests = exports(root)
    if not digests and not settings.speed:
        return {}
    model = bundle, scores.bundle_digest
    found: dict[str, Any] = {
        TORCH: {
            "bundle_digest": scores.bundle_digest,
            "mib": size(read_bundle(*model)) / MIB,
            "error": None,
        }
    }
    device = "cpu" if digests else "auto"
    measure = partial(speed.measure, store=store, split=split, device=device, threads=threads)
    for name, digest in digests.items():
        directory = root / paths.EXPORTS / name
        runtime, _, quantize = name.partition("-")
        figures: dict[str, Any] = {
            "digest": digest,
            "runtime": runtime,
            "quantize": quantize or None,
            "error": None,
        }
        try:
            held = read_bundle(directory, digest)
            figures |= {"mib": size(held) / MIB, "quantize": held.model[EXPORT]["quantize"]}
            figures |= _parity(directory, digest, scores, bundle, store, split, settings, threads)
            model_timing, timing = measure([model, (directory, digest)])
            figures |= _times(timing) | {"torch_milliseconds_p50": model_timing.p50}
            found[TORCH] |= of_model(model_timing)
        except SegopsError as error:
            figures["error"] = str(error)
            log.warning("%s: %s", directory, error)
        found[name] = figures
    if "milliseconds_p50" not in found[TORCH]:
        found[TORCH] |= of_model(*measure([model]))
    return found


def of_model(timing: speed.Timing) -> dict[str, Any]:
    """Speed and memory of a model as the evaluation page shows them."""
    return {
        **_times(timing),
        "images_per_second": 1000 / timing.milliseconds,
        "device_peak_mib": timing.device_peak_mib,
        "device": timing.device,
        "threads": timing.threads,
        "parameters": timing.parameters,
        "multiply_adds": timing.multiply_adds,
        "size": list(timing.size),
    }


def _times(timing: speed.Timing) -> dict[str, Any]:
    return {
        "milliseconds_p50": timing.p50,
        "milliseconds_p95": timing.p95,
        "peak_mib": timing.peak_mib,
    }


def _parity(
    directory: Path,
    digest: str,
    model: Scores,
    bundle: Path,
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
            export_of=(bundle, model.bundle_digest),
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


def rows(found: Mapping[str, Any]) -> list[dict[str, Any]]:
    """The figures of :func:`judge` as rows of a table, the model first; empty without exports."""
    if set(found) <= {TORCH}:
        return []
    names = sorted(found, key=lambda name: (name != TORCH, name))
    return [{"name": name, **found[name]} for name in names]


def _number(value: float) -> float | None:
    return None if math.isnan(value) else value


def _less(one: float | None, other: float | None) -> float | None:
    return None if one is None or other is None else one - other
