"""The scoring process: loads a bundle, predicts the images, judges the masks, writes files.

:mod:`segops.evaluate.score` starts it with the path of a request (JSON). It writes lines of JSON to
standard output: the id of each image that is done, or an error. What the bundle's code prints goes
to standard error.

On a CPU the network predicts several images at a time (:mod:`segops.predict.parallel`), on a GPU
one after another; a few threads judge the masks meanwhile. Their results are added up in the order
of the images, so that the same request gives the same bytes.
"""

from __future__ import annotations

import gc
import os
import sys

if __name__ == "__main__":
    # Keep the pipe to the parent for the protocol; send everything else, also what a library
    # prints when it is imported, to standard error.
    CHANNEL = os.fdopen(os.dup(1), "w", encoding="utf-8")
    os.dup2(2, 1)
    gc.disable()  # imports leave no garbage, and each collection would look at all that they made

import json
import logging
import math
import statistics
import time
from collections.abc import Iterator
from dataclasses import dataclass
from functools import partial
from io import BytesIO
from pathlib import Path
from typing import Any, TextIO
from zipfile import ZIP_DEFLATED, ZipFile, ZipInfo

import cv2
import numpy as np
import pandas as pd
import torch
from numpy.typing import NDArray

from segops import files
from segops.data.store import PackedStore
from segops.evaluate import pictures
from segops.evaluate.batches import require_any_batch
from segops.evaluate.bootstrap import COLUMNS
from segops.evaluate.corruptions import CorruptedStore
from segops.evaluate.places import places_of, table_of
from segops.evaluate.score import (
    ACTIVATIONS,
    CONFUSION,
    COUNTS,
    ERROR_TABLE,
    ERRORS,
    FIGURES,
    KINDS,
    MASKS,
    PICTURES,
    PLACES,
    TIMING,
)
from segops.metrics.confusion import confusion_matrix
from segops.metrics.iou import class_pixels
from segops.metrics.split_figures import ImageFigures, SplitFigures, judge_image
from segops.predict.bundle import TORCH, BundledPredictor, load_bundle
from segops.predict.machine import describe
from segops.predict.parallel import images_at_once, predict_parallel
from segops.runtime.errors import SegopsError
from segops.threads import cores, pipelined

MOST_JUDGES = 4
"""Most threads that judge."""
WAITING_PER_THREAD = 2
"""Images that may wait for each thread."""
PIXELS_AT_ONCE = 32_000_000
"""Most pixels that are judged or wait at a time, unless a single image has more: a pixel takes five
bytes where it waits, and more where it is judged."""
log = logging.getLogger("segops")


@dataclass(frozen=True)
class Predicted:
    """A prediction that is to be judged.

    Attributes:
        sha256: SHA-256 of the image's file.
        truth: uint8 (H, W), ids and 255 for void.
        mask: uint8 (H, W), predicted ids.
        top: float32 (H, W), probability of the predicted class; None where the model gives none.
    """

    image_id: str
    sha256: str
    truth: NDArray[np.uint8]
    mask: NDArray[np.uint8]
    top: NDArray[np.float32] | None


@dataclass(frozen=True)
class JudgedImage:
    """A prediction and its counts.

    Attributes:
        predicted: The prediction.
        confusion: int64 (C, C), rows truth, columns prediction.
        figures: All other counts; None where only pixels are counted.
    """

    predicted: Predicted
    confusion: NDArray[np.int64]
    figures: ImageFigures | None


def judge(one: Predicted, classes: int, details: bool, background: int | None = 0) -> JudgedImage:
    """Compare a prediction with the truth; without `details`, count pixels only.

    `background` is the class that is background, None where none is.

    Raises:
        SegopsError: The mask is no prediction for this truth.
    """
    try:
        if not details:
            return JudgedImage(one, confusion_matrix(one.truth, one.mask, classes), None)
        figures = judge_image(one.truth, one.mask, classes, one.top, background)
        return JudgedImage(one, figures.confusion, figures)
    except ValueError as error:
        raise SegopsError(f"{one.image_id}: {error}.") from error
    except Exception:
        log.error("%s: the prediction cannot be judged.", one.image_id)
        raise


class Tally:
    """Adds images up. What it keeps of each is a few numbers a class, and no pixels.

    Attributes:
        split: The sum.
        confidences: Mean of `top` by image id; None where the model gives none.
    """

    def __init__(self, class_names: tuple[str, ...], details: bool) -> None:
        self.split = SplitFigures(class_names, details)
        self.confidences: dict[str, float | None] = {}
        self._rows: list[tuple[Any, ...]] = []
        self._errors: list[tuple[Any, ...]] = []
        self._places: list[NDArray[np.int32]] = []

    def add(self, judged: JudgedImage) -> None:
        """Add an image."""
        one = judged.predicted
        mean = None if one.top is None else float(one.top.mean(dtype=np.float64))
        self.confidences[one.image_id] = mean
        both, predicted, truth = (part.tolist() for part in class_pixels(judged.confusion))
        image = one.image_id, one.sha256
        self._rows += [
            (*image, label, both[label], predicted[label], truth[label])
            for label in range(len(truth))
            if truth[label] or predicted[label]
        ]
        if judged.figures is None:
            self.split.confusion += judged.confusion
        else:
            self.split.add(judged.figures)
            self._places.append(places_of(len(self.confidences) - 1, judged.figures))
            self._errors += [(one.image_id, *error) for error in judged.figures.errors]

    @property
    def counts(self) -> pd.DataFrame:
        """The table of counts; see :mod:`segops.evaluate.bootstrap`."""
        return pd.DataFrame(self._rows, columns=list(COLUMNS))

    @property
    def places(self) -> pd.DataFrame:
        """The table of places; see :mod:`segops.evaluate.places`."""
        return table_of(self._places)

    @property
    def errors(self) -> pd.DataFrame:
        """The table of errors: one row per image, class and kind of error that occurs."""
        table = pd.DataFrame(self._errors, columns=list(ERRORS))
        return table.astype(
            {"image_id": str, "class_id": np.int64, "kind": str, "pixels": np.int64}
        )


def main(channel: TextIO) -> int:
    """Carry out the request; return the exit status."""
    try:
        request = json.loads(Path(sys.argv[1]).read_text(encoding="utf-8"))
        for image_id in score_images(request):
            print(json.dumps({"done": image_id}), file=channel, flush=True)
    except SegopsError as error:
        print(json.dumps({"error": str(error)}), file=channel, flush=True)
        return 1
    except BrokenPipeError:  # the parent is gone
        return 1
    return 0


def score_images(request: dict[str, Any]) -> Iterator[str]:
    """Score a split and write the results; the request is as :mod:`segops.evaluate.score` makes it.

    Yields:
        The id of each image that is done, once for each variant.

    Raises:
        SegopsError: The bundle, the data or an image, which is then named, is not usable.
    """
    if request["threads"] is not None:
        torch.set_num_threads(request["threads"])
    cv2.setNumThreads(1)
    store = PackedStore(Path(request["store"]))
    predictor, opened = None, None
    for variant in request["variants"]:
        if predictor is None or variant["predict"] != opened:
            predictor, opened = _open(request, variant["predict"]), variant["predict"]
        predictor.require_channels(store.channels, request["bundle"])
        if request["export_of"] is not None and request["images"]:
            model = load_bundle(
                Path(request["export_of"][0]), "cpu", request["export_of"][1], None,
                request["threads"],
            )  # fmt: skip
            require_any_batch(predictor, model, store.image(request["images"][0]))
        predict = variant["predict"] or predictor.model.get("predict", {})
        scale = max(predict.get("scales", [1.0]))
        shown = store
        if corruption := variant["corruption"]:
            shown = CorruptedStore(store.path, *corruption)
        yield from _score(request, predictor, shown, Path(variant["out"]), scale)


def _score(
    request: dict[str, Any],
    predictor: BundledPredictor,
    store: PackedStore,
    out: Path,
    scale: float,
) -> Iterator[str]:
    tally = Tally(store.class_names, request["details"])
    kept = request["masks"] or ()
    at_once = _at_once(request, predictor, store, scale)
    seconds: list[float] = []
    with ZipFile(out / PICTURES, "w") as archive:
        for judged in _judged(request, predictor, store, at_once, seconds):
            image_id = judged.predicted.image_id
            tally.add(judged)
            if kept is True or image_id in kept:
                _keep(archive, MASKS, image_id, judged.predicted.mask)
                if judged.figures is not None:
                    _keep(archive, KINDS, image_id, judged.figures.kinds)
            yield image_id
        counts, errors = tally.counts, tally.errors
        explained = pictures.to_explain(counts, errors, request["explain"])
        for image_id, class_id in explained.items():
            from segops.predict.explain import explain  # takes seconds

            activation = np.rint(255 * explain(predictor, store.image(image_id), class_id))
            _keep(archive, ACTIVATIONS, image_id, activation.astype(np.uint8))
    counts.to_parquet(out / COUNTS, index=False)
    errors.to_parquet(out / ERROR_TABLE, index=False)
    tally.places.to_parquet(out / PLACES, index=False)
    np.save(out / CONFUSION, tally.split.confusion)
    figures = {
        "counts": tally.split.counts.to_json(),
        "summary": tally.split.summary(),
        "confidences": tally.confidences,
        "explained": explained,
        "machine": describe(predictor.device, torch.get_num_threads() // at_once),
    }
    files.write_json(out / FIGURES, figures)
    # The first prediction warms up.
    milliseconds = 1000 * statistics.median(seconds[1:]) if len(seconds) > 1 else None
    files.write_json(out / TIMING, {"milliseconds": milliseconds})


def _open(request: dict[str, Any], predict: dict[str, Any] | None) -> BundledPredictor:
    predictor = load_bundle(
        Path(request["bundle"]),
        request["device"],
        request["expected_digest"],
        predict,
        request["threads"],
    )
    if predict is not None and not predictor.says_confidence:
        raise SegopsError(
            f"{request['bundle']}: this model predicts in one way only: it was made by segops "
            f"{predictor.model.get('segops_version', '(unknown)')}, before there was a choice. "
            "`dvc repro package` makes a new bundle of the same weights."
        )
    return predictor


def _at_once(
    request: dict[str, Any], predictor: BundledPredictor, store: PackedStore, scale: float
) -> int:
    """How many images to predict at a time."""
    # To be timed, the network must have the machine for itself; an export's runtime takes all of
    # its threads for one image.
    if request["timed"] or predictor.runtime != TORCH:
        return 1
    images: list[str] = request["images"]
    largest = max((math.prod(store.size(one)) for one in images), default=1)
    return images_at_once(predictor.device, largest * scale**2, len(images))


def _judged(
    request: dict[str, Any],
    predictor: BundledPredictor,
    store: PackedStore,
    at_once: int,
    seconds: list[float],
) -> Iterator[JudgedImage]:
    """Predict and judge the images, in their order; `seconds` gets the time of each prediction."""
    images: list[str] = request["images"]
    predict = partial(_predict, predictor, store, request["details"], seconds)
    work = partial(
        judge,
        classes=len(store.class_names),
        details=request["details"],
        background=predictor.classes.background,
    )
    if request["timed"]:
        yield from map(work, map(predict, images))
        return
    predictions = predict_parallel(predict, images, at_once)
    judges = min(MOST_JUDGES, cores())
    yield from pipelined(
        predictions,
        work,
        judges,
        WAITING_PER_THREAD * judges,
        size=lambda one: one.mask.size,
        limit=PIXELS_AT_ONCE,
    )


def _predict(
    predictor: BundledPredictor,
    store: PackedStore,
    details: bool,
    seconds: list[float],
    image_id: str,
) -> Predicted:
    """Predict an image; safe to call in several threads."""
    top: NDArray[np.float32] | None = None
    start = time.perf_counter()
    try:
        if details and predictor.says_confidence:
            mask, top = predictor.predict_tensors(store.image(image_id))
        else:
            mask = predictor.predict_mask(store.image(image_id))
    except SegopsError as error:
        raise SegopsError(f"{image_id}: {error}") from error
    except Exception:
        log.error("%s: the image cannot be predicted.", image_id)
        raise
    seconds.append(time.perf_counter() - start)
    return Predicted(image_id, store.image_sha256(image_id), store.mask(image_id), mask, top)


def _keep(archive: ZipFile, what: str, image_id: str, picture: NDArray[np.uint8]) -> None:
    """Add a picture as ``numpy.savez_compressed`` does, but quickly and without a time.

    The same pictures give the same bytes.
    """
    stream = BytesIO()
    np.save(stream, picture, allow_pickle=False)
    archive.writestr(ZipInfo(f"{what}/{image_id}.npy"), stream.getvalue(), ZIP_DEFLATED, 1)


if __name__ == "__main__":
    gc.enable()
    status = main(CHANNEL)
    # The results are on disk; an ordinary exit would spend a second or two on torch's clean-up.
    for stream in (sys.stdout, sys.stderr):
        stream.flush()
    os._exit(status)
