"""Counting ids, against numpy."""

from __future__ import annotations

import numpy as np
import pytest

from segops.voc.histogram import count_ids


# Odd, and given as numbers: float32 holds none of these but the first, however masks are cut.
@pytest.mark.parametrize("pixels", [2**24, 2**24 + 1, 17_000_001, 2**25 + 3])
def test_counts_are_exact_where_float32_is_not(pixels: int) -> None:
    first, second = np.full(pixels, 3, np.uint8), np.full(pixels, 255, np.uint8)
    alone, together = count_ids(first), count_ids(first, second)
    assert alone.dtype == together.dtype == np.int64
    assert (alone[3], alone.sum()) == (pixels, pixels)
    assert (together[3, 255], together.sum()) == (pixels, pixels)


@pytest.mark.parametrize("run", [1, 15, 40])
@pytest.mark.parametrize("shape", [(37, 53), (4099, 4111), (0, 7), (1, 1)])
def test_every_pair_of_ids_is_counted(shape: tuple[int, int], run: int) -> None:
    random = np.random.default_rng(4)
    short = shape[0], -(-shape[1] // run)
    drawn = random.integers(0, 256, (2, *short), dtype=np.uint8).repeat(run, axis=2)
    first, second = drawn[..., : shape[1]]
    pairs = first.reshape(-1) * np.intp(256) + second.reshape(-1)
    expected = np.bincount(pairs, minlength=256**2).reshape(256, 256)
    np.testing.assert_array_equal(count_ids(first, second), expected)
    np.testing.assert_array_equal(count_ids(second), expected.sum(axis=0))
