"""Predicting several images at a time on a CPU, each on its share of the cores.

Cores that work on one image wait for each other after every layer; two that have an image each do
a quarter more. What a network says can differ in the last bits with the number of threads that it
has, as it does between machines. On a graphics card one image fills the device.

For a process of its own, whose network predicts in evaluation mode and in full precision anyway:
the predictor sets both for the whole process while it works.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from typing import TypeVar

import torch

from segops.threads import pipelined

Item = TypeVar("Item")
Result = TypeVar("Result")

PIXELS_AT_ONCE = 4_000_000
"""Most pixels that are predicted at a time on a CPU, but for an image that has more by itself: as
many as one image may have to be predicted whole, by default, so that many small ones take no more
memory than it does."""
WAITING_PER_LANE = 2
"""Images that may wait for each lane."""


def lanes_for(device: torch.device | str, pixels: float, images: int) -> int:
    """How many images to predict at a time: at most one for each of torch's threads.

    Args:
        device: Where the network lies.
        pixels: Those of the largest image, at the largest scale it is predicted at.
        images: How many there are.
    """
    if torch.device(device).type != "cpu":
        return 1
    return max(1, min(torch.get_num_threads(), images, int(PIXELS_AT_ONCE / max(pixels, 1))))


def in_lanes(
    predict: Callable[[Item], Result], items: Iterable[Item], lanes: int
) -> Iterator[Result]:
    """Yield ``predict(item)`` of every item, in the order of the items.

    Args:
        predict: Safe to call in several threads.
        items: What is predicted.
        lanes: How many at a time, on an equal share of torch's threads each; 1: one after another
            in the calling thread.
    """
    if lanes == 1:
        yield from map(predict, items)
        return
    threads = torch.get_num_threads()

    def on_share(item: Item) -> Result:
        _use_threads(threads // lanes)
        return predict(item)

    try:
        yield from pipelined(items, on_share, lanes, WAITING_PER_LANE * lanes)
    finally:
        torch.set_num_threads(threads)


def _use_threads(threads: int) -> None:
    """Have torch use so many threads for what the calling thread does.

    torch counts them for each thread that calls it. One that calls it for the first time takes the
    number that any thread has set last, when it asks for it: so it must have asked before it sets.
    """
    torch.get_num_threads()
    torch.set_num_threads(threads)
