"""A run's processes know of each other by leases, whatever pauses or kills one of them."""

from __future__ import annotations

import os
import time
from contextlib import closing
from dataclasses import replace
from pathlib import Path
from threading import Event, Thread

import pytest

from segops.predict import leases, shards
from segops.predict.journal import JOURNAL, SHARDS
from segops.predict.leases import Lease, Watch
from segops.predict.shards import Round
from segops.runtime.errors import SegopsError
from tests.support.folder_runs import awaited, finished_image, leave, shown


def test_a_lease_of_another_machine_is_over_once_its_counter_stands_still(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(leases, "EXPIRY_SECONDS", 0.5)
    path, watch = tmp_path / "shard-0.lease", Watch()
    leave(path, "elsewhere")
    os.utime(path, (2e9, 2e9))  # its clock is far ahead
    stop = Event()

    def beat() -> None:
        count = 1
        while not stop.wait(0.1):
            count += 1
            path.write_bytes(path.read_bytes()[:-3] + f"{count % 10}".encode() + b'"}')

    beating = Thread(target=beat)
    beating.start()
    end = time.monotonic() + 1.5
    while time.monotonic() < end:
        assert watch.take(path) is None
        time.sleep(0.05)
    assert watch.is_live(path)
    stop.set()
    beating.join()
    began = time.monotonic()
    while (lease := watch.take(path)) is None:
        time.sleep(0.05)
    assert 0.3 < time.monotonic() - began < 5
    with lease:
        assert lease.is_held()
        assert leases.owner(path.read_bytes()).endswith(f":{os.getpid()}")
        with pytest.raises(FileExistsError):
            Lease(path)
    assert list(tmp_path.iterdir()) == []


def test_a_lease_beats_and_notices_that_it_was_taken_over(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(leases, "BEAT_SECONDS", 0.05)
    path = tmp_path / "shard-0.lease"
    with Lease(path) as lease:
        first = path.read_bytes()
        awaited(lambda: path.read_bytes() != first)
        assert len(path.read_bytes()) == len(first)
        assert Watch().take(path) is None
        path.unlink()
        other = leave(path, "elsewhere")
        assert lease.lost.wait(5)
    assert path.read_bytes() == other  # not this process's to remove


def test_results_are_those_that_were_given(tmp_path: Path) -> None:
    entry = finished_image((2, 1), 0.5, (1, 1))
    strange = replace(entry, mask="b\udce9.png")
    given = [entry, "b\udce9.png: broken,\nby far", strange, "{}", "null"]
    with Round(tmp_path, {"of": "tests"}, 1) as run:
        for shard, lease in run.todo():
            assert lease.is_held()
            run.finish(shard, given)
        assert list(run.results(0)) == given
    assert not (tmp_path / JOURNAL).exists()
    assert shown(tmp_path) == set()


def finish_all(run: Round) -> None:
    for shard, _ in run.todo():
        run.finish(shard, [])


def test_a_process_between_two_shards_keeps_its_run(tmp_path: Path) -> None:
    with Round(tmp_path, {"of": "A"}, 2) as run:
        with pytest.raises(SegopsError, match="a prediction of other images, with other options"):
            Round(tmp_path, {"of": "B"}, 2)
        finish_all(run)
        assert run.end(lambda lease: lease.require())
    assert not list((tmp_path / SHARDS).parent.glob(".shards*"))
    with Round(tmp_path, {"of": "B"}, 2) as run:
        finish_all(run)
        assert run.end(lambda lease: lease.require())


def test_a_process_that_is_paused_as_its_run_ends_knows_that_it_ended(tmp_path: Path) -> None:
    with Round(tmp_path, {"of": "A"}, 2) as first, Round(tmp_path, {"of": "A"}, 2) as second:
        finish_all(first)
        assert first.end(lambda lease: lease.require())
        with Round(tmp_path, {"of": "B"}, 2):
            assert list(second.todo()) == []
            assert not second.end(lambda _: pytest.fail("another process ended the run"))
        assert not list((tmp_path / SHARDS).parent.glob(".shards*"))


def test_what_killed_processes_left_beside_a_run_is_removed_once_it_is_old(tmp_path: Path) -> None:
    state = (tmp_path / SHARDS).parent
    state.mkdir()
    old, new = state / ".shards.process-old.lease", state / ".shards.new"
    old.touch()
    (state / ".shards.old").mkdir()
    new.mkdir()
    for path in (old, state / ".shards.old"):
        os.utime(path, (0, 0))
    with Round(tmp_path, {"of": "A"}, 1) as run:
        finish_all(run)
        assert run.end(lambda lease: lease.require())
    assert list(state.glob(".shards*")) == [new]


def test_a_process_whose_run_was_taken_for_a_killed_one_says_so(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(shards, "POLL_SECONDS", 0.01)
    with Round(tmp_path, {"of": "A"}, 2) as paused:
        for path in (tmp_path / SHARDS).glob("*.lease"):
            path.unlink()  # as if another machine had seen it stand still
        with Round(tmp_path, {"of": "B"}, 2) as other:
            assert list(paused.todo()) == []
            with pytest.raises(SegopsError, match="another prediction began there"):
                paused.end(lambda _: pytest.fail("its run is gone"))
            finish_all(other)
            assert other.end(lambda lease: lease.require())


def test_who_wakes_up_while_it_ends_a_run_leaves_the_next_run_alone(tmp_path: Path) -> None:
    with Round(tmp_path, {"of": "A"}, 1) as paused, Round(tmp_path, {"of": "A"}, 1) as second:
        finish_all(paused)
        later = list[Round]()

        def overtaken(_: Lease) -> None:
            (tmp_path / SHARDS / "table.lease").unlink()
            assert second.end(lambda lease: lease.require())
            later.append(Round(tmp_path, {"of": "C"}, 2))

        assert not paused.end(overtaken)
        (run,) = later
        with run:
            finish_all(run)
            assert run.end(lambda lease: lease.require())


def test_a_process_that_joins_keeps_what_the_others_did(tmp_path: Path) -> None:
    with Round(tmp_path, {"of": "A"}, 2) as first:
        todo = first.todo()
        shard, _ = next(todo)
        first.finish(shard, [])
        with Round(tmp_path, {"of": "A"}, 2) as second:
            assert list(second.results(shard)) == []
            todo.close()
            with closing(second.todo()) as left:
                assert next(left)[0] == 1 - shard


def test_a_lease_that_is_given_back_and_made_anew_is_left_alone(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path, over = tmp_path / "shard-0.lease", Watch._over
    leave(path, "elsewhere")

    def late(self: Watch, path: Path) -> bytes | None:
        path.unlink()
        try:
            return over(self, path)
        finally:
            path.touch()  # another process makes it, and has not yet written it

    monkeypatch.setattr(Watch, "_over", late)
    assert Watch().take(path) is None
    assert path.read_bytes() == b""


def test_a_lease_that_is_moved_aside_for_a_moment_is_still_held(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path, aside = tmp_path / "shard-0.lease", tmp_path / "aside"
    with Lease(path) as lease:
        path.rename(aside)
        with monkeypatch.context() as patch:
            patch.setattr(time, "sleep", lambda _: aside.rename(path))
            assert lease.is_held()
        assert lease.is_held()
    assert list(tmp_path.iterdir()) == []
