"""Unpack the wanted files of a tar archive whose digest was checked."""

from __future__ import annotations

import tarfile
import zlib
from collections.abc import Callable
from pathlib import Path, PurePosixPath

from segops.progress import Progress
from segops.runtime.errors import SegopsError
from segops.voc.download import GIB


def unpack(
    archive: Path, into: Path, wanted: Callable[[str], bool], limit: int = 8 * GIB
) -> set[str]:
    """Unpack the wanted regular files of a ``.tar`` or ``.tgz``; return their paths in the archive.

    Every member, wanted or not, passes the data filter of :mod:`tarfile`, which refuses paths and
    links that lead outside and devices. No link is created. Files lose owner, special bits and
    write permission for others.

    Args:
        archive: The archive.
        into: Existing temporary directory; after an error it holds the files unpacked so far.
        wanted: Whether to unpack a member, by its path
            ("VOCdevkit/VOC2012/JPEGImages/2007_000027.jpg").
        limit: Most bytes that all members together may have.

    Raises:
        SegopsError: A member is refused (the message names it), the archive is truncated or no
            archive, or the disk refuses.
    """
    unpacked: dict[str, str] = {}
    total = 0
    name = "(start)"
    mode = "r:gz" if archive.suffix in (".tgz", ".gz") else "r:"
    label, size = f"unpacking {archive.name}", archive.stat().st_size
    try:
        with (
            archive.open("rb") as raw,
            tarfile.open(fileobj=raw, mode=mode) as tar,  # type: ignore[call-overload]
            Progress(label, size, in_bytes=True) as progress,
        ):
            for member in tar:
                progress.reach(raw.tell())
                name, path = member.name, str(PurePosixPath(member.name))
                total += member.size
                tarfile.data_filter(member, str(into))
                if total > limit:
                    raise tarfile.FilterError(f"the archive unpacks to more than {limit} bytes")
                if not wanted(path):
                    continue
                if not member.isreg():
                    raise tarfile.FilterError("expected a regular file")
                # File systems that ignore case would let the later file overwrite the earlier.
                if path.casefold() in unpacked:
                    raise tarfile.FilterError("the archive holds it twice")
                tar.extract(member, into, filter="data")
                unpacked[path.casefold()] = path
    except tarfile.FilterError as error:
        raise SegopsError(
            f"{archive}: refused at member {name!r}: {error}. Nothing of it was put in place. "
            "Delete the archive and get it from a source that you trust."
        ) from None
    except (tarfile.TarError, EOFError, OSError, zlib.error, ValueError) as error:
        raise SegopsError(
            f"{archive}: not unpacked: {error} (at member {name!r}). Nothing of it was put in "
            "place. If the archive is damaged, delete it and have it downloaded anew."
        ) from None
    return set(unpacked.values())
