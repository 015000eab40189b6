"""Pixels out of Pillow's memory are those that Pillow copies."""

from __future__ import annotations

import numpy as np
import pytest
from PIL import Image

from segops.runtime import rgb
from segops.voc.pixels import rgb_strips


@pytest.mark.parametrize("mode", ["RGB", "L", "P", "RGBA", "LA", "CMYK", "1"])
@pytest.mark.parametrize("strip", [70, 1 << 22])
def test_strips_are_those_of_pillow(mode: str, strip: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(rgb, "_STRIP", strip)
    pixels = np.random.default_rng(0).integers(0, 256, (37, 23, 3)).astype(np.uint8)
    image = Image.fromarray(pixels).convert(mode)
    found, expected = (list(one(image)) for one in (rgb_strips, rgb.rgb_strips))
    assert len(found) == (1 if strip > 1000 else 13)
    for one, other in zip(found, expected, strict=True):
        np.testing.assert_array_equal(one, other)
        assert one.flags.c_contiguous


@pytest.mark.filterwarnings("error")
def test_memory_in_several_pieces_is_read_too() -> None:
    before = Image.core.get_block_size()
    pixels = np.random.default_rng(0).integers(0, 256, (300, 40, 3)).astype(np.uint8)
    Image.core.set_block_size(4096)
    try:
        image = Image.fromarray(pixels)
        with pytest.raises(ValueError, match=r"contiguous|blocks"):
            image.__arrow_c_array__()
        np.testing.assert_array_equal(np.concatenate([*rgb_strips(image)]), pixels)
    finally:
        Image.core.set_block_size(before)
