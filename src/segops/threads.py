"""The cores that a process may use, and work done in threads while the next items are made."""

from __future__ import annotations

import os
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from typing import TypeVar

Item = TypeVar("Item")
Result = TypeVar("Result")


def cores() -> int:
    """Cores that this process may use, which in a container are not all there are."""
    allowed = getattr(os, "sched_getaffinity", lambda _: range(os.cpu_count() or 1))
    return len(allowed(0))


def pipelined(
    items: Iterable[Item],
    work: Callable[[Item], Result],
    threads: int,
    waiting: int,
    *,
    size: Callable[[Item], int] = lambda _: 0,
    limit: int = 0,
) -> Iterator[Result]:
    """Yield ``work(item)`` of every item, in the order of the items.

    The calling thread makes the items, other threads do the work. At most `waiting` + 1 items and
    results exist at a time, however many items there are.

    Args:
        items: The input of `work`.
        work: Runs in a thread. Its exception is raised here and ends the iteration.
        threads: Number of threads, at least 1.
        waiting: Items that may be submitted and unfinished while the next item is made; 0: each
            item is finished before the next item is made.
        size: Size of an item, in any unit.
        limit: Largest sum of the sizes of the items submitted at a time. A larger item is worked
            on alone.
    """
    import cv2

    pool = ThreadPoolExecutor(threads, thread_name_prefix="segops")
    submitted: deque[tuple[int, Future[Result]]] = deque()
    inner_threads = cv2.getNumThreads()
    try:
        if threads > 1:
            cv2.setNumThreads(1)  # its own would wait for each other on cores that ours need
        for item in items:
            own = size(item)
            while submitted and sum(other for other, _ in submitted) + own > limit:
                yield submitted.popleft()[1].result()
            submitted.append((own, pool.submit(work, item)))
            del item  # else its pixels stay until the next item is made
            while len(submitted) > waiting:
                yield submitted.popleft()[1].result()
        while submitted:
            yield submitted.popleft()[1].result()
    finally:
        pool.shutdown(cancel_futures=True)
        cv2.setNumThreads(inner_threads)
