"""Masks that the tests of the metrics share."""

from __future__ import annotations

import cv2
import numpy as np
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from numpy.typing import NDArray

from segops.runtime.classes import VOID

Mask = NDArray[np.uint8]


@st.composite
def patches(draw: st.DrawFn, classes: int = 4, void: bool = True) -> tuple[Mask, Mask]:
    """Truth and prediction of a few areas each, up to 24x24, some pixels of them speckled."""
    shape = draw(hnp.array_shapes(min_dims=2, max_dims=2, min_side=1, max_side=6))
    scale = draw(st.integers(1, 4))
    ids = st.integers(0, classes - 1)
    true_ids = st.one_of(ids, st.just(VOID)) if void else ids
    masks = []
    for elements in (true_ids, ids):
        small = draw(hnp.arrays(np.uint8, shape, elements=elements))
        masks.append(np.kron(small, np.ones((scale, scale), np.uint8)))
    for mask, elements in zip(masks, (true_ids, ids), strict=True):
        for _ in range(draw(st.integers(0, 3))):
            row = draw(st.integers(0, mask.shape[0] - 1))
            column = draw(st.integers(0, mask.shape[1] - 1))
            mask[row, column] = draw(elements)
    return masks[0], masks[1]


def scene(seed: int, shape: tuple[int, int] = (120, 160), void: int = 3) -> tuple[Mask, Mask]:
    """Two objects with a strip of void around each, and a prediction that is a bit off.

    A margin of a fifth of the image is background in both.
    """
    random = np.random.default_rng(seed)
    truth, prediction = np.zeros(shape, np.uint8), np.zeros(shape, np.uint8)
    height, width = shape
    for label in (1, 2):
        centre = np.array([width * (0.2 + 0.2 * label), height * random.uniform(0.45, 0.55)])
        axes = np.array([width * 0.13, height * random.uniform(0.15, 0.22)])
        for mask, shift in ((truth, 0), (prediction, 3)):
            middle = centre + random.uniform(-shift, shift, 2)
            place, size = middle.astype(int).tolist(), axes.astype(int).tolist()
            cv2.ellipse(mask, place, size, 0, 0, 360, label, -1)
            if mask is truth and void:
                cv2.ellipse(mask, place, size, 0, 0, 360, VOID, void)
    return truth, prediction
