"""The page of a comparison: what drifted, and the most unusual images."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray

from segops.files import write_text
from segops.monitor.drift import CLASSES, CONFIDENCE, FEATURES, LOOK, Change, Drift, Test, Unusual
from segops.report.gallery import shrunk
from segops.report.html import decimal, number, percent, photograph, render
from segops.words import counted

SHOWN = 24
"""Most unusual images on the page."""
SIDE = 320
QUESTIONS = {
    LOOK: "Do the images look alike, by colour, sharpness, noise and size?",
    FEATURES: "Does the network see the same kinds of images?",
    CLASSES: "Does the model find the same classes, and as much of each?",
    CONFIDENCE: "Is the model as sure?",
}
MEANINGS = {
    "brightness": "mean luma, 0 to 1",
    "contrast": "deviation of the luma",
    "red": "share of red in the mean colour",
    "blue": "share of blue in the mean colour",
    "saturation": "mean difference of the largest and the smallest channel",
    "sharpness": "fine detail against contrast, log2",
    "noise": "estimated noise in grey levels, log2",
    "pixels": "size of the image",
    "shape": "width over height",
    "entropy": "mean entropy of the class probabilities",
}


def sentence(drift: Drift) -> str:
    """What was found, in a sentence."""
    found = [test.name for test in drift.tests if test.drifted]
    left = f" Not compared: {', '.join(drift.left_out)}." if drift.left_out else ""
    if not found:
        return f"No drift found in {counted(drift.images, 'image')}.{left}"
    return f"Drift found in {counted(drift.images, 'image')}: {', '.join(found)}.{left}"


def value_of(name: str, value: float, test: str) -> str:
    """A statistic's value in words."""
    if test == CLASSES:
        return percent(value)
    if test == LOOK and name == "pixels":
        return number(2**value)
    if test == LOOK and name == "shape":
        return decimal(2**value, 2)
    return decimal(value)


def write_drift_page(
    path: Path,
    drift: Drift,
    *,
    model: str,
    source: str,
    reference: str,
    notes: Sequence[str],
    picture: Callable[[Unusual], NDArray[np.uint8] | None],
) -> None:
    """Write the page; a picture at a time is in memory.

    Args:
        path: The HTML file.
        drift: What was found.
        model: What the model is called.
        source: What was compared.
        reference: What it was compared with, in words.
        notes: Further sentences.
        picture: Gives an image to show, RGB; None: there is none to show.
    """
    context: dict[str, Any] = {
        "sentence": sentence(drift),
        "drifted": drift.drifted,
        "alpha": percent(drift.alpha),
        "images": drift.images,
        "model": model,
        "source": source,
        "reference": reference,
        "notes": notes,
        "left_out": drift.left_out,
        "tests": [_test(one) for one in drift.tests],
        "unusual": [
            {
                "name": one.name,
                "score": percent(one.score),
                "reasons": one.reasons,
                "picture": _picture(picture(one)),
            }
            for one in drift.unusual[:SHOWN]
        ],
    }
    write_text(path, render("drift.html", **context))


def _picture(image: NDArray[np.uint8] | None) -> str | None:
    if image is None:
        return None
    size = shrunk(image.shape[:2], SIDE)
    return photograph(cv2.resize(image, size, interpolation=cv2.INTER_AREA).astype(np.uint8), SIDE)


def _test(test: Test) -> Mapping[str, Any]:
    return {
        "name": test.name,
        "question": QUESTIONS[test.name],
        "drifted": test.drifted,
        "p": _p(test.corrected),
        "reference": test.reference,
        "images": test.images,
        "discrepancy": test.discrepancy,
        "changes": [_change(one, test.name) for one in test.changes],
    }


def _change(one: Change, test: str) -> Mapping[str, Any]:
    return {
        "name": one.name,
        "meaning": "" if test == CLASSES else MEANINGS.get(one.name, ""),
        "p": _p(one.p),
        **{
            side: [value_of(one.name, value, test) for value in values]
            for side, values in (("reference", one.reference), ("sample", one.sample))
        },
    }


def _p(value: float) -> str:
    return "< 0.001" if value < 0.001 else f"{value:.3f}"
