"""Download an archive over HTTP: resumed where it broke, checked against its published digest."""

from __future__ import annotations

import hashlib
import logging
import os
import re
import shutil
import sys
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx
from tqdm import tqdm

from segops.files import exclusive, read_json, write_json
from segops.progress import SECONDS_BETWEEN_LINES
from segops.runtime.errors import SegopsError

BLOCK = 1 << 20
LONGEST_WAIT = 30.0
TIMEOUT = 30.0
GIB = 1 << 30
log = logging.getLogger("segops")


@dataclass(frozen=True)
class Archive:
    """An archive as its publisher describes it.

    Attributes:
        url: The official address; its last part is the file's name.
        md5: The published MD5 digest, in hexadecimal.
        base: Directory inside the archive that holds the data set.
        unpacked_limit: Bytes that it may unpack to; more is taken for an attack.
    """

    url: str
    md5: str
    base: str
    unpacked_limit: int = 8 * GIB

    @property
    def filename(self) -> str:
        """Name of the archive's file."""
        return self.url.rpartition("/")[2]

    def address(self, mirror: str | None = None) -> str:
        """Where to get it: the official address, or the same file in the directory `mirror`.

        Raises:
            SegopsError: `mirror` is no HTTP address.
        """
        if mirror is None:
            return self.url
        if not mirror.startswith(("http://", "https://")):
            raise SegopsError(
                f"--mirror {mirror}: expected the http:// or https:// address of the directory "
                f"that holds {self.filename}."
            )
        return f"{mirror.rstrip('/')}/{self.filename}"


class ByteProgress:
    """How many bytes are done: a bar in a terminal, elsewhere a line now and then."""

    def __init__(self, label: str, done: int = 0, total: int | None = None) -> None:
        """Start at `done` of `total` bytes (None: not known)."""
        self.label, self.done, self.total = label, done, total
        self.last = time.monotonic()
        self.bar: Any = None
        if sys.stderr.isatty():
            self.bar = tqdm(
                desc=label, initial=done, total=total, unit="B", unit_scale=True, leave=False
            )

    def __enter__(self) -> ByteProgress:
        """Return the progress itself."""
        return self

    def __exit__(self, *error: object) -> None:
        """Take the bar away."""
        if self.bar is not None:
            self.bar.close()

    def reach(self, done: int) -> None:
        """Say that `done` bytes are done by now."""
        if self.bar is not None:
            self.bar.update(done - self.done)
        elif time.monotonic() - self.last >= SECONDS_BETWEEN_LINES:
            self.last = time.monotonic()
            total = "?" if self.total is None else f"{self.total / 1e6:.1f}"
            log.info("%s: %.1f of %s MB", self.label, done / 1e6, total)
        self.done = done


def md5_file(path: Path) -> str:
    """MD5 of a file's content, in hexadecimal: the digest that the publishers give."""
    digest = hashlib.md5(usedforsecurity=False)
    with path.open("rb") as file:
        size = os.fstat(file.fileno()).st_size
        with ByteProgress(f"checking {path.name}", total=size) as progress:
            while block := file.read(BLOCK):
                digest.update(block)
                progress.reach(file.tell())
    return digest.hexdigest()


def download(
    archive: Archive,
    downloads: Path,
    mirror: str | None = None,
    attempts: int = 5,
    delay: float = 1.0,
) -> Path:
    """Bring an archive into `downloads` and check its digest.

    A file that is already there with the right digest is taken as it is. A broken download stays
    as ``NAME.part`` and goes on from its last byte, in this call or in a later one.

    Args:
        archive: What to get.
        downloads: Directory to put it into; made where missing.
        mirror: Address of a directory that holds the same file, instead of the official one.
        attempts: Lost connections in a row, with nothing gained, before giving up.
        delay: Seconds before the second attempt; doubled from one to the next.

    Returns:
        Path of the archive.

    Raises:
        SegopsError: The server refuses, the connection stays lost, the digest is wrong, the disk
            is too full, or another process is downloading the same file.
    """
    target = downloads / archive.filename
    url = archive.address(mirror)
    with exclusive(downloads / f"{archive.filename}.lock", f"a download of {archive.filename}"):
        if target.exists():
            found = md5_file(target)
            if found != archive.md5:
                # It may have been put there by hand, so it is not ours to delete.
                raise SegopsError(
                    f"{target}: not the published file: expected MD5 {archive.md5}, found {found}. "
                    "Delete it to have it downloaded anew, or put the right file in its place."
                )
            log.info("%s: already there, checksum right", target)
            return target
        part = _Part(target)
        _receive_all(url, part, target, attempts, delay)
        found = md5_file(part.path)
        if found != archive.md5:
            part.remove()
            raise SegopsError(
                f"{url}: wrong checksum: expected MD5 {archive.md5}, found {found}. The file was "
                "removed. Run the same command again, give another address with --mirror, or put "
                f"the right file by hand at {target}."
            )
        part.path.replace(target)
        part.remove()
    return target


class _Part:
    """What has arrived of a file, and what the server said about it."""

    def __init__(self, target: Path) -> None:
        self.path = target.with_name(f"{target.name}.part")
        self.notes_path = target.with_name(f"{target.name}.part.json")

    @property
    def size(self) -> int:
        return self.path.stat().st_size if self.path.exists() else 0

    def notes(self) -> dict[str, Any]:
        """`url`, `validator` and `total` as the last response gave them."""
        try:
            notes = read_json(self.notes_path)
        except SegopsError:
            return {}  # Only a shortcut is lost: the digest decides in the end.
        return notes if isinstance(notes, dict) else {}

    def remember(self, url: str, validator: str | None, total: int | None) -> None:
        write_json(self.notes_path, {"url": url, "validator": validator, "total": total})

    def complete(self) -> bool:
        return self.size > 0 and self.size == self.notes().get("total")

    def remove(self) -> None:
        self.path.unlink(missing_ok=True)
        self.notes_path.unlink(missing_ok=True)


class _Lost(Exception):
    """The server or the way to it failed in a manner that may pass."""


def _receive_all(url: str, part: _Part, target: Path, attempts: int, delay: float) -> None:
    best, failures = part.size, 0
    by_hand = f"give another address with --mirror, or put the file by hand at {target}"
    with httpx.Client(follow_redirects=True, timeout=TIMEOUT) as client:
        while not part.complete():
            try:
                _receive(client, url, part)
                return
            except (httpx.UnsupportedProtocol, httpx.TooManyRedirects, httpx.InvalidURL) as error:
                raise SegopsError(f"{url}: not usable: {error}. Instead, {by_hand}.") from None
            except httpx.HTTPStatusError as error:
                raise SegopsError(
                    f"{url}: the server answered {error.response.status_code} "
                    f"{error.response.reason_phrase}. Instead, {by_hand}."
                ) from None
            except OSError as error:
                raise SegopsError(
                    f"{part.path}: not written: {error}. {part.size} bytes are kept; mend that "
                    "and run the same command again."
                ) from None
            except (_Lost, httpx.RequestError) as error:
                # A server that ignores ranges and always breaks gains nothing: only bytes that
                # never arrived before count as a gain.
                failures = 1 if part.size > best else failures + 1
                best = max(best, part.size)
                reason = str(error) or type(error).__name__
            if failures >= attempts:
                raise SegopsError(
                    f"{url}: connection lost {failures} times in a row: {reason}. {part.size} "
                    f"bytes are kept in {part.path}. Run the same command again to go on from "
                    f"there, {by_hand}."
                )
            wait = min(delay * 2 ** (failures - 1), LONGEST_WAIT)
            log.warning("%s: %s; trying again in %.0f s", url, reason, wait)
            time.sleep(wait)


def _receive(client: httpx.Client, url: str, part: _Part) -> None:
    have = part.size
    # Compressed transfer would change the bytes that a range counts.
    headers = {"Accept-Encoding": "identity"}
    if have:
        headers["Range"] = f"bytes={have}-"
        notes = part.notes()
        if notes.get("validator") and notes.get("url") == url:
            headers["If-Range"] = notes["validator"]
    with client.stream("GET", url, headers=headers) as response:
        status = response.status_code
        if status == httpx.codes.REQUESTED_RANGE_NOT_SATISFIABLE and have:
            if _content_range(response)[1] == have:
                return
            part.remove()
            raise _Lost("the server's file is shorter than what had arrived; starting over")
        if status in (408, 425, 429) or status >= 500:
            raise _Lost(f"the server answered {status} {response.reason_phrase}")
        if status not in (httpx.codes.OK, httpx.codes.PARTIAL_CONTENT):
            raise httpx.HTTPStatusError("", request=response.request, response=response)
        if status == httpx.codes.PARTIAL_CONTENT:
            start, total = _content_range(response)
            if start != have:
                part.remove()
                raise _Lost(f"the server sent bytes from {start} instead of {have}; starting over")
        else:
            # The whole file: the server knows no ranges, or its file is not the one begun.
            have, total = 0, _content_length(response)
        _check_space(part, have, total)
        part.remember(url, _validator(response), total)
        with (
            part.path.open("ab" if have else "wb") as file,
            ByteProgress(f"downloading {url}", have, total) as progress,
        ):
            # Raw: some servers label a .tgz as compressed transfer, and its bytes must stay.
            # As they come: bytes held back to fill a block would be lost with the connection.
            for block in response.iter_raw():
                file.write(block)
                progress.reach(file.tell())
            file.flush()
            os.fsync(file.fileno())


def _validator(response: httpx.Response) -> str | None:
    """What ``If-Range`` may carry (RFC 9110, 13.1.5): a strong entity tag, else the date."""
    tag: str | None = response.headers.get("ETag")
    if tag and not tag.startswith("W/"):
        return tag
    date: str | None = response.headers.get("Last-Modified")
    return date


def _content_range(response: httpx.Response) -> tuple[int | None, int | None]:
    """First byte and complete length of ``Content-Range`` (RFC 9110, 14.4), None where absent."""
    header = response.headers.get("Content-Range", "")
    found = re.fullmatch(r"bytes (?:(\d+)-\d+|\*)/(?:(\d+)|\*)", header.strip())
    start, total = found.groups() if found else (None, None)
    return (int(start) if start else None, int(total) if total else None)


def _content_length(response: httpx.Response) -> int | None:
    length = response.headers.get("Content-Length", "")
    return int(length) if length.isdecimal() else None


def _check_space(part: _Part, have: int, total: int | None) -> None:
    free = shutil.disk_usage(part.path.parent).free + (part.size - have)
    if total is not None and total - have > free:
        raise SegopsError(
            f"{part.path}: {(total - have) / 1e9:.1f} GB are still to come and {free / 1e9:.1f} GB "
            "are free. Free some space and run the same command again."
        )
