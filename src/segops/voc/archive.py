"""Unpack the wanted files of a tar archive that nobody has reason to trust."""

from __future__ import annotations

import gzip
import posixpath
import tarfile
import zlib
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path, PurePosixPath
from typing import IO, cast

from segops.runtime.errors import SegopsError
from segops.voc.download import BLOCK, GIB, ByteProgress

MEMBERS_LIMIT = 1_000_000
"""VOC2012 holds about 60,000; far more are no data set but an attack on memory."""


def unpack(
    archive: Path, into: Path, wanted: Callable[[str], bool], limit: int = 8 * GIB
) -> set[str]:
    """Unpack the wanted regular files of a ``.tar`` or ``.tgz``.

    Every member is checked, wanted or not, and a hostile one stops the work: a path or a link that
    leads outside, a device, a total size beyond `limit`. No link is ever created. Files lose owner,
    special bits and write permission for others (``filter="data"`` of :mod:`tarfile`).

    Args:
        archive: The archive.
        into: Existing directory to unpack into. On an error what was unpacked so far stays in it:
            give a temporary directory.
        wanted: Says of a member's path ("VOCdevkit/VOC2012/JPEGImages/2007_000027.jpg") whether it
            is unpacked.
        limit: Most bytes that all members together may have.

    Returns:
        Paths of the files unpacked, as in the archive, relative to `into`.

    Raises:
        SegopsError: The archive is hostile (the member is named), truncated or no archive, or the
            disk refuses.
    """
    unpacked: set[str] = set()
    seen: set[str] = set()
    total = 0
    name = "(start)"
    try:
        with _open(archive, limit) as tar:
            for number, member in enumerate(tar, 1):
                name = member.name
                total += member.size
                path = str(PurePosixPath(name))
                refusal = _refusal(member, wanted(path))
                if total > limit or number > MEMBERS_LIMIT:
                    refusal = f"the archive grows beyond {limit} bytes or {MEMBERS_LIMIT} members"
                if refusal:
                    raise SegopsError(
                        f"{archive}: refused at member {name!r}: {refusal}. Nothing of it was put "
                        "in place. Delete the archive and get it from a source that you trust."
                    )
                if not member.isreg() or not wanted(path):
                    continue
                # File systems that ignore case would let the later one overwrite the earlier.
                if path.casefold() in seen:
                    raise SegopsError(
                        f"{archive}: refused at member {name!r}: the archive holds it twice. "
                        "Nothing of it was put in place. Delete the archive and get it from a "
                        "source that you trust."
                    )
                seen.add(path.casefold())
                tar.extract(member, into, filter="data")
                unpacked.add(path)
    except (tarfile.TarError, EOFError, OSError, zlib.error, ValueError) as error:
        raise SegopsError(
            f"{archive}: not unpacked: {error} (at member {name!r}). Nothing of it was put in "
            "place. If the archive is damaged, delete it and have it downloaded anew."
        ) from None
    return unpacked


def _refusal(member: tarfile.TarInfo, wanted: bool) -> str | None:
    """Why a member is hostile; None where it is not."""
    if _outside(member.name):
        return "its path leads outside"
    if member.isdev():
        return "a device or a pipe has no place in a data set"
    if member.issym() or member.islnk():
        # A symbolic link starts at its own directory, a hard link at the archive's root.
        start = posixpath.dirname(member.name) if member.issym() else ""
        if _outside(posixpath.normpath(posixpath.join(start, member.linkname))):
            return f"a link that leads outside, to {member.linkname!r}"
        return f"a link, to {member.linkname!r}, where a file was expected" if wanted else None
    if not (member.isreg() or member.isdir()):
        return f"of an unknown type {member.type!r}"
    if member.isdir() and wanted:
        return "a directory where a file was expected"
    return None


def _outside(name: str) -> bool:
    return name.startswith("/") or "\\" in name or name[1:2] == ":" or ".." in name.split("/")


class _Guarded:
    """A file that hands out no more than `limit` bytes, and none of them in one great piece.

    Member sizes are checked by the caller; this bounds what :mod:`tarfile` reads by itself, such
    as an extended header that claims gigabytes.
    """

    def __init__(self, file: IO[bytes], raw: IO[bytes], limit: int, progress: ByteProgress) -> None:
        self.file, self.raw, self.limit, self.progress = file, raw, limit, progress

    def read(self, size: int = -1) -> bytes:
        if not 0 <= size <= BLOCK:
            raise tarfile.ReadError(f"a header of {size} bytes")
        content = self.file.read(size)
        self.progress.reach(self.raw.tell())
        if self.file.tell() > self.limit:
            raise tarfile.ReadError(f"it unpacks to more than {self.limit} bytes")
        return content

    def seek(self, offset: int, whence: int = 0) -> int:
        return self.file.seek(offset, whence)

    def tell(self) -> int:
        return self.file.tell()


@contextmanager
def _open(archive: Path, limit: int) -> Iterator[tarfile.TarFile]:
    # Each member costs a header and padding beside its content.
    limit += MEMBERS_LIMIT * 3 * tarfile.BLOCKSIZE
    with ExitStack() as stack:
        raw = stack.enter_context(archive.open("rb"))
        size = archive.stat().st_size
        progress = stack.enter_context(ByteProgress(f"unpacking {archive.name}", total=size))
        compressed = raw.read(2) == b"\x1f\x8b"
        raw.seek(0)
        file: IO[bytes] = raw
        if compressed:
            file = cast(IO[bytes], stack.enter_context(gzip.open(raw, "rb")))
        guarded = cast(IO[bytes], _Guarded(file, raw, limit, progress))
        yield stack.enter_context(tarfile.open(fileobj=guarded, mode="r:"))
