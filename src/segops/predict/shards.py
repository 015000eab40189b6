"""Shares a prediction among processes, on one machine or several that see the same directory.

The images are divided into shards, by their order; a video is a shard too. The first process of a
run makes the directory `SHARDS` in the outputs:

    plan.json           what the run predicts, and how: a process with another plan is refused;
                        it holds no path, because another machine may find the images elsewhere
    process-TOKEN.lease a process that takes part
    shard-N.lease       who works on a shard; see :mod:`segops.predict.leases`
    shard-N.TOKEN.jsonl the journal of the process that worked on it
    shard-N.RUN.results what came of every image, written whole once the shard is done

Who finds all shards done takes the lease `table`, puts the results together and removes the
directory; it puts the leases of the other processes beside it, which tells them that the run ended.
A run of one shard, which most are, goes the same way alone.

A run without a live process was killed. The next process begins a new one in its place, and finds
in the journals what is done, by the content of each image.
"""

from __future__ import annotations

import json
import logging
import shutil
import time
from collections.abc import Callable, Generator, Iterable, Iterator, Mapping
from contextlib import closing, suppress
from pathlib import Path
from typing import Any
from uuid import uuid4

from segops import files
from segops.runtime.errors import SegopsError

from . import leases
from .journal import JOURNAL, SHARDS, FinishedImage, Journal, line_of, parsed
from .leases import Lease, Watch

POLL_SECONDS = 0.5
"""Time between two looks at what other processes do."""

_PLAN = "plan.json"
_TABLE = "table"
_PROCESS = "process-"
_LEFT_SECONDS = 3600.0
"""What lies beside the directory for so long is of a killed process."""

log = logging.getLogger("segops")

Result = FinishedImage | str
"""What came of an image: its entry, or what is wrong with it as :meth:`Source.portable` says it."""


class Round:
    """A run of a prediction by one or several processes, from its plan to its table.

    This process takes part from the making until the end of the ``with`` block.

    Args:
        output: Directory of the outputs.
        plan: What the run predicts, and how, as JSON; equal in all its processes.
        shards: Number of shards, at least 1.

    Raises:
        SegopsError: Another run is under way there.
    """

    def __init__(self, output: Path, plan: Mapping[str, Any], shards: int) -> None:
        self._output, self._directory = output, output / SHARDS
        self._shards = shards
        self._watch = Watch()
        self._process = f"{_PROCESS}{uuid4().hex}{leases.SUFFIX}"
        self._token, self._lease = self._join(dict(plan))

    def __enter__(self) -> Round:
        """Return the run."""
        return self

    def __exit__(self, *error: object) -> None:
        """Take part no longer."""
        self._lease.give_back()

    def todo(self) -> Generator[tuple[int, Lease], None, None]:
        """Yield the shards that this process is to do, each under its lease.

        It ends when every shard is done, by this process or another, or when the run was ended.
        """
        left, told = dict.fromkeys(range(self._shards)), False
        while left and self._is_on():
            idle = True
            for shard in list(left):
                if self._results(shard).is_file():
                    del left[shard]
                    continue
                lease = self._take(_name(shard))
                if lease is None:
                    continue
                idle = False
                with lease:
                    if not self._results(shard).is_file() and self._is_on():
                        yield shard, lease
            if not left or not idle:
                continue
            if not told:
                told = True
                owners = self._owners(left)
                log.info("waiting for %d shard(s) of other processes: %s", len(left), owners)
            time.sleep(POLL_SECONDS)

    def journal_files(self, shard: int) -> tuple[Path, list[Path]]:
        """A new journal of a shard, and those that other processes left of it."""
        earlier = sorted(self._directory.glob(f"{_name(shard)}.*{JOURNAL.suffix}"))
        return self._directory / f"{_name(shard)}.{uuid4().hex}{JOURNAL.suffix}", earlier

    def journals(self) -> list[Path]:
        """The journals of all shards."""
        return sorted(self._directory.glob(f"*{JOURNAL.suffix}"))

    def finish(self, shard: int, results: Iterable[Result]) -> None:
        """Write the results of a shard, in the order of its images: it is done."""
        with files.atomic_path(self._results(shard)) as temporary, temporary.open("wb") as file:
            for result in results:
                if isinstance(result, str):
                    file.write(json.dumps(result).encode() + b"\n")
                else:
                    file.write(line_of(result))

    def results(self, shard: int) -> Iterator[Result]:
        """Yield the results of a shard that is done."""
        with self._results(shard).open("rb") as file:
            for line in file:
                entry = parsed(line)
                yield json.loads(line) if entry is None else entry

    def end(self, put_together: Callable[[Lease], None]) -> bool:
        """End the run once every shard is done; false where another process ends it.

        Args:
            put_together: Makes the table and whatever else is made of all results, under a lease
                that it asks for before it replaces or removes a file. It may run again after a
                process that was killed in it.

        Raises:
            SegopsError: The run was ended by a process that took it for a killed one.
        """
        while self._is_on():
            lease = self._take(_TABLE)
            if lease is None:
                time.sleep(POLL_SECONDS)
                continue
            with lease:
                if self._is_on():
                    try:
                        put_together(lease)
                        lease.require()
                    except Exception:
                        if lease.is_held():
                            raise
                        continue  # another process took it over, and ends the run or has ended it
                    self._lease.give_back()
                    _retire(self._directory, self._watch)
                    return True
        for _ in range(4):
            with suppress(FileNotFoundError):
                _ended(self._directory, self._process).unlink()
                return False
            time.sleep(POLL_SECONDS)
        raise SegopsError(
            f"{self._output}: another prediction began there while this one did not answer, and "
            "ended it. Run the same command again: it continues where it stopped."
        )

    def _join(self, plan: dict[str, Any]) -> tuple[str, Lease]:
        """Make the run's directory, or join a live run that has the same plan.

        Returns:
            The run's token, and the lease of this process in it.
        """
        told = False
        while True:
            token = uuid4().hex
            if made := self._make({**plan, "run": token}):
                return token, made
            found = self._plan()
            token = str(found.pop("run", ""))
            live = self._live()
            if any(live) and found == plan:
                with suppress(FileNotFoundError):
                    lease = Lease(self._directory / self._process)
                    if self._plan().get("run") == token:
                        log.debug("joining run %s", token)
                        return token, lease
                    lease.give_back()
                continue
            if any(live):
                raise SegopsError(
                    f"{self._output}: a prediction of other images, with other options or of "
                    "another model is under way there. Wait for it to end, start this one with "
                    "the same arguments to share it, or give another --output."
                )
            if None in live:
                if not told:
                    told = True
                    log.info(
                        "%s: another prediction began there; waiting for %.0f s to see whether it "
                        "still runs", self._output, leases.EXPIRY_SECONDS,
                    )  # fmt: skip
                time.sleep(POLL_SECONDS)
                continue
            # It was killed. What it finished stays finished.
            with closing(Journal(self._output)) as journal:
                journal.absorb(self.journals())
                if self._plan().get("run", "") == token and set(self._live()) <= {False}:
                    journal.compact()
                    _retire(self._directory)

    def _live(self) -> list[bool | None]:
        """Whether each lease's process lives, as :meth:`Watch.is_live` says."""
        paths = self._directory.glob(f"*{leases.SUFFIX}")
        return [self._watch.is_live(path) for path in paths]

    def _make(self, plan: dict[str, Any]) -> Lease | None:
        """Make the directory, whole, with its plan and a lease; None where there is one."""
        temporary = self._directory.with_name(f".{self._directory.name}.{uuid4().hex}")
        temporary.mkdir(parents=True)
        lease = None
        try:
            files.write_json(temporary / _PLAN, plan)
            lease = Lease(temporary / self._process)
            temporary.rename(self._directory)
        except OSError:
            if lease is not None:
                lease.give_back()
            if self._directory.is_dir() or not temporary.is_dir():
                shutil.rmtree(temporary, ignore_errors=True)
                return None
            raise
        lease.path = self._directory / self._process
        return lease

    def _plan(self) -> dict[str, Any]:
        try:
            found = json.loads((self._directory / _PLAN).read_bytes())
        except (OSError, ValueError):
            return {}
        return found if isinstance(found, dict) else {}

    def _is_on(self) -> bool:
        return bool(self._plan().get("run") == self._token)

    def _take(self, name: str) -> Lease | None:
        try:
            return self._watch.take(self._directory / f"{name}{leases.SUFFIX}")
        except FileNotFoundError:
            if self._is_on():
                raise
            return None

    def _owners(self, left: Iterable[int]) -> str:
        found = set()
        for shard in left:
            with suppress(FileNotFoundError):
                path = self._directory / f"{_name(shard)}{leases.SUFFIX}"
                found.add(leases.owner(path.read_bytes()))
        return ", ".join(sorted(found))

    def _results(self, shard: int) -> Path:
        return self._directory / f"{_name(shard)}.{self._token}.results"


def _name(shard: int) -> str:
    return f"shard-{shard}"


def _ended(directory: Path, process: str) -> Path:
    """Where the lease of a process lies once its run has ended."""
    return directory.with_name(f".{directory.name}.{process}")


def _retire(directory: Path, watch: Watch | None = None) -> None:
    """Remove a directory at once for all who look, and what killed processes left long ago.

    Args:
        directory: The directory of a run.
        watch: Knows which of its processes were killed; the others are told that the run ended.
            None: it did not end, and nobody is told.
    """
    aside = directory.with_name(f".{directory.name}.{uuid4().hex}")
    with suppress(FileNotFoundError):
        directory.rename(aside)
        for path in aside.glob(f"{_PROCESS}*"):
            if watch is not None and watch.is_live(path) is not False:
                path.rename(_ended(directory, path.name))
    shutil.rmtree(aside, ignore_errors=True)
    for path in directory.parent.glob(f".{directory.name}.*"):
        with suppress(OSError):  # another process was quicker
            if time.time() - path.stat().st_mtime > _LEFT_SECONDS:
                shutil.rmtree(path) if path.is_dir() else path.unlink()
