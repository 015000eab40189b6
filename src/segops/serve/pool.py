"""The queue of images and the workers that predict them.

Images wait in one queue; every worker takes the next one when it is free. A worker that ends is
started again, and only the image that it predicted gets no answer. A new set of models comes with
new workers: they open it, pass the smoke test and take over; the old ones finish their image.
"""

from __future__ import annotations

import asyncio
import itertools
import logging
from collections import deque
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
RECENT = 8
"""The seconds of so many images say how long an image takes at least."""
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
        deadline: Seconds from the end of the upload to the answer, and the most that a worker has
            for an image.
        max_body: Bytes of a request's body.
        max_pixels: Pixels of an image.
    """

    queue: int = 32
    deadline: float = 30.0
    max_body: int = 32 << 20
    max_pixels: int = 16_000_000


@dataclass(eq=False)
class Job:
    """An image that waits or is predicted.

    Attributes:
        head: The message to the worker.
        parts: The image's bytes.
        deadline: Time of the loop until which its client waits.
        answer: The worker's answer, and the models that it was given with.
    """

    head: dict[str, Any]
    parts: list[bytes]
    deadline: float
    answer: asyncio.Future[tuple[Message, Mapping[str, Source]]] = field(
        default_factory=lambda: asyncio.get_running_loop().create_future()
    )

    def fail(self, status: int, message: str) -> None:
        """Let the client get an error, where it still waits."""
        if not self.answer.done():
            self.answer.set_exception(RequestError(status, message))


class Pool:
    """Predicts images in worker processes.

    Args:
        library: What the workers import at once: `torch` or `none`.
        devices: The device of each worker.
        limits: What bounds a request.
        log_directory: The prediction log; None: none is kept.
        threads: Threads of an image on a CPU.

    Attributes:
        models: The models that are served now, by their keys; empty before the first.
        restarts: Workers that ended by themselves or were ended at the deadline.
        running: Images being predicted.
    """

    def __init__(
        self,
        library: str,
        devices: Sequence[str],
        limits: Limits,
        log_directory: str | None,
        threads: int = 1,
    ) -> None:
        self.limits = limits
        self._library, self._devices = library, devices
        self._log, self._threads = log_directory, threads
        self._queue: asyncio.Queue[Job] = asyncio.Queue()
        self._waiting: set[Job] = set()
        self._lanes: list[_Lane] = []
        self._spare: list[Process] = []
        self._seconds: deque[float] = deque(maxlen=RECENT)
        self.models: Mapping[str, Source] = {}
        self.restarts = self.running = 0

    @property
    def waiting(self) -> int:
        """Images that wait, and whose client does."""
        return len(self._waiting)

    @property
    def live(self) -> int:
        """Workers that can predict."""
        return sum(lane.process is not None for lane in self._lanes)

    async def prepare(self) -> None:
        """Start the first worker, which imports its libraries while the models are found."""
        self._spare = [await self._start(self._devices[0])]

    async def serve(self, models: Mapping[str, Source]) -> None:
        """Let new workers open these models, and take over if all pass the smoke test.

        The first models are served as soon as one worker has opened them; the others follow.

        Raises:
            SegopsError: One cannot be opened, or fails the test; the models before stay.
        """
        processes, self._spare = self._spare, []
        try:
            if not processes:
                for device in self._devices:
                    processes.append(await self._start(device))
            await asyncio.gather(*(self._open(process, models) for process in processes))
        except BaseException as error:
            await asyncio.gather(*(process.end(at_once=True) for process in processes))
            if isinstance(error, EndedError):
                raise SegopsError(
                    "The worker ended while it opened the model; its log says why."
                ) from None
            raise
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
        (job,) = self.put([(head, image)])
        return await self.answer(job)

    def put(self, images: Sequence[tuple[dict[str, Any], bytes]]) -> list[Job]:
        """Let images wait, all or none; arguments as of :meth:`predict`.

        Raises:
            RequestError: As :meth:`require_place`.
        """
        self.require_place(len(images))
        deadline = asyncio.get_running_loop().time() + self.limits.deadline
        jobs = [Job(head, [image], deadline) for head, image in images]
        for job in jobs:
            self.put_back(job)
            job.answer.add_done_callback(lambda _, job=job: self._forget(job))  # type: ignore[misc]
        return jobs

    async def answer(self, job: Job) -> tuple[Message, Mapping[str, Source]]:
        """Wait for the answer to an image; result and errors as of :meth:`predict`."""
        try:
            async with asyncio.timeout_at(job.deadline):
                return await job.answer
        except TimeoutError:
            raise RequestError(504, LATE) from None

    def require_model(self) -> None:
        """Check that a model is served.

        Raises:
            RequestError: None is yet (503).
        """
        if not self.models:
            raise RequestError(503, "The model is being loaded.", {"Retry-After": "2"})

    def require_place(self, count: int = 1) -> None:
        """Check that so many more images may wait.

        Raises:
            RequestError: No model is served yet (503), more images than may ever wait (413), or
                the queue is too full (429).
        """
        self.require_model()
        if count > self.limits.queue:
            raise RequestError(
                413,
                f"{count} images: at most {self.limits.queue} may wait (--queue); send several "
                "requests.",
            )
        if self.waiting + count > self.limits.queue:
            raise RequestError(
                429,
                f"{self.waiting} images wait already, of {self.limits.queue} (--queue); try again "
                "in a second.",
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

    async def _start(self, device: str) -> Process:
        return await Process.start(self._library, device, self._threads)

    async def _open(self, process: Process, models: Mapping[str, Source]) -> None:
        for key, source in models.items():
            await process.load(
                key, source.directory, digest=source.digest, log=self._log,
                max_pixels=self.limits.max_pixels,
            )  # fmt: skip

    def put_back(self, job: Job) -> None:
        """Let an image wait that no worker began, where its client still does."""
        if not job.answer.done():
            self._waiting.add(job)
            self._queue.put_nowait(job)

    def _forget(self, job: Job) -> None:
        """Let an image whose client has an answer wait no more, and take no memory."""
        if job in self._waiting:
            self._waiting.remove(job)
            job.parts.clear()

    async def next_job(self) -> Job:
        """Wait for the next image whose client still waits, and for long enough.

        An image that would be late is not begun, so that a worker has time for those behind it.
        One that waited less than a tenth of the deadline is begun however long the last ones took.
        """
        loop = asyncio.get_running_loop()
        while True:
            job = await self._queue.get()
            least = min(*self._seconds, 0.9 * self.limits.deadline) if self._seconds else 0.0
            if job.deadline - loop.time() < least:
                job.fail(504, LATE)
            if not job.answer.done():
                self._waiting.discard(job)
                return job

    def took(self, seconds: float) -> None:
        """Note how long a worker needed for an image."""
        self._seconds.append(seconds)

    async def started(self, models: Mapping[str, Source], device: str) -> Process:
        """Start a worker that opens models; try until it does."""
        for attempt in itertools.count():
            await asyncio.sleep(RETRY_SECONDS[min(attempt, len(RETRY_SECONDS) - 1)])
            process = None
            try:
                process = await self._start(device)
                await self._open(process, models)
            except BaseException as error:
                if process is not None:
                    await process.end(at_once=True)
                if not isinstance(error, Exception):
                    raise
                log.error("A worker could not be started: %s", str(error) or "it ended.")
            else:
                return process
        raise AssertionError  # the count does not end


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

    async def _next(self, process: Process) -> Job | None:
        """Wait for an image; None where the worker ends before."""
        waited: tuple[asyncio.Future[Job], asyncio.Future[None]] = (
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
                self._pool.put_back(job.result())
            job.cancel()

    async def _lose(self, process: Process, why: str) -> None:
        log.warning("Worker %d %s; another one is started.", process.pid, why)
        self.process = None
        self._pool.restarts += 1
        await process.end(at_once=True)

    async def _answer(self, job: Job, process: Process) -> None:
        """Let the worker predict an image; it has the deadline from now on, as any image has.

        The client may be gone before, or have its 504: the answer is dropped then.
        """
        loop = asyncio.get_running_loop()
        began = loop.time()
        try:
            async with asyncio.timeout(self._pool.limits.deadline):
                answer = await process.ask(job.head, job.parts)
        except (EndedError, TimeoutError) as error:
            is_late = isinstance(error, TimeoutError)
            if is_late:
                self._pool.took(self._pool.limits.deadline)
            job.fail(*((504, LATE) if is_late else (503, ENDED)))
            await self._lose(process, "was too slow and is ended" if is_late else "ended")
        else:
            if not job.answer.done():
                job.answer.set_result((answer, self._models))
            if "confidence" in answer.head:  # neither an error nor a check for a mark
                self._pool.took(loop.time() - began)
