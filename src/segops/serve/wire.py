"""Messages between the server's process and a worker: a JSON object and parts of bytes.

A message is the length of the JSON text (4 bytes, big-endian), the JSON text, then the parts. The
JSON object holds their lengths under the key `sizes`. Nothing is pickled.
"""

from __future__ import annotations

import json
import socket
import struct
from asyncio import StreamReader
from collections.abc import Sequence
from typing import Any, NamedTuple

_LENGTH = struct.Struct(">I")


class Message(NamedTuple):
    """A message.

    Attributes:
        head: The JSON object.
        parts: Bytes that belong to it.
    """

    head: dict[str, Any]
    parts: list[bytes]


def packed(head: dict[str, Any], parts: Sequence[bytes] = ()) -> list[bytes]:
    """Return a message as the bytes to send one after another."""
    text = json.dumps({**head, "sizes": [len(part) for part in parts]}).encode()
    return [_LENGTH.pack(len(text)) + text, *parts]


async def read(reader: StreamReader) -> Message:
    """Read a message.

    Raises:
        asyncio.IncompleteReadError: The other process has ended.
        ConnectionError: The same.
    """
    (length,) = _LENGTH.unpack(await reader.readexactly(_LENGTH.size))
    head = json.loads(await reader.readexactly(length))
    return Message(head, [await reader.readexactly(size) for size in head.pop("sizes")])


def send(connection: socket.socket, head: dict[str, Any], parts: Sequence[bytes] = ()) -> None:
    """Send a message from a worker.

    Raises:
        OSError: The server's process has ended.
    """
    for chunk in packed(head, parts):
        connection.sendall(chunk)


def receive(connection: socket.socket) -> Message | None:
    """Read a message in a worker; None where the server's process has ended."""
    try:
        (length,) = _LENGTH.unpack(_exactly(connection, _LENGTH.size))
        head = json.loads(_exactly(connection, length))
        return Message(head, [_exactly(connection, size) for size in head.pop("sizes")])
    except (EOFError, ConnectionError):
        return None


def _exactly(connection: socket.socket, size: int) -> bytes:
    """Read so many bytes; EOFError where there are fewer."""
    content = bytearray(size)
    rest = memoryview(content)
    while rest:
        got = connection.recv_into(rest)
        if not got:
            raise EOFError
        rest = rest[got:]
    return bytes(content)
