"""Download an archive over HTTP: resumed where it broke, checked against its published digest."""

from __future__ import annotations

import hashlib
import logging
import os
import re
import shutil
import time
from dataclasses import dataclass
from pathlib import Path

import httpx

from segops.files import exclusive
from segops.progress import Progress
from segops.runtime.errors import SegopsError
from segops.words import shown_size

LONGEST_WAIT = 30.0
TIMEOUT = 30.0
GIB = 1 << 30
BUSY = (408, 425, 429)
"""Statuses after which the same request may succeed; so it may after every one from 500 on."""
log = logging.getLogger("segops")


@dataclass(frozen=True)
class Archive:
    """An archive as its publisher describes it.

    Attributes:
        url: The official address; its last part is the file's name.
        md5: The published MD5 digest, in hexadecimal.
        base: Directory inside the archive that holds the data set.
        unpacked_limit: Most bytes that its members may have together.
        limit: Most bytes that the file may have: its size, rounded up.
    """

    url: str
    md5: str
    base: str
    unpacked_limit: int = 8 * GIB
    limit: int = 2 * GIB

    @property
    def filename(self) -> str:
        """Name of the archive's file."""
        return self.url.rpartition("/")[2]

    def address(self, mirror: str | None = None) -> str:
        """The official address, or the address of the same file in the directory `mirror`.

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


def download(
    archive: Archive,
    downloads: Path,
    mirror: str | None = None,
    attempts: int = 5,
    delay: float = 1.0,
) -> Path:
    """Bring an archive into `downloads`, check its digest, and return its path.

    A file that is already there with the right digest is not downloaded again. A broken download
    stays as ``NAME.part`` and goes on from its last byte, in this call or in a later call.

    Args:
        archive: The archive.
        downloads: Directory of the archives; made where missing.
        mirror: Address of a directory that holds the same file, instead of the official one.
        attempts: Lost connections in a row, with nothing gained, before giving up.
        delay: Seconds before the second attempt; doubled for every further attempt.

    Raises:
        SegopsError: The server refuses or sends more than the file holds, the connection stays
            lost, the digest is wrong, the disk is too full, or another process is downloading the
            same file.
    """
    target = downloads / archive.filename
    url = archive.address(mirror)
    with exclusive(downloads / f"{archive.filename}.lock", f"a download of {archive.filename}"):
        if target.exists():
            digest = _md5(target)
            if digest != archive.md5:
                # A person may have put it there, so it is not deleted here.
                raise SegopsError(
                    f"{target}: not the published file: expected MD5 {archive.md5}, found "
                    f"{digest}. Delete it to have it downloaded anew, or put the right file in "
                    "its place."
                )
            log.info("%s: already there, checksum right", target)
            return target
        part = target.with_name(f"{target.name}.part")
        _receive_all(url, part, target, archive.limit, attempts, delay)
        digest = _md5(part)
        if digest != archive.md5:
            part.unlink()
            raise SegopsError(
                f"{url}: wrong checksum: expected MD5 {archive.md5}, found {digest}. The file was "
                "removed. Run the same command again, give another address with --mirror, or put "
                f"the right file by hand at {target}."
            )
        part.replace(target)
    return target


def _md5(path: Path) -> str:
    digest = hashlib.md5(usedforsecurity=False)
    with path.open("rb") as file, Progress("checksum", _size(path), in_bytes=True) as progress:
        while block := file.read(1 << 20):
            digest.update(block)
            progress.reach(file.tell())
    return digest.hexdigest()


class _TooLargeError(Exception):
    """The server sends more than the published file holds."""


class _Lost(Exception):
    """The server does not send the bytes that are missing."""


def _size(path: Path) -> int:
    return path.stat().st_size if path.exists() else 0


def _receive_all(
    url: str, part: Path, target: Path, limit: int, attempts: int, delay: float
) -> None:
    best, failures = _size(part), 0
    by_hand = f"give another address with --mirror, or put the file by hand at {target}"
    with httpx.Client(follow_redirects=True, timeout=TIMEOUT) as client:
        while True:
            try:
                _receive(client, url, part, limit)
                return
            except _TooLargeError:
                part.unlink(missing_ok=True)
                raise SegopsError(
                    f"{url}: more than {limit:,} bytes; the published file has fewer. Nothing is "
                    f"kept. Instead, {by_hand}."
                ) from None
            except (httpx.UnsupportedProtocol, httpx.TooManyRedirects, httpx.InvalidURL) as error:
                raise SegopsError(f"{url}: not usable: {error}. Instead, {by_hand}.") from None
            except httpx.HTTPStatusError as error:
                status = error.response.status_code
                reason = f"the server answered {status} {error.response.reason_phrase}"
                if status not in BUSY and status < 500:
                    raise SegopsError(f"{url}: {reason}. Instead, {by_hand}.") from None
            except OSError as error:
                raise SegopsError(
                    f"{part}: not written: {error}. {_size(part)} bytes are kept; mend that "
                    "and run the same command again."
                ) from None
            except (_Lost, httpx.RequestError) as error:
                reason = str(error) or type(error).__name__
            # A server that ignores ranges and always breaks gains nothing: only bytes that never
            # arrived before count as a gain.
            failures = 1 if _size(part) > best else failures + 1
            best = max(best, _size(part))
            if failures >= attempts:
                raise SegopsError(
                    f"{url}: connection lost {failures} times in a row: {reason}. {_size(part)} "
                    f"bytes are kept in {part}. Run the same command again to go on from "
                    f"there, {by_hand}."
                )
            wait = min(delay * 2 ** (failures - 1), LONGEST_WAIT)
            log.warning("%s: %s; trying again in %.0f s", url, reason, wait)
            time.sleep(wait)


def _receive(client: httpx.Client, url: str, part: Path, limit: int) -> None:
    """Append the missing bytes to `part`; the digest decides whether all of them fit together."""
    have = _size(part)
    # Compressed transfer would change the bytes that a range counts.
    headers = {"Accept-Encoding": "identity"} | ({"Range": f"bytes={have}-"} if have else {})
    with client.stream("GET", url, headers=headers) as response:
        status = response.status_code
        start, total = _content_range(response)
        if status == httpx.codes.REQUESTED_RANGE_NOT_SATISFIABLE and total == have:
            return
        if (status == httpx.codes.PARTIAL_CONTENT and start != have) or (status == 416 and have):
            part.unlink()
            raise _Lost(f"the server does not go on from byte {have}; starting over")
        response.raise_for_status()
        if status != httpx.codes.PARTIAL_CONTENT:
            length = response.headers.get("Content-Length")
            have, total = 0, None if length is None else int(length)
        free = shutil.disk_usage(part.parent).free + _size(part) - have
        if total is not None and total - have > free:
            raise SegopsError(
                f"{part}: {shown_size(total - have)} are still to come and {shown_size(free)} "
                "are free. Free some space and run the same command again."
            )
        if total is not None and total > limit:
            raise _TooLargeError
        with (
            part.open("ab" if have else "wb") as file,
            Progress(f"downloading {url}", total, have, in_bytes=True) as progress,
        ):
            # Raw: some servers label a .tgz as compressed transfer, and its bytes must stay.
            # As they come: bytes held back to fill a block would be lost with the connection.
            for block in response.iter_raw():
                if file.tell() + len(block) > limit:
                    raise _TooLargeError
                file.write(block)
                progress.reach(file.tell())
            file.flush()
            os.fsync(file.fileno())


def _content_range(response: httpx.Response) -> tuple[int | None, int | None]:
    """First byte and complete length of ``Content-Range`` (RFC 9110, 14.4), None where absent."""
    header = response.headers.get("Content-Range", "")
    match = re.fullmatch(r"bytes (?:(\d+)-\d+|\*)/(?:(\d+)|\*)", header.strip())
    start, total = match.groups() if match else (None, None)
    return (int(start) if start else None, int(total) if total else None)
