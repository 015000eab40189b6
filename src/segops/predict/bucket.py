"""Images in an S3 bucket: their names, and their files fetched ahead of the prediction.

Address and credentials of the storage are those of boto3: ``AWS_ENDPOINT_URL``,
``AWS_ACCESS_KEY_ID``, ``~/.aws`` and the others that its manual names.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Generator, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from functools import cache
from pathlib import Path, PurePosixPath
from typing import Any
from uuid import uuid4

from segops import faults
from segops.runtime.errors import SegopsError
from segops.threads import pipelined

from .image_list import REMOTE, Source

AT_ONCE = 16
"""Files that are fetched at a time."""

AHEAD = 32
"""Files that lie on the disk, at most, before they are read."""

_MISSING = ("404", "NoSuchKey", "NotFound")


def images(
    address: str, suffixes: tuple[str, ...], others: Counter[str]
) -> Iterator[tuple[str, str]]:
    """Yield name and address of every image below ``s3://BUCKET/PREFIX``, page by page.

    The name is the key below the prefix. Names with a part that begins with a dot are skipped.
    An address that ends in one of `suffixes` is that of a single image.

    Args:
        address: The prefix, with or without a slash at its end.
        suffixes: Those of images, in small letters.
        others: Into it go the suffixes of the other files.

    Raises:
        SegopsError: boto3 is not installed, the storage does not answer or refuses, or a key can
            be no path.
    """
    bucket, prefix = _parted(address, address)
    if PurePosixPath(prefix).suffix.lower() in suffixes:
        yield PurePosixPath(prefix).name, address
        return
    prefix = prefix and prefix.rstrip("/") + "/"
    with _named(address):
        pages = _client().get_paginator("list_objects_v2").paginate(Bucket=bucket, Prefix=prefix)
        for page in pages:
            for entry in page.get("Contents", ()):
                key = entry["Key"]
                name = key.removeprefix(prefix)
                if name.endswith("/") or not name:  # how consoles mark a directory
                    continue
                if any(part.startswith(".") and part.strip(".") for part in name.split("/")):
                    continue
                suffix = PurePosixPath(name).suffix.lower()
                if suffix in suffixes:
                    yield _path_like(name, f"{REMOTE}{bucket}/{key}"), f"{REMOTE}{bucket}/{key}"
                else:
                    others[suffix] += 1


def name_of(address: str, where: str) -> str:
    """The name of an image by its address, for outputs; `where` says who gives it.

    Raises:
        SegopsError: It is no ``s3://BUCKET/KEY``, or its key can be no path.
    """
    bucket, key = _parted(address, where)
    return _path_like(f"{bucket}/{key}", where)


def fetched(sources: Iterable[Source], directory: Path) -> Generator[Source, None, None]:
    """Yield the sources with files of this machine, fetched ahead into a directory.

    Whoever has read a file of a source with an address removes it. A file that the bucket lacks is
    missing then.

    Raises:
        SegopsError: The storage does not answer, or refuses.
    """

    def fetch(source: Source) -> Source:
        if source.url is None:
            return source
        bucket, key = _parted(source.url, source.url)
        # Not the key's own name, which may be longer than a file's.
        suffix = PurePosixPath(source.name).suffix
        path = directory / f"{uuid4().hex}{suffix if len(suffix) < 9 else ''}"
        with _named(source.url):
            try:
                _client().download_file(bucket, key, str(path), Config=_in_one_thread())
            except Exception as error:
                if _code(error) not in _MISSING:
                    raise
        return replace(source, path=path)

    yield from pipelined(sources, fetch, AT_ONCE, AHEAD)


def _parted(address: str, where: str) -> tuple[str, str]:
    """Bucket and key of an address."""
    bucket, _, key = address.removeprefix(REMOTE).partition("/")
    if not address.startswith(REMOTE) or not bucket:
        raise SegopsError(
            f"{where}: {address!r} is no address that can be read; expected s3://BUCKET/KEY."
        )
    return bucket, key


def _path_like(name: str, where: str) -> str:
    if any(part in ("", ".", "..") for part in name.split("/")) or "\0" in name:
        raise SegopsError(
            f"{where}: its outputs cannot have such a name, because a part of the key is empty or "
            "consists of dots. Copy it to another key, or leave it out."
        )
    return name


@cache
def _client() -> Any:
    with faults.named():
        import boto3
        from botocore.config import Config

        # One connection a thread; a few tries more than usual, because a run takes hours.
        options = Config(
            max_pool_connections=AT_ONCE, retries={"mode": "standard", "total_max_attempts": 6}
        )
        return boto3.client("s3", config=options)


@cache
def _in_one_thread() -> Any:
    """How a file is written piece by piece, never whole in memory, by the thread that fetches."""
    from boto3.s3.transfer import TransferConfig

    return TransferConfig(use_threads=False)


@contextmanager
def _named(address: str) -> Iterator[None]:
    """Raise a SegopsError that names the address in place of what boto3 and botocore raise."""
    try:
        yield
    except Exception as error:
        if not type(error).__module__.startswith(("boto", "urllib3")):
            raise
        raise SegopsError(
            f"{address}: not readable: {str(error).rstrip('.')}. Check address, credentials "
            "(AWS_ACCESS_KEY_ID, ~/.aws) and AWS_ENDPOINT_URL, and run the same command again: it "
            "continues where it stopped."
        ) from None


def _code(error: Exception) -> str:
    response = getattr(error, "response", None)
    return str(response.get("Error", {}).get("Code", "")) if isinstance(response, dict) else ""
