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

_OTHERS = {
    "a PostScript (EPS) file": rb"%!PS|\xc5\xd0\xd3\xc6",
    "a PDF file": rb"%PDF",
    "a Photoshop (PSD) file": rb"8BPS",
    "a FITS file": rb"SIMPLE  =",
    "an HDF5 file": rb"\x89HDF\r\n\x1a\n",
    "a HEIC file": rb".{4}ftyp(hei[cmsx]|hev[cmsx])",
    "a JPEG XL file": rb"\xff\x0a|\0\0\0\x0cJXL ",
    "a BLP file": rb"BLP[12]",
    "a DDS file": rb"DDS ",
    "an ICO file": rb"\0\0\x01\0",
    "an ICNS file": rb"icns",
    "a QOI file": rb"qoif",
    "a WMF or EMF file": rb"\xd7\xcd\xc6\x9a|\x01\0\0\0.{36} EMF",
    "a NumPy file": rb"\x93NUMPY",
    "a ZIP archive": rb"PK\x03\x04",
    "a gzip file": rb"\x1f\x8b",
    "an SVG file": rb"\s*(<\?xml[^>]*>\s*)?(<!--.*?-->\s*)?<svg",
    "an HTML page": rb"(?i:\s*<(!doctype )?html)",
    "a pointer of Git LFS, whose content was not fetched": rb"version https://git-lfs",
}
"""What is never decoded, in words."""


def image_format(start: bytes) -> str | None:
    """Pillow's name of the format that a file's first `LENGTH` bytes are of; None: of no known."""
    for name, pattern in _IMAGES.items():
        if re.match(pattern, start, re.DOTALL):
            return name
    return None


def describe(start: bytes) -> str:
    """What a file is by its first `LENGTH` bytes, in words for a message."""
    if not start:
        return "an empty file"
    name = image_format(start)
    if name is not None:
        return f"{'an' if name == 'AVIF' else 'a'} {name} file"
    for words, pattern in _OTHERS.items():
        if re.match(pattern, start, re.DOTALL):
            return words
    return "not an image file"
