"""An evaluation in words, the same wherever it is told."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from segops.words import counted


def level(confidence: float, space: str = " ") -> str:
    """A level of confidence, 0..1, in words: "95 %", "97.5 %"."""
    return f"{100 * confidence:g}{space}%"


def sentence(evaluation: Mapping[str, Any]) -> str:
    """MIoU and its interval in a sentence, from the content of ``metrics/evaluation.json``.

    For instance "mIoU 0.700 on 40 images of val (95 % interval 0.600 to 0.800)". One image has no
    interval, and the sentence says why.
    """
    from segops.metrics.catalogue import number_at  # loads NumPy, for which `--help` need not wait

    images = evaluation["images"]
    of = f"on {counted(images, 'image')} of {evaluation['split']}"
    miou, low, high = (number_at(evaluation, key) for key in ("miou", "miou_low", "miou_high"))
    if miou is None:
        return f"no mIoU {of}"
    if low is None or high is None:
        why = "it takes two images or more" if images == 1 else "none could be drawn"
        return f"mIoU {miou:.3f} {of} (no interval: {why})"
    interval = f"{level(evaluation['confidence'])} interval {low:.3f} to {high:.3f}"
    return f"mIoU {miou:.3f} {of} ({interval})"
