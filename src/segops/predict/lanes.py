"""Predicting several images at a time on a CPU, each on its share of the cores.

Cores that work on one image wait for each other after every layer; two that have an image each do
a quarter more. The predictions are the same. On a graphics card one image fills the device.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from functools import partial
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


def lanes_for(device: torch.device | str, pixels: float) -> int:
    """How many images to predict at a time: at most one for each of torch's threads.

    Args:
        device: Where the network lies.
        pixels: Those of the largest image, at the largest scale it is predicted at.
    """
    if torch.device(device).type != "cpu":
        return 1
    return max(1, min(torch.get_num_threads(), int(PIXELS_AT_ONCE / max(pixels, 1))))


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
    # torch counts its threads for each thread that calls it.
    on_share = partial(_on_threads, torch.get_num_threads() // lanes, predict)
    yield from pipelined(items, on_share, lanes, WAITING_PER_LANE * lanes)


def _on_threads(threads: int, predict: Callable[[Item], Result], item: Item) -> Result:
    torch.set_num_threads(threads)
    return predict(item)
