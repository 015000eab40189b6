"""What the choice of images to annotate costs, once their features are there.

The features are random vectors of 2,048 numbers, as a ResNet-50 gives; 500 images are labelled.
"""

from __future__ import annotations

import time

import numpy as np
from numpy.typing import NDArray

from segops.annotate.core_set import choose

COUNTS = (1_000, 10_000)
CHOSEN, LABELLED, WIDTH = 50, 500, 2_048


def vectors(count: int, seed: int) -> NDArray[np.float32]:
    """Random vectors of length 1, float32 (count, `WIDTH`)."""
    made = np.random.default_rng(seed).normal(size=(count, WIDTH)).astype(np.float32)
    scaled: NDArray[np.float32] = made / np.linalg.norm(made, axis=1, keepdims=True)
    return scaled


def main() -> None:
    """Measure and print."""
    labelled = vectors(LABELLED, 1)
    for count in COUNTS:
        features = vectors(count, 2)
        uncertainty = np.random.default_rng(3).random(count)
        start = time.perf_counter()
        choose(features, uncertainty, labelled, CHOSEN)
        print(f"{CHOSEN} of {count} images: {time.perf_counter() - start:.2f} s")


if __name__ == "__main__":
    main()
