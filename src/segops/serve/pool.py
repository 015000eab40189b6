"""The queue of images and the workers that predict them.

Images wait in one queue; every worker takes the next one when it is free. A worker that ends is
started again, and only the image that it predicted gets no answer. A new set of models comes with
new workers: they open it, pass the smoke test and take over; the old ones finish their image.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from segops.runtime.errors import SegopsError
from segops.serve.errors import RequestError
from segops.serve.process import EndedError, Process
from segops.serve.wire import Message

RETRY_SECONDS = (0.0, 0.5, 2.0, 10.0, 30.0)
"""Pauses before a worker is started again, the more often it failed in a row."""
ENDED = "The process that predicted this image ended; send the image again."
LATE = "The prediction was not ready in time (--deadline); send a smaller image, or try later."
log = logging.getLogger("segops")


@dataclass(frozen=True)
class Source:
    """A model to serve.

    Attributes:
        directory: Its files.
        digest: Their digest, which a worker checks before it runs any code of them.
        told: What `GET /model` tells of it.
    """

    directory: str
    digest: str
    told: Mapping[str, Any]


@dataclass(frozen=True)
class Limits:
    """What bounds a request.

    Attributes:
        queue: Images that may wait.
        deadline: Seconds from the end of the upload to the answer.
        max_body: Bytes of a request's body.
        max_pixels: Pixels of an image.
    """

    queue: int = 32
    deadline: float = 30.0
    max_body: int = 32 << 20
    max_pixels: int = 16_000_000


@dataclass
class _Job:
    head: dict[str, Any]
    parts: list[bytes]
    deadline: float
    answer: asyncio.Future[tuple[Message, Mapping[str, Source]]] = field(
        default_factory=lambda: asyncio.get_running_loop().create_future()
    )

    def fail(self, status: int, message: str) -> None:
        if not self.answer.done():
            self.answer.set_exception(RequestError(status, message))


class Pool:
    """Predicts images in worker processes.

    Args:
        library: What the workers import at once: `torch` or `none`.
        devices: The device of each worker; on `cpu` a worker has one thread.
        limits: What bounds a request.
        log_directory: The prediction log; None: none is kept.

    Attributes:
        models: The models that are served now, by their keys; empty before the first.
        restarts: Workers that ended by themselves or were ended at the deadline.
        running: Images being predicted.
    """

    def __init__(
        self, library: str, devices: Sequence[str], limits: Limits, log_directory: str | None
    ) -> None:
        self.limits = limits
        self._library, self._devices = library, devices
        self._log = log_directory
        self._queue: asyncio.Queue[_Job] = asyncio.Queue()
        self._lanes: list[_Lane] = []
        self._spare: list[Process] = []
        self.models: Mapping[str, Source] = {}
        self.restarts = self.running = 0

    @property
    def waiting(self) -> int:
        """Images that wait."""
        return self._queue.qsize()

    @property
    def live(self) -> int:
        """Workers that can predict."""
        return sum(lane.process is not None for lane in self._lanes)

    async def prepare(self) -> None:
        """Start the first worker, which imports its libraries while the models are found."""
        self._spare = [await Process.start(self._library, self._devices[0])]

    async def serve(self, models: Mapping[str, Source]) -> None:
        """Let new workers open these models, and take over if all pass the smoke test.

        The first models are served as soon as one worker has opened them; the others follow.

        Raises:
            SegopsError: One cannot be opened, or fails the test; the models before stay.
        """
        processes, self._spare = self._spare, []
        if not processes:
            processes = [await Process.start(self._library, one) for one in self._devices]
        opened = await asyncio.gather(
            *(self._open(process, models) for process in processes), return_exceptions=True
        )
        failures = [error for error in opened if isinstance(error, BaseException)]
        if failures:
            await asyncio.gather(*(process.end(at_once=True) for process in processes))
            if isinstance(failures[0], EndedError):
                raise SegopsError("The worker ended while it opened the model; its log says why.")
            raise failures[0]
        rest = self._devices[len(processes) :]
        lanes = [_Lane(self, models, one.device, one) for one in processes]
        before, self._lanes = self._lanes, lanes + [_Lane(self, models, one) for one in rest]
        self.models = models
        for lane in before:
            lane.retire()

    async def predict(
        self, head: dict[str, Any], image: bytes
    ) -> tuple[Message, Mapping[str, Source]]:
        """Predict an image.

        Args:
            head: The message to the worker.
            image: The image's bytes.

        Returns:
            The worker's answer, and the models that were served then.

        Raises:
            RequestError: The worker ended (503), or the deadline passed (504).
        """
        loop = asyncio.get_running_loop()
        job = _Job(head, [image], loop.time() + self.limits.deadline)
        self.put(job)
        try:
            async with asyncio.timeout_at(job.deadline):
                return await job.answer
        except TimeoutError:
            raise RequestError(504, LATE) from None

    def require_place(self) -> None:
        """Check that another image may wait.

        Raises:
            RequestError: No model is served yet (503), or the queue is full (429).
        """
        if not self.models:
            raise RequestError(503, "The model is being loaded.", {"Retry-After": "2"})
        if self.waiting >= self.limits.queue:
            raise RequestError(
                429,
                f"{self.waiting} images wait already (--queue); try again in a second.",
                {"Retry-After": "1"},
            )

    async def end(self) -> None:
        """End all workers."""
        for lane in self._lanes:
            lane.retire()
        await asyncio.gather(
            *(lane.task for lane in self._lanes), *(one.end(at_once=True) for one in self._spare),
            return_exceptions=True,
        )  # fmt: skip

    async def _open(self, process: Process, models: Mapping[str, Source]) -> None:
        for key, source in models.items():
            await process.load(
                key, source.directory, digest=source.digest, log=self._log,
                max_pixels=self.limits.max_pixels,
            )  # fmt: skip

    def put(self, job: _Job) -> None:
        """Let an image wait."""
        self._queue.put_nowait(job)

    async def next_job(self) -> _Job:
        """Wait for the next image that somebody still waits for."""
        while True:
            job = await self._queue.get()
            if not job.answer.done():
                return job

    async def started(self, models: Mapping[str, Source], device: str) -> Process:
        """Start a worker that opens models; try until it does."""
        for attempt in range(1 << 30):
            await asyncio.sleep(RETRY_SECONDS[min(attempt, len(RETRY_SECONDS) - 1)])
            process = await Process.start(self._library, device)
            try:
                await self._open(process, models)
            except BaseException as error:
                await process.end(at_once=True)
                if not isinstance(error, EndedError | SegopsError):
                    raise
                log.error("A worker could not be started: %s", str(error) or "it ended.")
            else:
                return process
        raise AssertionError


class _Lane:
    """A place for one worker: it takes images from the queue until it is retired."""

    def __init__(
        self, pool: Pool, models: Mapping[str, Source], device: str, process: Process | None = None
    ) -> None:
        self._pool, self._models, self._device = pool, models, device
        self.process = process
        self._is_busy = self._is_retired = False
        self.task = asyncio.create_task(self._work())

    def retire(self) -> None:
        """End the worker after the image that it predicts."""
        self._is_retired = True
        if not self._is_busy:
            self.task.cancel()

    async def _work(self) -> None:
        try:
            while not self._is_retired:
                if self.process is None:
                    self.process = await self._pool.started(self._models, self._device)
                job = await self._next(self.process)
                if job is None:
                    await self._lose(self.process, "ended while it was idle")
                    continue
                self._is_busy = True
                self._pool.running += 1
                try:
                    await self._answer(job, self.process)
                finally:
                    self._is_busy = False
                    self._pool.running -= 1
        finally:
            if self.process is not None:
                await self.process.end()

    async def _next(self, process: Process) -> _Job | None:
        """Wait for an image; None where the worker ends before."""
        waited: tuple[asyncio.Future[_Job], asyncio.Future[None]] = (
            asyncio.ensure_future(self._pool.next_job()),
            asyncio.ensure_future(process.ended()),
        )
        job, ended = waited
        is_taken = False
        try:
            await asyncio.wait(waited, return_when=asyncio.FIRST_COMPLETED)
            is_taken = not ended.done()
            return job.result() if is_taken else None
        finally:
            ended.cancel()
            if job.done() and not is_taken:
                self._pool.put(job.result())
            job.cancel()

    async def _lose(self, process: Process, why: str) -> None:
        log.warning("Worker %d %s; another one is started.", process.pid, why)
        self.process = None
        self._pool.restarts += 1
        await process.end(at_once=True)

    async def _answer(self, job: _Job, process: Process) -> None:
        try:
            async with asyncio.timeout_at(job.deadline):
                answer = await process.ask(job.head, job.parts)
        except (EndedError, TimeoutError) as error:
            is_late = isinstance(error, TimeoutError)
            job.fail(*((504, LATE) if is_late else (503, ENDED)))
            await self._lose(process, "was too slow and is ended" if is_late else "ended")
        else:
            if not job.answer.done():
                job.answer.set_result((answer, self._models))
