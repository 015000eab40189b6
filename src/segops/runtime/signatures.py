"""Recognises image formats by a file's first bytes, without trying decoders."""

from __future__ import annotations

import re

LENGTH = 512
"""Number of bytes that suffice to recognise a format."""

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
"""Patterns of the formats that segops decodes, by Pillow's names."""


def image_format(start: bytes) -> str | None:
    """Pillow's name of a file's format by its first `LENGTH` bytes; None for other formats."""
    for name, pattern in _IMAGES.items():
        if re.match(pattern, start, re.DOTALL):
            return name
    return None
