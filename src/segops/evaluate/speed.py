"""How long models take for an image, each in a process of its own outside the checkout.

The processes take turns, pass by pass, so that other work on the machine slows all models alike.
This module is the parent, and with the path of a request (JSON) as its argument the worker: for
each line that it reads, the worker predicts the images once and writes the time as a line of JSON.
"""

from __future__ import annotations

import json
import re
import statistics
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, TextIO

import numpy as np
from numpy.typing import NDArray

from segops.children import apart, reply, to_parent
from segops.data.store import PackedStore
from segops.progress import track
from segops.runtime.errors import SegopsError
from segops.threads import cores
from segops.words import MIB

if TYPE_CHECKING:
    from segops.predict.bundle import BundledPredictor

IMAGES = 4
FEWEST, MOST = 7, 101
SECONDS = 1.5
"""Passes of each model: as many as take so long, within these bounds; an odd number."""
NO_NETWORK: dict[str, int | None] = {"parameters": None, "multiply_adds": None}
"""What is counted of an export, whose runtime does not say."""


@dataclass(frozen=True)
class Timing:
    """The time of a model.

    Attributes:
        milliseconds: Median over the passes of the mean time an image.
        p50: Median over all predictions, in milliseconds.
        p95: Their 95th percentile.
        peak_mib: Most memory that the process had, MiB; None where the system does not say.
        device_peak_mib: Most memory of the graphics card that torch had taken, MiB; None on a CPU.
        images: Number of images of a pass.
        passes: Number of passes; two before them warm up.
        device: Torch device.
        threads: CPU threads of torch.
        parameters: Number of the network's parameters; None for an export.
        multiply_adds: Multiplications, each with its addition, of all convolutions and matrix
            products of predicting the first image; None for an export.
        size: Height and width of the first image, pixels.
    """

    milliseconds: float
    p50: float
    p95: float
    peak_mib: float | None
    device_peak_mib: float | None
    images: int
    passes: int
    device: str
    threads: int
    parameters: int | None
    multiply_adds: int | None
    size: tuple[int, int]


def measure(
    bundles: Sequence[tuple[Path, str]],
    store: PackedStore,
    split: str,
    *,
    device: str = "auto",
    threads: int | None = None,
    images: int = IMAGES,
) -> list[Timing]:
    """Measure the time that each bundle takes for the first images of a split.

    Args:
        bundles: Bundles, each with its digest, which is checked before its code is run.
        store: The packed data.
        split: `train` or `val`.
        device: A torch device, or `auto`: the GPU if there is one, else the CPU.
        threads: CPU threads of torch; None: its own choice.
        images: Number of images.

    Returns:
        The timings, in the order of the bundles.

    Raises:
        SegopsError: A bundle is not usable or has another digest, or its process died.
    """
    request: dict[str, Any] = {
        "store": str(store.path.resolve()),
        "images": list(store.ids(split)[:images]),
        "device": device,
        "threads": threads,
    }
    with ExitStack() as stack:
        workers = [
            stack.enter_context(
                _worker(request | {"bundle": str(bundle.resolve()), "digest": digest})
            )
            for bundle, digest in bundles
        ]
        started = [worker.read() for worker in workers]
        turns: list[tuple[_Worker, list[list[float]]]] = [(worker, []) for worker in workers]
        passes = _passes(max(facts["seconds"] for facts in started))
        for number in track(range(passes), "Measuring the time of an image", passes):
            # Each model is as often the first of a round as the last.
            for worker, own in turns if number % 2 else turns[::-1]:
                own.append(worker.ask()["each"])
        last = [worker.ask() for worker in workers]
    return [
        Timing(
            milliseconds=1000 * statistics.median(map(statistics.mean, own)),
            p50=1000 * float(np.quantile(own, 0.5)),
            p95=1000 * float(np.quantile(own, 0.95)),
            peak_mib=peaks["peak_mib"],
            device_peak_mib=peaks["device_peak_mib"],
            images=len(request["images"]),
            passes=passes,
            device=facts["device"],
            threads=facts["threads"],
            parameters=facts["parameters"],
            multiply_adds=facts["multiply_adds"],
            size=store.size(request["images"][0]),
        )
        for facts, (_, own), peaks in zip(started, turns, last, strict=True)
    ]


def _passes(seconds: float) -> int:
    """Return the number of passes for models that take at most so long for one."""
    return min(MOST, max(FEWEST, 2 * int(SECONDS / seconds / 2) + 1))


class _Worker:
    """A worker process, for its parent."""

    def __init__(self, bundle: str, process: subprocess.Popen[str], words: Any) -> None:
        self.bundle, self.process, self.words = bundle, process, words

    def ask(self) -> dict[str, Any]:
        """Let the worker predict the images once, and return what it says."""
        assert self.process.stdin is not None
        try:
            self.process.stdin.write("\n")
            self.process.stdin.flush()
        except BrokenPipeError:  # reading tells why
            pass
        return self.read()

    def read(self) -> dict[str, Any]:
        """Return the next line of the worker."""
        return reply(self.process, self.words, self.bundle)


@contextmanager
def _worker(request: dict[str, Any]) -> Iterator[_Worker]:
    with apart("segops.evaluate.speed", request, subprocess.PIPE) as (process, words):
        yield _Worker(request["bundle"], process, words)


def _serve(request: dict[str, Any], channel: TextIO) -> None:
    """Carry out a request in the worker until its parent closes the pipe."""
    import cv2

    from segops.predict.bundle import TORCH, load_bundle, read_model, runtime_of

    bundle, threads = Path(request["bundle"]), request["threads"]
    uses_torch = runtime_of(read_model(bundle)) == TORCH
    if uses_torch:  # what an export needs of memory is without it
        import torch

        if threads is not None:
            torch.set_num_threads(threads)
        threads = torch.get_num_threads()
    cv2.setNumThreads(1)
    store = PackedStore(Path(request["store"]))
    images = [store.image(image_id) for image_id in request["images"]]
    predictor = load_bundle(
        bundle, request["device"], request["digest"], threads=None if uses_torch else threads
    )

    def each() -> list[float]:
        seconds = []
        for image in images:
            start = time.perf_counter()
            predictor.predict_mask(image)
            seconds.append(time.perf_counter() - start)
        return seconds

    each()  # the first pass takes longer
    facts = {
        **(_network(predictor, images[0]) if uses_torch else NO_NETWORK),
        "device": str(predictor.device),
        "threads": threads or cores(),
        "seconds": sum(each()),
    }
    print(json.dumps(facts), file=channel, flush=True)
    for _ in sys.stdin:
        answer = {
            "each": each(),
            "peak_mib": peak_mib(),
            "device_peak_mib": _device_peak_mib(predictor) if uses_torch else None,
        }
        print(json.dumps(answer), file=channel, flush=True)


def _network(predictor: BundledPredictor, image: NDArray[np.uint8]) -> dict[str, int | None]:
    """Count the network's parameters, and the multiplications of predicting an image."""
    from torch.utils.flop_counter import FlopCounterMode

    try:
        parameters = sum(one.numel() for one in predictor.network.parameters())
    except SegopsError:  # the code of an old bundle does not give its network away
        return NO_NETWORK
    with FlopCounterMode(display=False) as counter:
        predictor.predict_mask(image)
    # It counts a multiplication and its addition as two.
    return {"parameters": parameters, "multiply_adds": counter.get_total_flops() // 2}


def _device_peak_mib(predictor: BundledPredictor) -> float | None:
    import torch

    if predictor.device.type != "cuda":
        return None
    return float(torch.cuda.max_memory_allocated(predictor.device)) / MIB


def peak_mib() -> float | None:
    """Most memory that this process had since it was started, in MiB; None where Linux is not."""
    status = Path("/proc/self/status")
    if not status.is_file():
        return None
    found = re.search(r"^VmHWM:\s+(\d+) kB", status.read_text(), re.MULTILINE)
    return None if found is None else int(found[1]) / 1024


def main() -> None:
    """Run the worker."""
    with to_parent() as channel:  # the bundle's code may print
        try:
            _serve(json.loads(Path(sys.argv[1]).read_text(encoding="utf-8")), channel)
        except SegopsError as error:
            print(json.dumps({"error": str(error)}), file=channel, flush=True)


if __name__ == "__main__":
    main()
