"""The child process that loads a bundle and scores it. Started by :mod:`segops.evaluate.score`.

It gets the path of a request (JSON) and says on its standard output, line by line as JSON, which
image is done, or what is wrong. Whatever the bundle's code prints goes to standard error.

The network predicts in the main thread, one image after another; a few threads judge the masks
meanwhile, or in turns with it where it takes all cores. What is judged is added up in the order of
the images, so that the same request gives the same bytes, and only a handful of images is in memory
at a time.
"""

from __future__ import annotations

import json
import os
import statistics
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from functools import partial
from pathlib import Path
from typing import Any, TextIO

import cv2
import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image

from segops import files
from segops.data.store import PackedStore
from segops.errors import SegopsError
from segops.evaluate import pictures
from segops.evaluate.album import AlbumWriter
from segops.evaluate.judging import Judged, Predicted, Tally, judge
from segops.evaluate.pipeline import in_turns, pipelined
from segops.evaluate.score import (
    ACTIVATIONS,
    CONFUSION,
    COUNTS,
    ERROR_TABLE,
    FIGURES,
    KINDS,
    MASKS,
    TIMING,
)
from segops.predict.bundle import BundledPredictor, load_bundle

MOST_THREADS = 4
WAITING_PER_THREAD = 2
"""Predictions that may wait for each judging thread."""


def main() -> int:
    """Do what the request says; the exit status is 0 if it was done."""
    channel = _claim_standard_output()
    try:
        request = json.loads(Path(sys.argv[1]).read_text(encoding="utf-8"))
        for image_id in score_images(request):
            _say(channel, {"done": image_id})
    except SegopsError as error:
        _say(channel, {"error": str(error)})
        return 1
    except BrokenPipeError:  # the parent is gone
        return 1
    return 0


def score_images(request: dict[str, Any]) -> Iterator[str]:
    """Score a split and write the results.

    Args:
        request: As :mod:`segops.evaluate.score` makes it.

    Yields:
        The id of each image that is done; of every way of predicting anew.

    Raises:
        SegopsError: The bundle or the data is not usable; the image is named where it is one.
    """
    if request["threads"] is not None:
        torch.set_num_threads(request["threads"])
    cv2.setNumThreads(1)
    store = PackedStore(Path(request["store"]))
    for way in request["ways"]:
        predictor = _open(request, way["predict"])
        yield from _score(request, predictor, store, Path(way["out"]))


def _score(
    request: dict[str, Any], predictor: BundledPredictor, store: PackedStore, out: Path
) -> Iterator[str]:
    details, keep = request["details"], request["masks"]
    tally, stopwatch = Tally(store.class_names, details), Stopwatch()
    work = partial(judge, classes=len(store.class_names), details=details, keep=keep)
    predictions = _predictions(predictor, store, request["images"], details, stopwatch)
    device = torch.device(predictor.device)
    with ExitStack() as stack:
        albums = {name: stack.enter_context(AlbumWriter(out / name)) for name in (MASKS, KINDS)}
        for judged in _judged(predictions, work, device, request["apart"]):
            tally.add(judged)
            for name, content in ((MASKS, judged.mask), (KINDS, judged.kinds)):
                if content is not None:
                    albums[name].add(judged.image_id, content)
            yield judged.image_id
    counts, errors = tally.counts, tally.errors
    explained = pictures.to_explain(counts, errors, request["explain"])
    _explain(predictor, store, explained, out)
    counts.to_parquet(out / COUNTS, index=False)
    errors.to_parquet(out / ERROR_TABLE, index=False)
    np.save(out / CONFUSION, tally.confusion)
    found = {
        "summary": tally.summary,
        "confidences": tally.confidences,
        "explained": explained,
    }
    files.write_json(out / FIGURES, found)
    files.write_json(out / TIMING, {"milliseconds": stopwatch.milliseconds})


def _open(request: dict[str, Any], predict: dict[str, Any] | None) -> BundledPredictor:
    predictor = load_bundle(
        Path(request["bundle"]), request["device"], request["expected_digest"], predict
    )
    if predict is not None and not predictor.says_confidence:
        raise SegopsError(
            f"{request['bundle']}: this model predicts in one way only: it was made by segops "
            f"{predictor.model.get('segops_version', '(unknown)')}, before there was a choice. "
            "`dvc repro package` makes a new bundle of the same weights."
        )
    return predictor


def _judged(
    predictions: Iterator[Predicted],
    work: Callable[[Predicted], Judged],
    device: torch.device,
    apart: bool,
) -> Iterator[Judged]:
    """Judge what is predicted, as the cores allow; `apart`: each before the next is predicted."""
    if apart:  # to be timed by itself, the network must have the machine for itself
        return in_turns(predictions, work, 1, 1)
    cores = _cores()
    free = cores - (1 if device.type == "cuda" else torch.get_num_threads())
    threads = min(MOST_THREADS, free if free > 0 else cores)
    overlap = pipelined if free > 0 else in_turns
    return overlap(predictions, work, threads, WAITING_PER_THREAD * threads)


def _cores() -> int:
    """Cores that this process may use."""
    allowed = getattr(os, "sched_getaffinity", lambda _: range(os.cpu_count() or 1))
    return len(allowed(0))


class Stopwatch:
    """Times predictions; the first one, which warms up, does not count."""

    def __init__(self) -> None:
        self._seconds: list[float] = []

    def __enter__(self) -> None:
        self._start = time.perf_counter()

    def __exit__(self, *_: object) -> None:
        self._seconds.append(time.perf_counter() - self._start)

    @property
    def milliseconds(self) -> float | None:
        """The median; None before the second prediction."""
        return 1000 * statistics.median(self._seconds[1:]) if len(self._seconds) > 1 else None


def _predictions(
    predictor: BundledPredictor,
    store: PackedStore,
    images: list[str],
    details: bool,
    stopwatch: Stopwatch,
) -> Iterator[Predicted]:
    """Predict the images, one after another."""
    confident = details and predictor.says_confidence
    for image_id in images:
        top: NDArray[np.float32] | None = None
        try:
            with stopwatch:
                if confident:
                    ids, probabilities = predictor.predict_tensors(store.image(image_id))
                    mask, top = ids.cpu().numpy(), probabilities.cpu().numpy()
                else:
                    mask = predictor.predict_mask(store.image(image_id))
        except SegopsError as error:
            raise SegopsError(f"{image_id}: {error}") from error
        except Exception as error:
            error.add_note(f"This happened with the image {image_id}.")
            raise
        truth = store.mask(image_id)
        yield Predicted(image_id, store.image_sha256(image_id), truth, mask, top)


def _explain(
    predictor: BundledPredictor, store: PackedStore, explained: dict[str, int], out: Path
) -> None:
    """Keep where the network looked, for a class of each of some images."""
    if not explained:
        return
    from segops.predict.explain import explain  # takes seconds

    (out / ACTIVATIONS).mkdir()
    for image_id, class_id in explained.items():
        activation = explain(predictor, store.image(image_id), class_id)
        grey = np.rint(255 * activation).astype(np.uint8)
        Image.fromarray(grey).save(out / ACTIVATIONS / f"{image_id}.png", compress_level=1)


def _claim_standard_output() -> TextIO:
    """Keep the pipe to the parent for the protocol; send everything else to standard error."""
    channel = os.fdopen(os.dup(1), "w", encoding="utf-8")
    os.dup2(2, 1)
    return channel


def _say(channel: TextIO, message: dict[str, str]) -> None:
    channel.write(json.dumps(message) + "\n")
    channel.flush()


if __name__ == "__main__":
    sys.exit(main())
