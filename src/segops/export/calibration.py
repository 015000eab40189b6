"""Chooses the images on which INT8 is calibrated."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from segops import paths
from segops.data.store import PackedStore
from segops.voc.layout import TRAIN


def of_workspace(root: Path, count: int) -> tuple[tuple[str, ...], Iterator[NDArray[np.uint8]]]:
    """The ids of :func:`chosen` of a workspace's packed data, and these images, uint8 (H, W, B)."""
    store = PackedStore(root / paths.PACKED)
    ids = chosen(store, count)
    return ids, (store.image(one) for one in ids)


def chosen(store: PackedStore, count: int) -> tuple[str, ...]:
    """The ids of at most `count` images of train, those of the smallest hashes, in that order.

    So the choice depends on the ids alone, and a further image moves at most one of the others.
    """
    return tuple(sorted(store.ids(TRAIN), key=_rank)[:count])


def _rank(image_id: str) -> str:
    return hashlib.sha256(f"calibration\t{image_id}".encode()).hexdigest()
