"""Work in threads while the next item is made: order, bounds, and memory that does not grow."""

from __future__ import annotations

import os
import subprocess
import sys
import threading
import time
import tracemalloc
from collections.abc import Iterator

import cv2
import numpy as np
import pytest
from numpy.typing import NDArray

from segops.evaluate.scoring import Predicted, Tally, judge
from segops.runtime.classes import VOC_CLASSES, VOID
from segops.runtime.errors import SegopsError
from segops.threads import pipelined

HEIGHT, WIDTH = 180, 240


@pytest.mark.skipif(not hasattr(os, "sched_setaffinity"), reason="this system knows no affinity")
def test_cores_are_those_that_the_process_may_use() -> None:
    program = (
        "import os; from segops.threads import cores; "
        "os.sched_setaffinity(0, sorted(os.sched_getaffinity(0))[:1]); print(cores())"
    )
    found = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True)
    assert found.stdout == "1\n", found.stderr


def test_results_come_in_order_however_long_each_takes() -> None:
    def work(number: int) -> int:
        time.sleep(0.002 * (number % 3 == 0))
        return number * number

    found = list(pipelined(range(50), work, threads=3, waiting=6))
    assert found == [number * number for number in range(50)]


def test_opencv_starts_no_threads_beside_these() -> None:
    before = cv2.getNumThreads()
    cv2.setNumThreads(3)
    try:
        assert list(pipelined(range(2), lambda _: cv2.getNumThreads(), 2, 2)) == [1, 1]
        assert cv2.getNumThreads() == 3
    finally:
        cv2.setNumThreads(before)


@pytest.mark.parametrize(("threads", "waiting"), [(1, 0), (2, 4), (4, 1)])
def test_no_more_than_the_bound_exist_at_a_time(threads: int, waiting: int) -> None:
    lock, alive, peak = threading.Lock(), 0, 0

    def items() -> Iterator[int]:
        nonlocal alive, peak
        for number in range(60):
            with lock:
                alive += 1
                peak = max(peak, alive)
            yield number

    for _ in pipelined(items(), lambda number: time.sleep(0.0002), threads, waiting):
        with lock:
            alive -= 1
    assert alive == 0
    assert peak == waiting + 1


def test_with_nothing_waiting_each_is_finished_before_the_next_is_made() -> None:
    events: list[str] = []

    def items() -> Iterator[int]:
        for number in range(5):
            events.append(f"make {number}")
            yield number

    for _ in pipelined(items(), lambda number: events.append(f"work {number}"), 2, 0):
        pass
    assert events == [f"{what} {number}" for number in range(5) for what in ("make", "work")]


def test_the_sizes_under_work_are_bounded_and_a_larger_item_is_alone() -> None:
    lock, sizes, sums = threading.Lock(), [3, 4, 3, 20, 1, 9, 10, 2, 5, 3], list[int]()
    started = list[int]()

    def work(size: int) -> int:
        with lock:
            started.append(size)
            sums.append(sum(started))
        time.sleep(0.002)
        with lock:
            started.remove(size)
        return size

    assert list(pipelined(sizes, work, 4, 8, size=lambda size: size, limit=10)) == sizes
    assert max(one for one in sums if one != 20) <= 10
    assert sums.count(20) == 1


def test_an_error_in_a_thread_ends_all() -> None:
    made: list[int] = []

    def items() -> Iterator[int]:
        for number in range(1000):
            made.append(number)
            yield number

    def work(number: int) -> None:
        if number == 3:
            raise SegopsError("the fourth is broken")

    with pytest.raises(SegopsError, match="the fourth is broken"):
        list(pipelined(items(), work, threads=2, waiting=4))
    assert len(made) <= 3 + 4 + 1
    assert not any(one.name.startswith("segops") for one in threading.enumerate())


def scene(number: int) -> tuple[NDArray[np.uint8], NDArray[np.uint8], NDArray[np.float32]]:
    """Truth, prediction and confidences of an image that is made up."""
    truth = np.zeros((HEIGHT, WIDTH), np.uint8)
    truth[20:100, 30 + number % 50 : 150] = 1 + number % 20
    truth[:5] = VOID
    prediction = np.roll(truth, 4, axis=1)
    prediction[prediction == VOID] = 0
    return truth, prediction, np.full((HEIGHT, WIDTH), 0.75, np.float32)


def peak_bytes(images: int) -> int:
    """Most memory that judging so many images took at a time."""

    def predictions() -> Iterator[Predicted]:
        for number in range(images):
            truth, mask, top = scene(number)
            yield Predicted(f"image_{number:04d}", "hash", truth, mask, top)

    tally = Tally(VOC_CLASSES, details=True)
    tracemalloc.start()
    try:
        for judged in pipelined(
            predictions(), lambda one: judge(one, len(VOC_CLASSES), True), 2, 4
        ):
            tally.add(judged)
        return tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()


def test_memory_does_not_grow_with_the_number_of_images() -> None:
    peak_bytes(10)  # what is kept for ever is made at the first call
    few, many = peak_bytes(20), peak_bytes(100)
    pixels = 80 * HEIGHT * WIDTH
    assert many - few < pixels  # truth, mask and confidence alone are 6 bytes a pixel
