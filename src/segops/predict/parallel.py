"""Predicts several images at a time on a CPU, each on an equal part of torch's threads.

Threads that work on the same image wait for each other after every layer; two images at a time on
half of the threads each are predicted a quarter faster. The number of threads of an image can
change the last bits of its prediction. A GPU is filled by one image.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from typing import TypeVar

import torch

from segops.threads import pipelined

Item = TypeVar("Item")
Result = TypeVar("Result")

PIXELS_AT_ONCE = 4_000_000
"""Most pixels that a CPU predicts at a time, unless a single image has more: as many as
`predict.whole_pixels` allows one image by default, so that small images take no more memory."""
WAITING_PER_IMAGE = 2
"""Images that may wait for each image under prediction."""


def images_at_once(device: torch.device | str, pixels: float, images: int) -> int:
    """How many images to predict at a time: at most one for each of torch's threads.

    Args:
        device: Where the network lies.
        pixels: Pixels of the largest image, at the largest scale of its prediction.
        images: Number of images.
    """
    if torch.device(device).type != "cpu":
        return 1
    return max(1, min(torch.get_num_threads(), images, int(PIXELS_AT_ONCE / max(pixels, 1))))


def predict_parallel(
    predict: Callable[[Item], Result], items: Iterable[Item], at_once: int
) -> Iterator[Result]:
    """Yield ``predict(item)`` of every item, in the order of the items, `at_once` at a time.

    `predict` is safe to call in several threads. A network in it is in evaluation mode and full
    precision already, because the predictor sets both for the whole process.
    """
    if at_once == 1:
        yield from map(predict, items)
        return
    threads = torch.get_num_threads()

    def on_some_threads(item: Item) -> Result:
        # torch counts threads for each calling thread, and a thread's first call of torch takes the
        # count that was set last by any thread: so a new thread asks before it sets its own.
        torch.get_num_threads()
        torch.set_num_threads(threads // at_once)
        return predict(item)

    try:
        yield from pipelined(items, on_some_threads, at_once, WAITING_PER_IMAGE * at_once)
    finally:
        torch.set_num_threads(threads)
