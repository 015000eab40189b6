"""How unevenly classes occur in train, and the loss weights and the sampling derived from it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from segops.data.store import PackedStore
from segops.progress import track
from segops.runtime.classes import VOID
from segops.runtime.errors import SegopsError
from segops.voc.histogram import count_ids

PixelCounts = NDArray[np.int64]
Floats = NDArray[np.float64]

LEAST_SHARE = 3000 / (2048 * 1024)
"""Share of an image that a class must cover for the image to show it, 0.14 %: DAFormer's
3,000 pixels of a Cityscapes image, for images of any size."""

TEMPERATURE = 0.01
"""Of rare-class sampling, as in DAFormer."""


def image_counts(store: PackedStore, ids: Sequence[str]) -> PixelCounts:
    """Pixels of each class in each image, int64 (len(ids), C); void is not counted.

    Raises:
        SegopsError: A mask holds an id that is neither a class nor 255.
    """
    classes = len(store.class_names)
    counts = np.zeros((len(ids), classes), dtype=np.int64)
    for row, image_id in zip(counts, track(ids, "Counting classes"), strict=True):
        histogram = count_ids(store.mask(image_id))
        row[:] = histogram[:classes]
        strange = np.flatnonzero(histogram[classes:VOID])
        if strange.size:
            raise SegopsError(
                f"{image_id}: the mask holds the ids {(strange + classes).tolist()}; expected 0 "
                f"to {classes - 1}, or {VOID} for void. `dvc repro --force validate` names all "
                "such masks."
            )
    return counts


def pixel_counts(store: PackedStore, ids: Sequence[str]) -> PixelCounts:
    """Pixels of each class in all of `ids`, int64 (C,); see :func:`image_counts`."""
    return np.asarray(image_counts(store, ids).sum(axis=0))


def median_frequency(counts: PixelCounts) -> Floats:
    """Weights by median frequency balancing: median(f) / f(c), f(c) the frequency of class c.

    The frequency of a class is its pixels divided by the labelled pixels of the images that hold
    it. The median is over the classes that occur.

    Args:
        counts: Pixels of each class in each image, (images, C).

    Returns:
        float64 (C,), of mean 1 over the classes that occur; 0 for a class that does not occur.

    Source:
        Eigen, Fergus, "Predicting Depth, Surface Normals and Semantic Labels with a Common
        Multi-Scale Convolutional Architecture", ICCV 2015, section 6.3.
    """
    pixels = counts.sum(axis=0)
    around = ((counts > 0) * counts.sum(axis=1, keepdims=True)).sum(axis=0)
    weights = np.zeros(len(pixels))
    present = pixels > 0
    frequency = pixels[present] / around[present]
    weights[present] = np.median(frequency) / frequency if frequency.size else 0
    return _of_mean_one(weights)


def effective_number(counts: PixelCounts) -> Floats:
    """Weights by the effective number of samples: (1 - β) / (1 - β^n), n the pixels of a class.

    β is (N - 1) / N, with N the mean number of pixels of the classes that occur. The paper's 0.9 to
    0.9999 are for counts of images; for pixels they would give all classes the same weight.
    Arguments and result are those of :func:`median_frequency`.

    Source:
        Cui, Jia, Lin, Song, Belongie, "Class-Balanced Loss Based on Effective Number of Samples",
        CVPR 2019, equations 3 and 8.
    """
    pixels = counts.sum(axis=0)
    weights = np.zeros(len(pixels))
    present = pixels > 0
    beta = 1 - 1 / max(1.0, float(pixels.sum() / max(1, present.sum())))
    weights[present] = (1 - beta) / (1 - beta ** pixels[present].astype(np.float64))
    return _of_mean_one(weights)


def class_weights(
    store: PackedStore, ids: Sequence[str], scheme: str | Sequence[float] | None
) -> tuple[float, ...] | None:
    """The class weights of the training images `ids`, in id order.

    `scheme` is ``train.class_weights``: a name, the weights themselves, or None.

    Raises:
        SegopsError: The number of weights is not the number of classes.
    """
    if scheme is None:
        return None
    if not isinstance(scheme, str):
        if len(scheme) != len(store.class_names):
            raise SegopsError(
                f"train.class_weights: {len(scheme)} weights for {len(store.class_names)} classes "
                f"({', '.join(store.class_names)}); expected one for each, in this order"
            )
        return tuple(float(weight) for weight in scheme)
    weigh = median_frequency if scheme == "median_frequency" else effective_number
    return tuple(weigh(image_counts(store, ids)).tolist())


def rare_classes(counts: PixelCounts, background: int | None = None) -> tuple[int, ...]:
    """Ids of the classes that occur and have fewer pixels than the median of such classes.

    The class `background` is not among them. `counts` are pixels of each class, (C,), or of each
    class in each image, (images, C).
    """
    pixels = counts.reshape(-1, counts.shape[-1]).sum(axis=0)
    present = pixels > 0
    if not present.any():
        return ()
    rare = np.flatnonzero(present & (pixels < np.median(pixels[present]))).tolist()
    return tuple(label for label in rare if label != background)


@dataclass(frozen=True)
class RareFirst:
    """Rare-class sampling: a class is drawn, rare classes more often, then an image that shows it.

    The probability of class c is exp((1 - f(c)) / T), divided by the sum over all classes, with
    f(c) its share of all labelled pixels and T the temperature. Classes that no image holds are not
    drawn.

    Attributes:
        probabilities: Of each class, float64 (C,), of sum 1.
        images: For each class the numbers of the images that show it, int64.

    Source:
        Hoyer, Dai, Van Gool, "DAFormer", CVPR 2022, section 3.3, equations 8 and 9. Their crops are
        redrawn until they show the class; ours are not.
    """

    probabilities: Floats
    images: tuple[PixelCounts, ...]

    @classmethod
    def of(
        cls,
        store: PackedStore,
        ids: Sequence[str],
        temperature: float = TEMPERATURE,
        least: float = LEAST_SHARE,
    ) -> RareFirst:
        """The sampling of the training images `ids`.

        `least` is the share of an image, void included, that a class must cover for the image to
        show it. A class for which there is no such image is shown by each image that holds it.

        Raises:
            SegopsError: No pixel of these images has a label.
        """
        counts = image_counts(store, ids)
        areas = np.array([np.prod(store.size(image_id)) for image_id in ids], dtype=np.int64)
        shown = (counts > 0) & (counts >= least * areas[:, None])
        shown = np.where(shown.any(axis=0), shown, counts > 0)
        pixels = counts.sum(axis=0)
        if not pixels.any():
            raise SegopsError(
                "train.sampling: rare_first, but no pixel of the training images has a label. "
                "Label their masks, or set train.sampling to uniform."
            )
        exponents = np.where(pixels > 0, (1 - pixels / pixels.sum()) / temperature, -np.inf)
        odds = np.exp(exponents - exponents.max())
        return cls(odds / odds.sum(), tuple(np.flatnonzero(column) for column in shown.T))

    def draw(self, generator: np.random.Generator, number: int) -> PixelCounts:
        """Draw the numbers of `number` images, int64 (number,), independently of each other."""
        classes = generator.choice(len(self.images), size=number, p=self.probabilities)
        places = generator.random(number)
        drawn = [
            self.images[c][int(place * len(self.images[c]))]
            for c, place in zip(classes.tolist(), places.tolist(), strict=True)
        ]
        return np.array(drawn, dtype=np.int64)


def _of_mean_one(weights: Floats) -> Floats:
    present = weights > 0
    return weights / weights[present].mean() if present.any() else weights
