"""What a file is by its first bytes, so that no decoder is tried to find out."""

from __future__ import annotations

import re

LENGTH = 512
"""First bytes of a file that suffice to tell what it is."""

_IMAGES = {
    "JPEG": rb"\xff\xd8\xff",
    "PNG": rb"\x89PNG\r\n\x1a\n",
    "BMP": rb"BM",
    "GIF": rb"GIF8[79]a",
    "PPM": rb"P[1-6]",
    "TIFF": rb"II[*+]\0|MM\0[*+]",
    "WEBP": rb"RIFF.{4}WEBP",
    "JPEG2000": rb"\xff\x4f\xff\x51|\0\0\0\x0cjP  \r\n\x87\n",
    "AVIF": rb".{4}ftyp(avif|avis|mif1|msf1)",
}
"""The formats that are decoded somewhere, by the names that Pillow gives them."""


def image_format(start: bytes) -> str | None:
    """Pillow's name of the format that a file's first `LENGTH` bytes are of; None: of no known."""
    for name, pattern in _IMAGES.items():
        if re.match(pattern, start, re.DOTALL):
            return name
    return None
