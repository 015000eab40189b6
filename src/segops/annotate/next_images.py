"""Ranks the unlabelled images of a directory by how much a label of them would teach the model."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from segops import files
from segops.monitor.reference import chosen
from segops.predict.bundle import BundledPredictor
from segops.predict.image_files import decode_files, read_files
from segops.predict.memory import named_shortage
from segops.predict.observe import Observe, observing
from segops.predict.parallel import images_at_once, predict_parallel
from segops.predict.sources import list_images
from segops.progress import track
from segops.runtime.errors import SegopsError
from segops.voc.bands import read_pixels
from segops.voc.layout import TRAIN, Layout

from .core_set import choose, unit
from .drafts import NextImage, require_place, write_next
from .unlabelled import Unlabelled, find_unlabelled

MOST_LABELLED = 500
"""Images of train whose features are compared, chosen by their hash: an encoder's pass each."""


@dataclass(frozen=True)
class Chosen:
    """The outcome.

    Attributes:
        images: The chosen images, the first to annotate first.
        unlabelled: What the directory holds.
        failed: A message for each image that cannot be read or predicted.
        output: The directory that was written.
    """

    images: tuple[NextImage, ...]
    unlabelled: Unlabelled
    failed: tuple[str, ...]
    output: Path


def choose_next(
    source: Path,
    layout: Layout,
    predictor: BundledPredictor,
    count: int,
    output: Path,
    *,
    overwrite: bool = False,
    pictures: bool = True,
    model: str = "the model",
) -> Chosen:
    """Choose images to annotate, and write them with drafts of their masks.

    An image's worth is its uncertainty, which is the mean entropy of the class probabilities, times
    the distance of its features from those of train and of the images chosen before it; see
    :mod:`segops.annotate.core_set`. The features are the mean of the encoder's coarsest ones. The
    same images, data and model give the same choice. Images of the data set are left out, and so is
    each image that shows the same picture as one before it.

    Args:
        source: A directory of images.
        layout: The data set.
        predictor: The model.
        count: How many to choose, at least 1; fewer where there are fewer.
        output: As of :func:`segops.annotate.drafts.write_next`.
        overwrite: Whether `output` may replace an earlier choice.
        pictures: Whether the page shows the images.
        model: What the model is called on the page.

    Raises:
        SegopsError: The directory holds no new image, `output` is taken, the model takes images of
            other channels than the data set, gives no features, an image of the data set cannot be
            read, or one of them or of those chosen does not fit into memory.
    """
    require_place(output, (source, layout.root), overwrite)
    _ = predictor.network  # an export, or a bundle of long ago, gives no features: this says so
    predictor.require_channels(layout.reading.bands.total, "The model")
    found = {
        path.relative_to(source).as_posix(): path
        for path in list_images(source, layout.reading.bands.directories)
        if source.is_dir()
    }
    if not found:
        raise SegopsError(f"{source}: holds no image. Expected a directory of unlabelled images.")
    unlabelled = find_unlabelled(found, layout, predictor)
    if not unlabelled.new:
        raise SegopsError(
            f"{source}: no image to annotate: of {unlabelled.total} images {unlabelled.known} are "
            f"in the data set, {unlabelled.repeated} repeat another, and {len(unlabelled.failed)} "
            "cannot be read." + "".join(f"\n  {one}" for one in unlabelled.failed)
        )
    with files.scratch() as scratch, observing(predictor) as observe:
        seen = _observed(unlabelled, predictor, observe, scratch / "features")
        train = chosen(layout.ids(TRAIN), MOST_LABELLED)
        at_once = images_at_once(predictor.device, unlabelled.largest, len(train))

        def features(name: str) -> NDArray[np.float32]:
            with named_shortage(str(layout.image_path(name))):
                return _predicted(observe, read_pixels(layout, name)).features

        labelled = predict_parallel(features, train, at_once)
        centres = np.stack(list(track(labelled, "Observing train", len(train))))
        picks = choose(seen.features, np.array(seen.uncertainty), centres, count)
    images = []
    for pick in picks:
        name = seen.names[pick.index]
        uncertainty = seen.uncertainty[pick.index]
        images.append(NextImage(name, unlabelled.new[name], uncertainty, pick.distance))
    write_next(images, unlabelled, predictor, output, pictures=pictures, model=model)
    return Chosen(tuple(images), unlabelled, (*unlabelled.failed, *seen.failed), output)


class _Predicted(NamedTuple):
    uncertainty: float
    features: NDArray[np.float32]


@dataclass(frozen=True)
class _Observed:
    """The new images that can be predicted, and a message for each other one."""

    names: Sequence[str]
    uncertainty: Sequence[float]
    features: NDArray[np.float32]
    failed: Sequence[str]


def _observed(
    unlabelled: Unlabelled, predictor: BundledPredictor, observe: Observe, path: Path
) -> _Observed:
    """Predict the new images; their features go into a file, as they may exceed the memory."""

    def predict(name: str) -> _Predicted | str:
        path = unlabelled.new[name]
        try:
            with named_shortage(str(path)):
                pixels = decode_files(read_files(path, predictor.bands), predictor)
                return _predicted(observe, pixels)
        except SegopsError as error:
            return str(error)

    names: list[str] = []
    uncertainty: list[float] = []
    failed: list[str] = []
    new = list(unlabelled.new)
    at_once = images_at_once(predictor.device, unlabelled.largest, len(new))
    results = track(predict_parallel(predict, new, at_once), "Observing", len(new))
    with path.open("wb") as file:
        for name, one in zip(new, results, strict=True):
            if isinstance(one, str):
                failed.append(one)
                continue
            names.append(name)
            uncertainty.append(one.uncertainty)
            file.write(one.features.tobytes())
    if not names:
        raise SegopsError("\n  ".join(["No image could be predicted:", *failed]))
    features = np.memmap(path, np.float32, "r").reshape(len(names), -1)
    return _Observed(names, uncertainty, features, failed)


def _predicted(observe: Observe, image: NDArray[np.uint8]) -> _Predicted:
    """The uncertainty and the features of an image, uint8 (H, W, C)."""
    kept = observe(image)[1].predicted
    assert kept is not None
    assert kept.entropy is not None
    assert kept.embedding is not None
    return _Predicted(kept.entropy, unit(kept.embedding))
