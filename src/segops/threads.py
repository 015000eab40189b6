"""How many cores there are to use, and work in threads while the next items are made."""

from __future__ import annotations

import os
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from typing import TypeVar

Item = TypeVar("Item")
Result = TypeVar("Result")


def cores() -> int:
    """CPU cores that this process may use, at least 1: in a container not all there are."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def pipelined(
    items: Iterable[Item], work: Callable[[Item], Result], threads: int, waiting: int
) -> Iterator[Result]:
    """Yield ``work(item)`` of every item, in the order of the items.

    The items are made in the calling thread, the work is done in others. At most `waiting` + 1
    items and results exist at a time, however many items there are.

    Args:
        items: What is worked on.
        work: Done in a thread. What it raises is raised here, and the rest is given up.
        threads: Number of threads, at least 1.
        waiting: How many items may be under way while the next one is made; 0: each is finished
            before the next one is begun.
    """
    pool = ThreadPoolExecutor(threads, thread_name_prefix="segops")
    under_way: deque[Future[Result]] = deque()
    try:
        for item in items:
            under_way.append(pool.submit(work, item))
            del item  # else its pixels stay until the next one is made
            while len(under_way) > waiting:
                yield under_way.popleft().result()
        while under_way:
            yield under_way.popleft().result()
    finally:
        pool.shutdown(cancel_futures=True)
