"""Time of counting a split's confusion matrices: segops against torchmetrics, on one thread.

torchmetrics is given int64 masks, as torch's argmax makes them and its losses take them, and for a
second ratio the uint8 masks that segops counts, for which it takes less time.

A split of 20 pairs of 375x500 masks with 21 classes. Truth has objects with the strip of void that
VOC draws around them. Predictions have the objects' contours displaced and some blobs of other
classes. In each round every side counts the whole split, one after the other, so that all see the
same machine: five times each, as once is over in 10 ms, some of it spent on fetching masks that the
side before has pushed out of the caches, where an evaluation has just written them. The ratios are
medians of those of the rounds. The counts of each side must be exactly equal, image by image.
Run: ``python benchmarks/confusion.py``. With a graphics card, the same on it, data staying there.
"""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable

import cv2
import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torchmetrics.functional.classification import multiclass_confusion_matrix

from segops.metrics.confusion import confusion_matrix
from segops.metrics.device_confusion import DeviceConfusion
from segops.runtime.classes import VOID

CLASSES = 21
IMAGES = 20
ROUNDS = 9
TIMES = 5
SHAPE = (375, 500)
WIDE, NARROW, GPU = "torchmetrics, int64", "torchmetrics, uint8", " on the GPU"

Mask = NDArray[np.uint8]
Pair = tuple[Mask, Mask]


def pair(seed: int) -> Pair:
    """Truth with up to four objects, and a prediction of it that is a bit off."""
    random = np.random.default_rng(seed)
    truth, prediction = np.zeros(SHAPE, np.uint8), np.zeros(SHAPE, np.uint8)
    for _ in range(random.integers(1, 5)):
        label = int(random.integers(1, CLASSES))
        contour = outline(random)
        cv2.fillPoly(truth, [contour], label)
        cv2.polylines(truth, [contour], True, VOID, 5)
        moved = contour + random.integers(-6, 7, contour.shape, dtype=np.int32)
        cv2.fillPoly(prediction, [moved], label)
    for _ in range(random.integers(0, 4)):
        centre = tuple(int(value) for value in random.integers(0, SHAPE[::-1]))
        cv2.circle(prediction, centre, int(random.integers(4, 30)), int(random.integers(21)), -1)
    return truth, prediction


def outline(random: np.random.Generator) -> NDArray[np.int32]:
    """A closed outline of 24 points about an ellipse."""
    angles = np.linspace(0, 2 * np.pi, 24, endpoint=False)
    radius = random.uniform(25, 130, 2) * random.uniform(0.8, 1.2, (24, 1))
    points = radius * np.stack([np.cos(angles), np.sin(angles)], axis=1)
    return np.asarray(points + random.integers((0, 0), SHAPE[::-1]), np.int32)


def sides(pairs: list[Pair]) -> dict[str, Callable[[], NDArray[np.int64]]]:
    """What is timed: each counts all pairs, int64 (images, classes, classes) on the CPU."""
    tensors = [(torch.from_numpy(truth), torch.from_numpy(found)) for truth, found in pairs]
    wide = [(truth.long(), found.long()) for truth, found in tensors]

    def segops() -> NDArray[np.int64]:
        return np.stack([confusion_matrix(truth, found, CLASSES) for truth, found in pairs])

    counters = {
        "segops": segops,
        "segops, tensors on the CPU": lambda: on_device(tensors),
        WIDE: lambda: theirs(wide),
        NARROW: lambda: theirs(tensors),
    }
    if torch.cuda.is_available():
        there, wide_there = (
            [(truth.cuda(), found.cuda()) for truth, found in some] for some in (tensors, wide)
        )
        counters[f"segops{GPU}"] = lambda: on_device(there)
        counters[WIDE + GPU] = lambda: theirs(wide_there)
        counters[NARROW + GPU] = lambda: theirs(there)
    return counters


def on_device(tensors: list[tuple[Tensor, Tensor]]) -> NDArray[np.int64]:
    """Count on the tensors' device and fetch the counts once, at the end."""
    counter = DeviceConfusion(CLASSES)
    for truth, prediction in tensors:
        counter.add(truth, prediction)
    return counter.fetch()


def theirs(tensors: list[tuple[Tensor, Tensor]]) -> NDArray[np.int64]:
    """The same by torchmetrics."""
    matrices = [
        multiclass_confusion_matrix(prediction, truth, num_classes=CLASSES, ignore_index=VOID)
        for truth, prediction in tensors
    ]
    counts: NDArray[np.int64] = torch.stack(matrices).cpu().numpy()
    return counts


def compare(pairs: list[Pair]) -> bool:
    """Time all sides and print medians and ratios; whether all counts agree."""
    counters = sides(pairs)
    expected = counters[WIDE]()
    equal = all(np.array_equal(count(), expected) for count in counters.values())
    times: dict[str, list[float]] = {side: [] for side in counters}
    for _ in range(ROUNDS):
        for side, count in counters.items():
            start = time.perf_counter()
            for _ in range(TIMES):
                count()  # ends with the counts on the CPU, so a graphics card is done
            times[side].append((time.perf_counter() - start) / len(pairs) / TIMES)
    print(f"{len(pairs)} pairs of {SHAPE[1]}x{SHAPE[0]}, medians of {ROUNDS} rounds")
    print(f"{'':>28}  {'ms a pair':>10} {'times int64':>12} {'times uint8':>12}")
    for side, taken in times.items():
        where = GPU if side.endswith(GPU) else ""
        ratios = [
            statistics.median(a / b for a, b in zip(times[other + where], taken, strict=True))
            for other in (WIDE, NARROW)
        ]
        each = statistics.median(taken) * 1e3
        print(f"{side:>28}: {each:10.3f} {ratios[0]:12.1f} {ratios[1]:12.1f}")
    print(f"{'counts':>28}: {'all equal' if equal else 'DIFFERENT'}")
    return equal


def main() -> None:
    """Compare; exits with 1 if any counts differ."""
    torch.set_num_threads(1)
    cv2.setNumThreads(1)
    if not compare([pair(seed) for seed in range(IMAGES)]):
        raise SystemExit(1)


if __name__ == "__main__":
    main()
