"""The child process that loads a bundle and scores it. Started by :mod:`segops.evaluate.score`.

It gets the path of a request (JSON) and says on its standard output, line by line as JSON, which
image is done, or what is wrong. Whatever the bundle's code prints goes to standard error.
"""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any, TextIO

import numpy as np
import pandas as pd
import torch
from numpy.typing import NDArray

from segops.data.store import PackedStore
from segops.errors import SegopsError
from segops.evaluate.bootstrap import COLUMNS
from segops.evaluate.score import CONFUSION, COUNTS, MASKS
from segops.metrics.confusion import confusion_matrix
from segops.metrics.iou import intersection, predicted_pixels, truth_pixels
from segops.predict.bundle import load_bundle
from segops.voc.masks import encode_mask


def main() -> int:
    """Do what the request says; the exit status is 0 if it was done."""
    channel = _claim_standard_output()
    try:
        request = json.loads(Path(sys.argv[1]).read_text(encoding="utf-8"))
        for image_id in _score(request):
            _say(channel, {"done": image_id})
    except SegopsError as error:
        _say(channel, {"error": str(error)})
        return 1
    except BrokenPipeError:  # the parent is gone
        return 1
    return 0


def _score(request: dict[str, Any]) -> Iterator[str]:
    """Score the split and write the results; yields the id of each image that is done."""
    if request["threads"] is not None:
        torch.set_num_threads(request["threads"])
    store = PackedStore(Path(request["store"]))
    predictor = load_bundle(Path(request["bundle"]), request["device"], request["expected_digest"])
    classes, out = len(store.class_names), Path(request["out"])
    total = np.zeros((classes, classes), dtype=np.int64)
    rows: list[tuple[Any, ...]] = []
    for image_id in request["images"]:
        prediction = predictor.predict_mask(store.image(image_id))
        try:
            confusion = confusion_matrix(store.mask(image_id), prediction, classes)
        except ValueError as error:
            raise SegopsError(f"{image_id}: {error}.") from error
        total += confusion
        rows += _rows(image_id, store.image_sha256(image_id), confusion)
        if request["masks"]:
            (out / MASKS).mkdir(exist_ok=True)
            (out / MASKS / f"{image_id}.png").write_bytes(encode_mask(prediction))
        yield image_id
    pd.DataFrame(rows, columns=list(COLUMNS)).to_parquet(out / COUNTS, index=False)
    np.save(out / CONFUSION, total)


def _rows(image_id: str, sha256: str, confusion: NDArray[np.int64]) -> list[tuple[Any, ...]]:
    """The image's rows of the table of counts: its classes in truth or prediction, ascending."""
    both, predicted = intersection(confusion), predicted_pixels(confusion)
    truth = truth_pixels(confusion)
    return [
        (image_id, sha256, int(label), int(both[label]), int(predicted[label]), int(truth[label]))
        for label in np.flatnonzero(truth + predicted)
    ]


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
