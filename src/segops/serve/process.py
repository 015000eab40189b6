"""The server's side of a worker process."""

from __future__ import annotations

import asyncio
import os
import signal
import socket
import sys
from asyncio.subprocess import Process as Child
from collections.abc import Sequence
from contextlib import suppress
from functools import cache
from typing import Any

from segops.children import child_environment
from segops.runtime.errors import SegopsError
from segops.serve import wire
from segops.serve.wire import Message

THREADS = "OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS"
END_SECONDS = 5.0


@cache
def _pipe() -> tuple[int, int]:
    """The ends of a pipe to which nobody writes; the kernel closes it when this process ends."""
    return os.pipe()


async def start(module: str, *arguments: str, fds: Sequence[int] = (), **options: Any) -> Child:
    """Start a module in a process group of its own that ends when this process ends.

    Args:
        module: Its name, `segops.serve.NAME`.
        arguments: Its arguments.
        fds: Descriptors that it gets.
        options: As of :func:`asyncio.create_subprocess_exec`.

    Raises:
        OSError: This machine starts no further process.
    """
    tied, _ = _pipe()
    return await asyncio.create_subprocess_exec(
        sys.executable, "-P", "-m", "segops.tied", str(tied), module, *arguments,
        pass_fds=[tied, *fds],
        start_new_session=True,  # Ctrl-C is for the server
        **options,
    )  # fmt: skip


class EndedError(Exception):
    """The worker process has ended."""


class Process:
    """A worker process; create it with :meth:`start`.

    Attributes:
        pid: Its id.
        device: Device of its networks.
    """

    def __init__(
        self,
        child: Child,
        device: str,
        reader: asyncio.StreamReader,
        writer: asyncio.StreamWriter,
    ) -> None:
        self._child = child
        self._reader, self._writer = reader, writer
        self.pid, self.device = child.pid, device

    @classmethod
    async def start(cls, library: str, device: str, threads: int) -> Process:
        """Start a worker process on a device; it imports a library, `torch` or `none`, at once.

        On a CPU it predicts an image on so many threads.
        """
        own = dict.fromkeys(THREADS, str(threads)) if device == "cpu" else {}
        ours, theirs = socket.socketpair()
        ours.setblocking(False)
        with theirs:
            try:
                child = await start(
                    "segops.serve.worker", str(theirs.fileno()), library, device, str(threads),
                    fds=[theirs.fileno()],
                    stdin=asyncio.subprocess.DEVNULL,
                    env={**child_environment(), **own},
                )  # fmt: skip
            except BaseException:
                ours.close()
                raise
        reader, writer = await asyncio.open_connection(sock=ours)
        return cls(child, device, reader, writer)

    async def ask(self, head: dict[str, Any], parts: Sequence[bytes] = ()) -> Message:
        """Send a message and wait for the answer.

        Raises:
            EndedError: The process has ended.
        """
        try:
            self._writer.writelines(wire.packed(head, parts))
            await self._writer.drain()
            return await wire.read(self._reader)
        except (asyncio.IncompleteReadError, OSError):
            raise EndedError from None

    async def load(self, key: str, directory: str, **settings: Any) -> None:
        """Open a model and make the smoke test.

        Raises:
            SegopsError: The model cannot be opened, or fails the test.
            EndedError: The process has ended.
        """
        answer = await self.ask({"do": "load", "key": key, "directory": directory, **settings})
        if "error" in answer.head:
            raise SegopsError(answer.head["error"]["message"])

    async def ended(self) -> None:
        """Wait until the process has ended."""
        await self._child.wait()

    async def end(self, *, at_once: bool = False) -> None:
        """End the process: after the image that it predicts, or at once."""
        self._writer.close()
        with suppress(ProcessLookupError):
            if at_once:
                os.killpg(self.pid, signal.SIGKILL)
            try:
                await asyncio.wait_for(self._child.wait(), END_SECONDS)
            except TimeoutError:
                os.killpg(self.pid, signal.SIGKILL)
                await self._child.wait()
