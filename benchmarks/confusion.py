"""Time of one confusion matrix: segops against torchmetrics, on one thread.

One 375x500 pair of masks with 21 classes and a void border, as a VOC photograph has. The two are
called in turn, so that both see the same machine, and must give the same counts.
Run: ``python benchmarks/confusion.py``.
"""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable
from typing import Any

import cv2
import numpy as np
import torch
from numpy.typing import NDArray
from torchmetrics.functional.classification import multiclass_confusion_matrix

from segops.metrics.confusion import confusion_matrix
from segops.voc.classes import VOID

CLASSES = 21
ROUNDS = 200


def masks() -> tuple[NDArray[np.uint8], NDArray[np.uint8]]:
    """Truth with three objects and their void borders, and a prediction that is a bit off."""
    truth = np.zeros((375, 500), np.uint8)
    for label, (left, top, right, bottom) in {
        15: (100, 60, 220, 330),
        13: (180, 150, 420, 360),
        20: (350, 20, 470, 110),
    }.items():
        cv2.rectangle(truth, (left, top), (right, bottom), label, -1)
        cv2.rectangle(truth, (left, top), (right, bottom), VOID, 3)
    prediction = np.roll(truth, (4, 6), axis=(0, 1))
    prediction[prediction == VOID] = 0
    speckle = np.random.default_rng(0).random(truth.shape) < 0.05
    prediction[speckle] = np.random.default_rng(1).integers(0, CLASSES, int(speckle.sum()))
    return truth, prediction


def seconds(function: Callable[[], Any]) -> float:
    """Wall time of one call."""
    start = time.perf_counter()
    function()
    return time.perf_counter() - start


def main() -> None:
    """Compare the two and print medians, ratio and whether the counts agree."""
    torch.set_num_threads(1)
    cv2.setNumThreads(1)
    truth, prediction = masks()
    tensors = torch.from_numpy(prediction), torch.from_numpy(truth)

    def ours() -> NDArray[np.int64]:
        return confusion_matrix(truth, prediction, CLASSES)

    def theirs() -> torch.Tensor:
        return multiclass_confusion_matrix(*tensors, num_classes=CLASSES, ignore_index=VOID)

    equal = bool((ours() == theirs().numpy()).all())
    times: dict[str, list[float]] = {"segops": [], "torchmetrics": []}
    for _ in range(ROUNDS):
        times["segops"].append(seconds(ours))
        times["torchmetrics"].append(seconds(theirs))
    medians = {name: statistics.median(values) for name, values in times.items()}
    for name, median in medians.items():
        print(f"{name:>12}: {median * 1e3:7.3f} ms a pair (median of {ROUNDS})")
    print(f"{'ratio':>12}: {medians['torchmetrics'] / medians['segops']:7.1f}")
    print(f"{'counts':>12}: {'equal' if equal else 'DIFFERENT'}")
    if not equal:
        raise SystemExit(1)


if __name__ == "__main__":
    main()
