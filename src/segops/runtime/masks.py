"""Reads masks as class ids from PNGs of any mode, and writes them in VOC's form."""

from __future__ import annotations

from io import BytesIO
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image, TiffImagePlugin

from .classes import palette
from .errors import SegopsError
from .images import AS_SHIPPED, Photographs, load_mask, read_content
from .png import BIT_DEPTH

_PALETTE = palette()


def decode_mask(content: bytes, name: str, reading: Photographs = AS_SHIPPED) -> NDArray[np.uint8]:
    """Decode a mask.

    The stored values of palette (P) and greyscale (L) masks are the ids, whatever their colours.
    RGB masks, and RGBA masks that are opaque everywhere, are decoded by the exact VOC colours.
    Messages call the file `name`.

    Returns:
        uint8 array of shape (H, W) of ids in 0..255, contiguous and writable; 255 is void.

    Raises:
        SegopsError: The content is no PNG, is corrupt or truncated, has another mode, or holds a
            colour that is not in the VOC palette or a pixel that is not opaque.
    """
    return ids_of(load_mask(content, name, reading), content, name)


def ids_of(image: Image.Image, content: bytes, name: str) -> NDArray[np.uint8]:
    """The ids of a mask that :func:`.images.load_mask` decoded; see :func:`decode_mask`."""
    depth = content[BIT_DEPTH]
    if depth == 16 or image.mode not in ("P", "L", "RGB", "RGBA"):
        raise SegopsError(
            f"{name}: mask of mode {image.mode} with {depth} bits a channel; expected P or L with "
            "class ids as pixel values, or RGB in the VOC palette, of 8 bits at most. "
            "Save the ids as a palette PNG."
        )
    if image.mode in ("P", "L"):
        return stored_values(image, content)
    return _decode_colours(np.asarray(image), name)


def stored_values(image: Image.Image, content: bytes) -> NDArray[np.uint8]:
    """The stored values of an image of one channel: Pillow scales 2 and 4 bits of grey to 0..255.

    Args:
        image: The decoded image, of mode 1, L or P.
        content: The bytes that it was decoded from.

    Returns:
        uint8 array of shape (H, W), contiguous and writable; 0 and 1 for mode 1.
    """
    if image.mode != "L":
        return np.array(image, np.uint8)
    depth = 8
    if image.format == "PNG":
        depth = content[BIT_DEPTH]
    elif isinstance(image, TiffImagePlugin.TiffImageFile):
        depth = image.tag_v2[TiffImagePlugin.BITSPERSAMPLE][0]
    return np.array(image) // np.uint8(255 // ((1 << depth) - 1))


def read_mask(path: Path, reading: Photographs = AS_SHIPPED) -> NDArray[np.uint8]:
    """Read a mask; see :func:`segops.runtime.images.read_content` and :func:`decode_mask`."""
    return decode_mask(read_content(path), str(path), reading)


def encode_mask(mask: NDArray[np.uint8], colors: NDArray[np.uint8] = _PALETTE) -> bytes:
    """Encode a mask, uint8 (H, W), in VOC's form: a PNG of mode P.

    `colors` are the palette, uint8 (256, 3), RGB: VOC's, or a :meth:`Classes.palette`.

    Raises:
        ValueError: `mask` has another dtype or shape, or no pixels.
    """
    if mask.dtype != np.uint8 or mask.ndim != 2 or mask.size == 0:
        raise ValueError(f"expected a uint8 mask (H, W), got {mask.dtype} {mask.shape}")
    image = Image.fromarray(mask)
    image.putpalette(colors.tobytes())
    buffer = BytesIO()
    image.save(buffer, "PNG", optimize=True)
    return buffer.getvalue()


def write_mask(path: Path, mask: NDArray[np.uint8]) -> None:
    """Write a mask as :func:`encode_mask` encodes it, with its errors."""
    path.write_bytes(encode_mask(mask))


def _inverse_tables() -> NDArray[np.uint8]:
    """The bits of the id that each channel's value encodes; uint8 array of shape (3, 256)."""
    # The palette encodes every bit of an id in one channel, so three look-ups give the id.
    tables = np.zeros((3, 256), dtype=np.uint8)
    for index in range(8):
        channel = int(_PALETTE[1 << index].argmax())
        bit = int(_PALETTE[1 << index, channel])
        tables[channel, (np.arange(256) & bit) > 0] |= 1 << index
    return tables


_IDS_BY_CHANNEL = _inverse_tables()


def _decode_colours(pixels: NDArray[np.uint8], name: str) -> NDArray[np.uint8]:
    """Ids of the VOC colours in `pixels` (H, W, 3 or 4)."""
    if pixels.shape[2] == 4 and (pixels[..., 3] != 255).any():
        y, x = np.argwhere(pixels[..., 3] != 255)[0]
        raise SegopsError(
            f"{name}: alpha {pixels[y, x, 3]} at x={x}, y={y}; an RGBA mask must be opaque "
            "(alpha 255) everywhere. Save the ids as a palette PNG."
        )
    colours = pixels[..., :3]
    red, green, blue = (_IDS_BY_CHANNEL[index][colours[..., index]] for index in range(3))
    ids: NDArray[np.uint8] = red | green | blue
    wrong = (_PALETTE[ids] != colours).any(axis=2)
    if wrong.any():
        y, x = np.argwhere(wrong)[0]
        red_green_blue = tuple(int(value) for value in colours[y, x])
        raise SegopsError(
            f"{name}: colour {red_green_blue} at x={x}, y={y} is not in the VOC palette "
            f"({int(wrong.sum())} pixel(s) with such colours). Give the mask exact VOC colours, "
            "or save the ids as a palette PNG."
        )
    return ids
