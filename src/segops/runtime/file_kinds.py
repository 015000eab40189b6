"""Names, for messages, of file formats that segops does not decode, and of what is no file."""

from __future__ import annotations

import re
import stat

from .signatures import image_format

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
"""Patterns of formats that are never decoded, by their names."""


def no_file(mode: int) -> str | None:
    """What a path leads to by its ``st_mode``, where that is no file; None for a file."""
    if stat.S_ISREG(mode):
        return None
    kinds = {
        stat.S_IFDIR: "a directory",
        stat.S_IFIFO: "a pipe",
        stat.S_IFSOCK: "a socket",
        stat.S_IFCHR: "a device",
        stat.S_IFBLK: "a device",
    }
    return kinds.get(stat.S_IFMT(mode), "something else")


def describe(start: bytes) -> str:
    """The name of a file's format by its first `LENGTH` bytes, for a message."""
    if not start:
        return "an empty file"
    name = image_format(start)
    if name is not None:
        return f"{'an' if name == 'AVIF' else 'a'} {name} file"
    for words, pattern in _OTHERS.items():
        if re.match(pattern, start, re.DOTALL):
            return words
    return "not an image file"
