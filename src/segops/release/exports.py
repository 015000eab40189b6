"""Which exports of a model are offered, by their parity and `gate.export`. Pure."""

from __future__ import annotations

import math
from collections.abc import Collection, Mapping
from typing import Any

from segops.params.gate import ExportGate
from segops.predict.bundle import TORCH
from segops.runtime.errors import SegopsError

AUTO = "auto"
"""In place of a runtime: that which :func:`quickest` chooses."""
EXPORTS = "exports"
"""Detail of a decision: what :func:`decided` says."""
MODEL = "model"
"""Key of an export in a decision: the figures of the model itself."""
MEASURED_ANEW = (
    *("milliseconds_p50", "milliseconds_p95", "peak_mib", "reasons"),
    *("torch_milliseconds_p50", MODEL),
)
"""Figures that depend on what else the machine does; reasons repeat them, and the others of the
model follow from its digest."""
MODEL_FIGURES = (
    "miou",
    "boundary_iou",
    "mib",
    "milliseconds_p50",
    "milliseconds_p95",
    "peak_mib",
)
TIMES = ("milliseconds_p50", "torch_milliseconds_p50")
"""Milliseconds of an image by the export, and by torch in turns with it."""
COLUMNS = (
    *MODEL_FIGURES,
    "miou_difference",
    "miou_low",
    "miou_high",
    "worst_class",
    "worst_class_difference",
    "differing_pixels",
)
"""Figures that a table shows."""
COMPARED = ("miou_difference", "differing_pixels")
"""Figures without which an export was not compared with its model."""


def refusals(figures: Mapping[str, Any], policy: ExportGate) -> list[str]:
    """Why an export is not offered; empty where it is.

    What is to be checked and was not measured is a reason; so is a comparison with the model that
    is missing, whatever is to be checked.

    Args:
        figures: Its figures, as :func:`segops.evaluate.exports.judge` says them.
        policy: The bounds.
    """
    if figures.get("error"):
        return [f"it is broken: {figures['error']}"]
    if not all(map(_is_number, map(figures.get, COMPARED))):
        return ["it was not compared with the model"]
    worst = figures.get("worst_class")
    is_float = figures.get("quantize") is None
    checks = (
        (
            "max_differing_pixels",
            figures["differing_pixels"] if is_float else 0.0,
            "it predicts {:.3%} of the pixels otherwise than the model",
            "is",
        ),
        ("max_miou_loss", _loss(figures, "miou_difference"), "it loses {:.4f} of mIoU", "is"),
        (
            "max_class_loss",
            _loss(figures, "worst_class_difference"),
            f"class {worst} loses {{:.4f}} of IoU",
            "is",
        ),
        (
            "max_milliseconds",
            figures.get("milliseconds_p95"),
            "an image takes {:.1f} ms (95th percentile)",
            "are",
        ),
        ("max_mib", figures.get("mib"), "it has {:.3f} MiB", "are"),
    )
    reasons = []
    for key, value, words, verb in checks:
        most = getattr(policy, key)
        if most is None:
            continue
        if not _is_number(value):
            reasons.append(f"its figure for gate.export.{key} was not measured")
        elif value > most:
            limit = f"at most {most:g} (gate.export.{key}) {verb} allowed"
            reasons.append(f"{words.format(value)}; {limit}")
    return reasons


def decided(
    exports: Mapping[str, Mapping[str, Any]], policy: ExportGate, model: Mapping[str, Any]
) -> dict[str, Any]:
    """What a decision says of each export, by the name of its form.

    Args:
        exports: Their figures, by the name of their form.
        policy: The bounds.
        model: The figures of the model itself.

    Returns:
        For each form its figures, those of the model (:data:`MODEL_FIGURES`) under `model`, whether
        it is `offered`, and the `reasons` against it.
    """
    own = {key: model.get(key) for key in MODEL_FIGURES}
    found = {}
    for name, figures in sorted(exports.items()):
        reasons = refusals(figures, policy)
        found[name] = {**figures, MODEL: own, "offered": not reasons, "reasons": reasons}
    return found


def timeless(details: Mapping[str, Any]) -> dict[str, Any]:
    """Details of a decision without what differs each time that the same exports are measured.

    Two decisions on the same evidence are the same by this. Whether an export is offered stays.
    """
    exports = details.get(EXPORTS) or {}
    kept = {
        name: {key: value for key, value in one.items() if key not in MEASURED_ANEW}
        for name, one in exports.items()
    }
    return {**details, EXPORTS: kept}


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not math.isnan(value)


def _loss(figures: Mapping[str, Any], key: str) -> float | None:
    value = figures.get(key)
    return None if value is None else -float(value)


def require_offered(exports: Mapping[str, Mapping[str, Any]], form: str, model: str) -> str:
    """The digest of an export by the decision on its model.

    Args:
        exports: What :func:`decided` said of the model's exports.
        form: Name of the form.
        model: What messages call the model.

    Raises:
        SegopsError: There is no such export, or it is not offered.
    """
    one = exports.get(form)
    if one is None:
        has = ", ".join(name for name, other in exports.items() if other["offered"]) or "none"
        raise SegopsError(
            f"{model}: it was released without an export {form} (it has: {has}). "
            "`segops export` makes one, which no gate has judged; a run with export.formats in "
            "params.yaml makes one that is judged."
        )
    if not one["offered"]:
        raise SegopsError(
            f"{model}: its export {form} is not offered: {'; '.join(one['reasons'])}. Take "
            "another form, or the model itself."
        )
    return str(one["digest"])


def quickest(exports: Mapping[str, Mapping[str, Any]], usable: Collection[str]) -> tuple[str, str]:
    """The runtime that predicts an image soonest, of torch and the exports that are offered.

    The times are the medians that the evaluation measured on its CPU, each in turns with torch.
    Where those of torch are missing, as in a decision of an earlier segops, it is torch.

    Args:
        exports: What :func:`decided` says of the model's exports.
        usable: The forms whose library is installed.

    Returns:
        `torch` or the name of a form, and the reason in words, without a full stop.
    """
    offered = {name: one for name, one in sorted(exports.items()) if one["offered"]}
    if not offered:
        return TORCH, "the gate offers no export of it"
    times = {
        name: (one["milliseconds_p50"], one["torch_milliseconds_p50"])
        for name, one in offered.items()
        if name in usable and all(_is_number(one.get(key)) for key in TIMES)
    }
    if not times:
        names = " or ".join(offered)
        return TORCH, f"no library here runs {names}, or no time of it beside torch is known"
    best = min(times, key=lambda name: times[name][0] / times[name][1])
    its, own = times[best]
    words = f"{best} takes {its:.1f} ms an image, torch {own:.1f} ms"
    return (best if its < own else TORCH), f"{words} (medians of the evaluation)"


def rows(exports: Mapping[str, Mapping[str, Any]]) -> list[dict[str, Any]]:
    """What a decision says of a model and its exports as rows of a table, the model first.

    Args:
        exports: What :func:`decided` says; in that of an earlier segops the model has no figures,
            and no row.

    Returns:
        For each its `name`, `torch` for the model, and :data:`COLUMNS`, None where not measured.
    """
    models = [(TORCH, one[MODEL]) for one in exports.values() if MODEL in one][:1]
    return [
        {"name": name, **{key: figures.get(key) for key in COLUMNS}}
        for name, figures in (*models, *sorted(exports.items()))
    ]


def sentences(exports: Mapping[str, Mapping[str, Any]]) -> list[str]:
    """What a decision says of a model and its exports in sentences; argument as of `rows`."""
    models = [one[MODEL] for one in exports.values() if MODEL in one][:1]
    texts = [f"{TORCH} is the model itself: {_figures(one)}." for one in models]
    return texts + [sentence(name, one) for name, one in sorted(exports.items())]


def _figures(model: Mapping[str, Any]) -> str:
    words = (
        ("miou", "mIoU {:.3f}"),
        ("mib", "{:.1f} MiB"),
        ("milliseconds_p95", "{:.1f} ms an image (95th percentile, CPU)"),
    )
    known = [text.format(model[key]) for key, text in words if model[key] is not None]
    return ", ".join(known) or "not measured"


def verdict(name: str, one: Mapping[str, Any]) -> str:
    """Whether an export is offered, and why not, in a sentence; arguments as of `sentence`."""
    if one["offered"]:
        return f"{name} is offered."
    return f"{name} is not offered: {'; '.join(one['reasons'])}."


def sentence(name: str, one: Mapping[str, Any]) -> str:
    """What people read of an export in a decision, in a sentence.

    Args:
        name: Name of its form.
        one: What :func:`decided` says of it.
    """
    if not one["offered"]:
        return verdict(name, one)
    return (
        f"{name} is offered: mIoU {one['miou']:.3f} ({one['miou_difference']:+.4f} against the "
        f"model), {one['differing_pixels']:.3%} of the pixels differ, {one['mib']:.1f} MiB, "
        f"{one['milliseconds_p95']:.1f} ms an image (95th percentile, CPU)."
    )
