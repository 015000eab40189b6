"""Does the shards of a run that this process gets, and puts together what came of all."""

from __future__ import annotations

import logging
import shutil
from collections.abc import Generator, Iterator
from contextlib import closing, nullcontext
from dataclasses import dataclass, field
from itertools import chain
from pathlib import Path
from typing import Protocol

from . import outputs
from .image_list import Source
from .journal import JOURNAL, VIDEOS, FinishedImage, Journal
from .leases import Lease
from .shards import Result, Round
from .sources import Found
from .table import TABLE, write_table

MESSAGES = 1000
"""Most messages of images that could not be predicted; the table has all of them."""

log = logging.getLogger("segops")


@dataclass
class FolderResult:
    """What a run did.

    Attributes:
        table: The table of all images; None where there are only videos.
        now: Number of images and videos predicted by this process.
        before: Number that earlier runs predicted, or other processes of this run.
        failures: Number that could not be predicted. A process whose run goes on in others when
            its own work is done knows its own only.
        failed: A message for each of them, of `MESSAGES` at most.
    """

    table: Path | None
    now: int = 0
    before: int = 0
    failures: int = 0
    failed: list[str] = field(default_factory=list)

    def add(self, done: bool | str) -> None:
        """Count an image: true once predicted, false if done before, else what is wrong."""
        if isinstance(done, str):
            self.failures += 1
            if len(self.failed) < MESSAGES:
                self.failed.append(done)
        elif done:
            self.now += 1
        else:
            self.before += 1


class Predicts(Protocol):
    """What predicts images and videos."""

    def images(
        self, sources: list[Source], label: str, lease: Lease
    ) -> Generator[tuple[bool | str, Result], None, None]:
        """Yield, for each image, what :meth:`FolderResult.add` takes, and its result.

        Raises:
            LostLeaseError: Another process has the lease; what is not yet written stays so.
        """

    def video(self, source: Source, lease: Lease) -> tuple[bool | str, Result]:
        """The same for a video."""


@dataclass
class Work:
    """The work of a run, in shards: those of the images, then one for each video.

    Attributes:
        found: What is to be predicted.
        shard_size: Images of a shard.
        output: Directory of the outputs.
        class_names: The names in id order.
        journal: Its journal.
    """

    found: Found
    shard_size: int
    output: Path
    class_names: tuple[str, ...]

    def __post_init__(self) -> None:
        self._shards = -(-len(self.found.images) // self.shard_size)
        self._outcome = FolderResult(self.output / TABLE if self.found.images else None)
        self._ended = self._outcome

    def __len__(self) -> int:
        """Number of shards."""
        return self._shards + len(self.found.videos)

    def do(self, run: Round, journal: Journal, predicts: Predicts) -> FolderResult:
        """Do the shards that this process gets, until all are done, and end the run."""
        with closing(run.todo()) as todo:
            for shard, lease in todo:
                try:
                    self._do(shard, lease, run, journal, predicts)
                except Exception:
                    if lease.is_held():
                        raise
                    lease.lost.set()
                if lease.lost.is_set():
                    log.warning("shard %d: another process took it over meanwhile", shard + 1)
        if not run.end(lambda lease: self._put_together(run, journal, lease)):
            return self._outcome
        ended = self._ended
        ended.now = self._outcome.now
        ended.before = max(0, ended.before - ended.now)
        return ended

    def _do(
        self, shard: int, lease: Lease, run: Round, journal: Journal, predicts: Predicts
    ) -> None:
        done: list[bool | str] = []
        results: list[Result] = []
        own, earlier = run.journal_files(shard)
        writing = nullcontext() if len(self) == 1 else journal.of_shard(own, earlier)
        # On an error or Ctrl-C, images under way end before the pool and the journal do.
        with writing, closing(self._made(shard, predicts, lease)) as made:
            for what, result in made:
                done.append(what)
                results.append(result)
                if lease.lost.is_set():
                    return
        if lease.is_held():
            run.finish(shard, results)
            for what in done:
                self._outcome.add(what)

    def _made(
        self, shard: int, predicts: Predicts, lease: Lease
    ) -> Generator[tuple[bool | str, Result], None, None]:
        if shard < self._shards:
            label = f"predict, shard {shard + 1} of {self._shards}"
            sources = list(self._images(shard))
            yield from predicts.images(sources, label if self._shards > 1 else "predict", lease)
        else:
            for video in self.found.videos.part(shard - self._shards, 1):
                yield predicts.video(video, lease)

    def _put_together(self, run: Round, journal: Journal, lease: Lease) -> None:
        """Write the table and the journal, and clear what killed processes left half-written."""
        journal.absorb(run.journals())
        self._ended = ended = FolderResult(self._outcome.table)

        def results(shard: int, sources: Iterator[Source]) -> Iterator[tuple[str, Result]]:
            for source, result in zip(sources, run.results(shard), strict=True):
                if isinstance(result, FinishedImage):
                    ended.add(False)
                    journal.put(result)
                    yield source.name, result
                else:
                    ended.add(source.named(result, source.place))
                    yield source.name, source.named(result, source.name)
            lease.require()  # the table of an older run replaces none

        images = (results(shard, self._images(shard)) for shard in range(self._shards))
        if self._outcome.table is not None:
            write_table(self._outcome.table, self.class_names, chain.from_iterable(images))
        for number, source in enumerate(self.found.videos.part(0, len(self.found.videos))):
            list(results(self._shards + number, iter([source])))
        lease.require()
        journal.compact()
        lease.require()
        directories = (self.found.images.directories(), self.found.videos.directories())
        shutil.rmtree(self.output / VIDEOS, ignore_errors=True)
        state = (self.output / JOURNAL).parent
        outputs.remove_temporary(chain((self.output, state), *directories))

    def _images(self, shard: int) -> Iterator[Source]:
        return self.found.images.part(shard * self.shard_size, self.shard_size)
