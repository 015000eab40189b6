"""What the images of the champion's data look like: observed once, then kept."""

from __future__ import annotations

import logging
import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from segops import files
from segops.predict.bundle import BundledPredictor
from segops.predict.log import FORMAT, Logged, line_of, parsed
from segops.predict.observe import Observation, observe, observing
from segops.predict.parallel import images_at_once, predict_parallel
from segops.progress import track
from segops.threads import cores, pipelined
from segops.voc.layout import TRAIN, VAL

MOST = 500
"""Images of a split, or of a sample, that are compared."""
_THEN = datetime(2000, 1, 1, tzinfo=UTC)
"""Time of the lines that are kept: the same images give the same bytes."""
log = logging.getLogger("segops")


@dataclass(frozen=True)
class Images:
    """The images of a data set.

    Attributes:
        ids: Image ids by split.
        read: Reads an image, uint8 (H, W, C).
        size: Its two sides in pixels, without decoding it.
    """

    ids: Mapping[str, Sequence[str]]
    read: Callable[[str], NDArray[np.uint8]]
    size: Callable[[str], tuple[int, int]]


@dataclass(frozen=True)
class Reference:
    """The observations of a model's data.

    Attributes:
        train: Of train, not predicted: a model is too sure of images that it was trained on.
        val: Of val, predicted.
    """

    train: tuple[Observation, ...]
    val: tuple[Observation, ...]


def chosen(names: Iterable[str], most: int = MOST) -> list[str]:
    """At most so many of some names, chosen by their hash: the same ones at every call."""
    return sorted(names, key=lambda one: files.sha256_bytes(one.encode(errors="backslashreplace")))[
        :most
    ]


def kept_path(directory: Path, model: str, data_hash: str) -> Path:
    """Where the reference of a model, by its digest, and of its data is kept."""
    return directory / f"{model[:16]}-{data_hash[:16]}-{FORMAT}.jsonl"


def read_kept(path: Path, model: str) -> Reference | None:
    """The reference that :func:`measure` kept; None where there is none, or it is damaged."""
    try:
        lines = [parsed(line) for line in path.read_bytes().splitlines()]
    except FileNotFoundError:
        return None
    except ValueError:
        log.warning("%s: damaged; it is made again.", path)
        return None
    own = [one.observation for one in lines if one.model == model]
    # The tests take independent images: copies of an image count once.
    train = {one.pixels: one for one in own if one.predicted is None}
    val = {one.pixels: one for one in own if one.predicted is not None}
    return Reference(tuple(train.values()), tuple(val.values()))


def measure(predictor: BundledPredictor, images: Images, path: Path, model: str) -> Reference:
    """Observe at most :data:`MOST` images of train and of val, and keep the result.

    Args:
        predictor: The model.
        images: The images of its data.
        path: Where the reference is kept; see :func:`kept_path`.
        model: Digest of the model's bundle.

    Raises:
        SegopsError: An image cannot be read or predicted.
    """
    train, val = (chosen(images.ids[split]) for split in (TRAIN, VAL))
    seen = pipelined(train, lambda one: observe(images.read(one)), cores(), 2 * cores())
    pairs = list(zip(train, track(seen, "Observing train", len(train)), strict=True))
    pixels = max((math.prod(images.size(one)) for one in val), default=1)
    with observing(predictor) as predict:
        predicted = predict_parallel(
            lambda one: predict(images.read(one))[1],
            val,
            images_at_once(predictor.device, pixels, len(val)),
        )
        pairs += zip(val, track(predicted, "Observing val", len(val)), strict=True)
    files.write_bytes(path, b"".join(line_of(Logged(_THEN, model, one, n)) for n, one in pairs))
    kept = read_kept(path, model)
    assert kept is not None
    return kept
