"""Labels are of their photograph's size, and are counted without sorting all pixels."""

from __future__ import annotations

from io import BytesIO
from zlib import crc32

import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image

from segops.importers.source import indexed, load_labels
from segops.runtime.errors import SegopsError
from segops.runtime.images import MASK_FORMATS


def png(width: int, height: int) -> bytes:
    buffer = BytesIO()
    Image.new("L", (width, height), 3).save(buffer, "PNG")
    return buffer.getvalue()


@pytest.mark.parametrize("part", [False, True])
def test_the_header_alone_tells_of_another_size(part: bool) -> None:
    content = bytearray(png(40, 30))
    content[16:24] = (13_000).to_bytes(4, "big") * 2  # the pixels are not there
    content[29:33] = crc32(content[12:29]).to_bytes(4, "big")
    with pytest.raises(SegopsError, match=r"^m: 13000 x 13000 pixels, its photograph 40 x 30\.$"):
        load_labels(bytes(content), "m", MASK_FORMATS, (40, 30), part=part)


def test_a_part_may_be_smaller() -> None:
    assert load_labels(png(40, 29), "m", MASK_FORMATS, (40, 30), part=True).size == (40, 29)
    with pytest.raises(SegopsError, match="40 x 29 pixels"):
        load_labels(png(40, 29), "m", MASK_FORMATS, (40, 30))
    assert load_labels(png(40, 29), "m", MASK_FORMATS, (0, 0)).size == (40, 29)
    with pytest.raises(SegopsError, match="not decodable"):
        load_labels(png(40, 30)[:-20], "m", MASK_FORMATS, (40, 30))


@pytest.mark.parametrize(
    "values",
    [
        np.random.default_rng(0).integers(0, 256, (31, 17)).astype(np.uint8),
        np.random.default_rng(0).integers(0, 1 << 24, (31, 17)).astype(np.int32),
        np.zeros((3, 2), np.uint8),
        np.full((1, 1), 255, np.uint8),
    ],
)
def test_each_element_has_the_index_of_its_value(values: NDArray[np.integer]) -> None:
    met, indices = indexed(values)
    expected, inverse = np.unique(values, return_inverse=True)
    assert met == expected.tolist()
    np.testing.assert_array_equal(indices, inverse.reshape(values.shape))
    assert indices.dtype == np.int32
