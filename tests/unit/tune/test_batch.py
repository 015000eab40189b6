"""The batch-size finder: the search on a known machine, and a real attempt in a process."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import psutil
import pytest

from segops.params.file import load_params, parse_params
from segops.runtime.errors import SegopsError
from segops.tune.batch import BatchResult, find_batch_size, free_memory, search
from segops.tune.probe import ProbeResult
from segops.tune.setup import device_count, on_one_device
from tests.support.tune_workspace import prepare, tree_of

BASE, EACH = 1000, 70


def machine(memory: int) -> tuple[Callable[[int], ProbeResult | None], list[int]]:
    """A machine on which a batch takes BASE + EACH bytes an image; and the sizes it was asked."""
    asked: list[int] = []

    def attempt(size: int) -> ProbeResult | None:
        asked.append(size)
        needed = BASE + EACH * size
        return ProbeResult(needed, 10.0) if needed <= memory else None

    return attempt, asked


@pytest.mark.parametrize("unit", [1, 2, 3])
@pytest.mark.parametrize("memory", [1200, 1500, 2000, 9000, 50_000])
def test_the_largest_batch_is_found(memory: int, unit: int) -> None:
    attempt, asked = machine(memory)
    done = search(attempt, unit, 1024)
    truth = (memory - BASE) // EACH // unit * unit
    assert list(done) == sorted(done)
    fitting = [size for size, measured in done.items() if measured]
    if truth < unit * (2 if unit == 1 else 1):
        assert fitting == []
        return
    assert truth - max(fitting) <= max(unit - 1, truth // 16)
    assert max(fitting) <= truth
    assert all(size % unit == 0 for size in asked)
    assert len(asked) == len(set(asked)) <= 14


def test_a_size_that_cannot_fit_is_not_tried() -> None:
    memory = BASE + 20 * EACH
    attempt, asked = machine(memory)
    done = search(attempt, 1, 1024, memory)
    # 32 images would take 3240 of 2400 bytes; 24 would take 2680, which only an attempt can tell.
    assert 32 in done
    assert 32 not in asked
    assert 24 in asked
    assert done == search(machine(memory)[0], 1, 1024)


def test_no_size_beyond_the_most_is_tried() -> None:
    attempt, asked = machine(10**9)
    assert list(search(attempt, 1, 50)) == [2, 4, 8, 16, 32] == asked


def test_where_nothing_fits_one_attempt_tells() -> None:
    attempt, asked = machine(0)
    assert search(attempt, 1, 64) == {2: None}
    assert asked == [2]


def test_the_suggestion_is_the_smallest_batch_of_about_the_best_speed() -> None:
    speeds = {2: 10.0, 4: 18.0, 8: 29.5, 16: 30.0}
    attempts = {size: ProbeResult(1, speed) for size, speed in speeds.items()}
    found = BatchResult({**attempts, 32: None}, devices=3, limit=None)
    assert (found.largest, found.suggestion) == (48, 24)


def test_free_memory_is_of_this_machine() -> None:
    assert 0 < free_memory() <= psutil.virtual_memory().total


@pytest.mark.slow
def test_real_attempts_in_processes_of_their_own(tiny_voc: Path) -> None:
    root = prepare(tiny_voc.parent)
    settings = load_params(root)
    before = tree_of(root)
    found = find_batch_size(root, settings, most=2)
    ((size, measured),) = found.attempts.items()
    assert (size, found.largest, found.suggestion) == (2, 2, 2)
    assert measured is not None
    assert measured.images_per_second > 1
    # Python with torch takes a few hundred MiB, the tiny network next to nothing.
    assert 100 * 2**20 < measured.memory < 4 * 2**30
    with pytest.raises(SegopsError, match=r"Not even a batch of 2 fits .* may take 0\.0 GiB"):
        find_batch_size(root, settings, most=8, memory=50 * 2**20)
    assert tree_of(root) == before


def test_one_device_takes_the_shares_of_all_as_parts() -> None:
    train = {"batch_size": 16, "accumulate": 2, "devices": 2, "nodes": 2, "sync_batch_norm": True}
    several = parse_params({"train": train | {"device": "cpu"}})
    alone = on_one_device(several).train
    assert device_count(several.train) == 4
    assert (alone.devices, alone.nodes, alone.accumulate, alone.batch_size) == (1, 1, 8, 16)
    assert not alone.sync_batch_norm
    single = parse_params({})
    assert on_one_device(single) == single
