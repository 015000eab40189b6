"""A backup's file: a tar archive whose first member lists the SHA-256 of every other one.

It is not compressed: weights and photographs hardly get smaller, and what is not compressed cannot
unpack to more than the file holds.
"""

from __future__ import annotations

import hashlib
import io
import json
import os
import tarfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path, PurePosixPath
from typing import IO, Annotated

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from segops import files
from segops.progress import track
from segops.runtime.errors import SegopsError

MANIFEST = "manifest.json"
FORMAT = 2
"""The second may hold files of projects."""
LARGEST_MANIFEST = 256 * 2**20
"""In bytes."""
CHUNK = 2**20


class Member(BaseModel):
    """What the manifest says of a file: its SHA-256 in hexadecimal, its size in bytes."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    sha256: Annotated[str, Field(pattern="^[0-9a-f]{64}$")]
    bytes: Annotated[int, Field(ge=0)]


class Manifest(BaseModel):
    """What a backup holds.

    Attributes:
        format: Version of this form.
        segops: Version of the segops that wrote it.
        created: When, UTC, ISO 8601.
        home: The main checkout that it was made of: the database names it.
        versions: Registered model -> the versions whose artifacts are in it.
        files: Path below the main checkout -> file.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    format: int
    segops: str
    created: str
    home: str
    versions: dict[str, tuple[str, ...]]
    files: dict[str, Member]


def write(target: Path, manifest: Manifest, sources: Mapping[str, Path]) -> str:
    """Write a backup, whole or not at all, and read it again.

    Args:
        target: The file; one that is there is replaced.
        manifest: Its manifest, without files.
        sources: Path below the main checkout -> the file to read.

    Returns:
        SHA-256 of the manifest, in hexadecimal.

    Raises:
        SegopsError: A file changed meanwhile, or the disk did not keep what was written.
        OSError: The disk is full, or a file cannot be read.
    """
    listed = {}
    for name, path in track(sources.items(), "Hashing", len(sources)):
        try:
            listed[name] = Member(sha256=files.sha256_file(path), bytes=path.stat().st_size)
        except FileNotFoundError:
            raise _changed(path) from None
    content = files.json_text(
        manifest.model_copy(update={"files": listed}).model_dump(mode="json")
    ).encode()
    with files.atomic_path(target) as temporary:
        with tarfile.open(temporary, "w", format=tarfile.PAX_FORMAT) as tar:
            tar.addfile(_info(MANIFEST, len(content)), io.BytesIO(content))
            for name, path in track(sources.items(), "Copying", len(sources)):
                _add(tar, name, path, listed[name])
        with opened(temporary) as archive:
            archive.verify()
    return files.sha256_bytes(content)


def _add(tar: tarfile.TarFile, name: str, path: Path, member: Member) -> None:
    """Copy a file into the archive.

    Raises:
        SegopsError: It is another one than was listed.
    """
    try:
        with path.open("rb") as file:
            source = _Hashing(file)
            with suppress(EOFError):
                tar.addfile(_info(name, member.bytes), source)  # type: ignore[arg-type]
    except FileNotFoundError:
        raise _changed(path) from None
    if source.digest.hexdigest() != member.sha256:
        raise _changed(path)


class _Hashing:
    """A file that is hashed while it is read."""

    def __init__(self, file: IO[bytes]) -> None:
        self.digest, self._file = hashlib.sha256(), file

    def read(self, size: int) -> bytes:
        content = self._file.read(size)
        self.digest.update(content)
        if len(content) < size:
            raise EOFError
        return content


def _changed(path: Path) -> SegopsError:
    return SegopsError(
        f"{path}: another process changed or removed it while the backup was written. Nothing was "
        "written, and a backup of this name stays as it was. Run `segops backup` again."
    )


def _info(name: str, size: int) -> tarfile.TarInfo:
    info = tarfile.TarInfo(name)
    info.size, info.mode = size, 0o644
    return info


class Archive:
    """A backup that is open for reading.

    Attributes:
        name: Its file, for messages.
        manifest: Its manifest.
        sha256: SHA-256 of the manifest, in hexadecimal.
    """

    def __init__(self, name: Path, tar: tarfile.TarFile) -> None:
        self.name, self._tar = name, tar
        first = tar.next()
        if first is None or first.name != MANIFEST or not first.isreg():
            raise self.damaged(f"its first member is not {MANIFEST}")
        if first.size > LARGEST_MANIFEST:
            raise self.damaged(f"{MANIFEST} has {first.size} bytes")
        content = self._open(first).read()
        self.sha256 = files.sha256_bytes(content)
        self.manifest = self._manifest(content)

    def verify(self) -> None:
        """Compare every member with the manifest, before anything is written.

        Raises:
            SegopsError: A member is missing, was changed, is not listed or is no ordinary file.
        """
        for _ in track(self._members(None), "Checking", len(self.manifest.files)):
            pass

    def extract(self, directory: Path) -> None:
        """Write the members below a directory, each checked again.

        Raises:
            SegopsError: As :meth:`verify`.
            OSError: The disk is full.
        """
        for _ in track(self._members(directory), "Restoring", len(self.manifest.files)):
            pass

    def damaged(self, what: str) -> SegopsError:
        """Return the error for a backup that is not as segops wrote it."""
        return SegopsError(
            f"{self.name}: no backup that can be used: {what}. Nothing was restored. Expected a "
            "file that `segops backup` wrote; take another copy of it."
        )

    def _manifest(self, content: bytes) -> Manifest:
        try:
            written = json.loads(content).get("format")
            if isinstance(written, int) and written > FORMAT:
                raise SegopsError(
                    f"{self.name}: a later segops wrote this backup. Update segops, then restore."
                )
            return Manifest.model_validate_json(content)
        except (ValidationError, ValueError, AttributeError, RecursionError):
            raise self.damaged(f"{MANIFEST} is of another form") from None

    def _members(self, directory: Path | None) -> Iterator[str]:
        """Check each member, write it below the directory where one is given; yield its name."""
        missing = set(self.manifest.files)
        for number, member in enumerate(self._tar):
            if number == 0:
                continue
            listed = self.manifest.files.get(member.name)
            if listed is None or member.name not in missing:
                raise self.damaged(f"member {member.name!r} is not listed, or is there twice")
            missing.remove(member.name)
            try:
                is_same = tarfile.data_filter(member, "/nowhere").name == member.name
            except tarfile.FilterError as error:
                raise self.damaged(str(error)) from None
            if not is_same or not _is_plain(member.name):
                raise self.damaged(f"member {member.name!r} leads out of the checkout")
            if not member.isreg() or member.issparse() or member.size != listed.bytes:
                raise self.damaged(f"member {member.name!r} is no file of {listed.bytes} bytes")
            digest = hashlib.sha256()
            if directory is None:
                self._copy(member, digest, None)
            else:
                target = directory / member.name
                target.parent.mkdir(parents=True, exist_ok=True)
                with target.open("xb") as file:
                    self._copy(member, digest, file)
                    file.flush()
                    os.fsync(file.fileno())
            if digest.hexdigest() != listed.sha256:
                raise self.damaged(f"member {member.name!r} was changed")
            yield member.name
        if missing:
            raise self.damaged(f"{len(missing)} files are missing, such as {min(missing)!r}")

    def _copy(
        self, member: tarfile.TarInfo, digest: hashlib._Hash, target: IO[bytes] | None
    ) -> None:
        source = self._open(member)
        while chunk := source.read(CHUNK):
            digest.update(chunk)
            if target is not None:
                target.write(chunk)

    def _open(self, member: tarfile.TarInfo) -> IO[bytes]:
        source = self._tar.extractfile(member)
        if source is None:
            raise self.damaged(f"member {member.name!r} is no file")
        return source


def _is_plain(name: str) -> bool:
    """Whether a name is that of a file below a directory, in its only spelling."""
    path = PurePosixPath(name)
    return not path.is_absolute() and ".." not in path.parts and str(path) == name


@contextmanager
def opened(file: Path) -> Iterator[Archive]:
    """Open a backup.

    Raises:
        SegopsError: There is no such file, or it is no backup.
    """
    try:
        with tarfile.open(file, "r:") as tar:
            yield Archive(file, tar)
    except FileNotFoundError as error:
        if error.filename != str(file):
            raise
        raise SegopsError(f"{file}: no such file. `segops backup FILE` writes one.") from None
    except (tarfile.TarError, EOFError, UnicodeError) as error:
        raise SegopsError(
            f"{file}: no backup that can be used: {error}. Nothing was restored. Expected a file "
            "that `segops backup` wrote; take another copy of it."
        ) from None
