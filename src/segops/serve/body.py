"""Reads the body of a request within limits of size and time, and splits multipart bodies."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import PurePosixPath

from starlette.requests import Request
from werkzeug.exceptions import RequestEntityTooLarge
from werkzeug.http import parse_options_header
from werkzeug.sansio.multipart import (
    Data,
    Epilogue,
    Field,
    File,
    MultipartDecoder,
    NeedData,
    Preamble,
)

from segops.serve.errors import RequestError
from segops.words import MIB

GRACE_SECONDS = 10.0
"""Time that every upload has, however slow the client is."""
SLOWEST = 64 << 10
"""Bytes a second that an upload must reach on average after that."""
MOST_PARTS = 64
LONGEST_BOUNDARY = 70
"""Characters; RFC 2046."""
LONGEST_NAME = 200
SLICE = 64 << 10
"""Bytes of a multipart body that are split at a time; other requests have their turn after each."""
LONGEST_HEAD = 16 << 10
"""Bytes of the header lines of a part, or of what comes before the first part."""
MALFORMED = "The multipart body is malformed or ends early; send it again."


@dataclass(frozen=True)
class Upload:
    """A part of a body.

    Attributes:
        field: The name of its field; `image` for a body that is no multipart.
        name: The file's name without directories, for messages and answers.
        content: Its bytes.
        is_file: Whether the client named a file.
    """

    field: str
    name: str
    content: bytes
    is_file: bool = True


class Budget:
    """Bounds the bytes of all bodies, of requests and answers, that the server holds at a time.

    Args:
        most: Bytes.

    Attributes:
        held: Bytes that are held now.
    """

    def __init__(self, most: int) -> None:
        self._most, self.held = most, 0

    @contextmanager
    def share(self) -> Iterator[Share]:
        """Give back what a request takes when it ends."""
        share = Share(self)
        try:
            yield share
        finally:
            self.held -= share.taken

    @contextmanager
    def holding(self, size: int) -> Iterator[None]:
        """Count the bytes of an answer until it is sent; new uploads wait for it, never it."""
        self.held += size
        try:
            yield
        finally:
            self.held -= size

    def take(self, size: int) -> None:
        """Take so many bytes.

        Raises:
            RequestError: There are too few left (429).
        """
        if self.held + size > self._most:
            raise RequestError(
                429, "The server holds too many uploads; try again in a second.",
                {"Retry-After": "1"},
            )  # fmt: skip
        self.held += size


class Share:
    """The part of a budget that one request takes.

    Attributes:
        taken: Bytes.
    """

    def __init__(self, budget: Budget) -> None:
        self._budget, self.taken = budget, 0

    def take(self, size: int) -> None:
        """As :meth:`Budget.take`."""
        self._budget.take(size)
        self.taken += size


async def uploads(request: Request, max_body: int, share: Share) -> list[Upload]:
    """Read the parts of a request's body; a body that is no multipart is one image.

    Args:
        request: The request.
        max_body: Bytes of the largest body.
        share: Counts the body.

    Raises:
        RequestError: The body is empty or no multipart (400), too slow (408), or too large (413),
            or the server holds too many (429).
    """
    kind, options = parse_options_header(request.headers.get("content-type"))
    content = await read(request, max_body, share)
    if not content:
        raise RequestError(400, "The body is empty; send an image's bytes, or multipart/form-data.")
    if kind.lower() != "multipart/form-data":
        return [Upload("image", "image", content)]
    return await _parts(content, options.get("boundary", ""))


async def read(request: Request, max_body: int, share: Share) -> bytes:
    """Read the whole body; arguments as of :func:`uploads`.

    Raises:
        RequestError: As :func:`uploads`.
    """
    too_large = RequestError(
        413, f"The body has more than {max_body / MIB:g} MiB (--max-body); send less."
    )
    stated = request.headers.get("content-length", "")
    if stated.isascii() and stated.isdigit() and int(stated) > max_body:
        raise too_large
    loop = asyncio.get_running_loop()
    began, content, more = loop.time(), bytearray(), True
    while more:
        try:
            async with asyncio.timeout_at(began + GRACE_SECONDS + len(content) / SLOWEST):
                message = await request.receive()
        except TimeoutError:
            raise RequestError(
                408, f"The upload is slower than {SLOWEST >> 10} KiB a second; send it again."
            ) from None
        if message["type"] == "http.disconnect":
            raise RequestError(400, "The client closed the connection during the upload.")
        share.take(len(message.get("body", b"")))
        content += message.get("body", b"")
        more = message.get("more_body", False)
        if len(content) > max_body:
            raise too_large
    return bytes(content)


async def _parts(content: bytes, boundary: str) -> list[Upload]:
    if not boundary or len(boundary) > LONGEST_BOUNDARY or not boundary.isascii():
        raise RequestError(400, "The Content-Type of a multipart body must name its boundary.")
    decoder = MultipartDecoder(boundary.encode(), max_parts=MOST_PARTS)
    slices = (content[at : at + SLICE] for at in range(0, len(content), SLICE))
    found: list[Upload] = []
    head: Field | File | None = None
    data = bytearray()
    try:
        for one in (*slices, None):
            decoder.receive_data(one)
            while not isinstance(event := decoder.next_event(), Epilogue | NeedData):
                if isinstance(event, Preamble):
                    _require_short(len(event.data))
                elif isinstance(event, Field | File):
                    _require_short(sum(len(name) + len(value) for name, value in event.headers))
                    head, data = event, bytearray()
                elif isinstance(event, Data) and head is not None:
                    data += event.data
                    if not event.more_data:
                        found.append(_upload(head, bytes(data)))
                        head = None
            if head is None and not isinstance(event, Epilogue):
                _require_short(len(decoder.buffer))
            await asyncio.sleep(0)
    except RequestEntityTooLarge:
        raise RequestError(
            413, f"The body has more than {MOST_PARTS} parts; send several requests."
        ) from None
    except (ValueError, AttributeError):  # what the decoder raises on malformed parts
        raise RequestError(400, MALFORMED) from None
    return found


def _require_short(size: int) -> None:
    if size > LONGEST_HEAD:
        raise RequestError(
            400, f"The multipart body has over {LONGEST_HEAD >> 10} KiB beside the parts' contents."
        )


def _upload(head: Field | File, content: bytes) -> Upload:
    field = str(head.name or "")
    named = head.filename if isinstance(head, File) else ""
    return Upload(field, file_name(named) or field or "image", content, isinstance(head, File))


def file_name(name: str) -> str:
    """Return a client's name of a file without directories and characters that do not print."""
    last = PurePosixPath(name.replace("\\", "/")).name
    return "".join(one for one in last if one.isprintable())[:LONGEST_NAME]
