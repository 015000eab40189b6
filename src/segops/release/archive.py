"""The archive of a statement: a ZIP file whose every byte is determined by its members.

Members are stored, not compressed: what a compressor writes depends on its version, and what is
not compressed cannot unpack to more than the file holds.
"""

from __future__ import annotations

import io
import struct
import zipfile
import zlib
from collections.abc import Mapping

LARGEST = 256 * 2**20
"""Largest archive that is opened, in bytes."""
_LOCAL = struct.Struct("<4s5H3L2H")
"""A local file header: signature, 5 fields, CRC-32, two sizes, lengths of name and extra field."""


class ArchiveError(ValueError):
    """A part of an archive is not as it was written; the message names it."""


def write(members: Mapping[str, bytes]) -> bytes:
    """Return the archive of some members; the same members give the same bytes.

    Args:
        members: Name in ASCII -> content, in the order of the archive.
    """
    content = io.BytesIO()
    with zipfile.ZipFile(content, "w", zipfile.ZIP_STORED) as archive:
        for name, member in members.items():
            info = zipfile.ZipInfo(name, date_time=(1980, 1, 1, 0, 0, 0))
            info.create_system, info.external_attr = 3, 0o644 << 16
            archive.writestr(info, member)
    return content.getvalue()


def read(content: bytes) -> dict[str, bytes]:
    """Return the members of an archive by name.

    Raises:
        ArchiveError: It is no archive of :func:`write`, or a byte of it was changed.
    """
    try:
        with zipfile.ZipFile(io.BytesIO(content)) as archive:
            entries = archive.infolist()
    except (zipfile.BadZipFile, NotImplementedError, ValueError, struct.error, OSError) as error:
        raise ArchiveError(f"it is no archive, or its table was damaged ({error})") from None
    if any(entry.compress_type != zipfile.ZIP_STORED for entry in entries):
        raise ArchiveError("the archive is compressed, and segops stores its members as they are")
    members = {entry.filename: _member(content, entry) for entry in entries}
    if len(members) != len(entries) or write(members) != content:
        raise ArchiveError("the archive around its members was changed")
    return members


def _member(content: bytes, entry: zipfile.ZipInfo) -> bytes:
    """Return a member; tell a change of it from a change of what the archive says about it."""
    start = entry.header_offset + _LOCAL.size
    try:
        header = _LOCAL.unpack(content[entry.header_offset : start])
    except struct.error:
        raise ArchiveError("the archive around its members was changed") from None
    checksum, sizes, lengths = header[6], header[7:9], header[9:]
    member = content[start + lengths[0] : start + lengths[0] + entry.file_size]
    fits = zlib.crc32(member) in (checksum, entry.CRC)
    if not fits and sizes == (entry.file_size,) * 2 and lengths == (len(entry.filename), 0):
        raise ArchiveError(f"{entry.filename} was changed")
    if not fits:
        raise ArchiveError("the archive around its members was changed")
    return member
