"""Inputs of the evaluation page: pictures with their errors, and models to compare with."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from segops.metrics.iou import Difference


class Mistake(NamedTuple):
    """How many pixels of one class went wrong in one way in one image.

    `kind` is one of :data:`segops.metrics.wrong_pixels.KINDS`.
    """

    class_name: str
    kind: str
    pixels: int


@dataclass(frozen=True)
class GalleryPicture:
    """One image of the gallery.

    Attributes:
        image_id: Its id.
        score: The image score: the mean IoU of this image alone, 0..1; None where its truth is all
            void. It ranks pictures and is no part of mIoU, which comes from one confusion matrix.
        image: uint8 (H, W, 3), RGB.
        truth: uint8 (H, W), class ids and 255 for void.
        prediction: uint8 (H, W), class ids.
        kinds: uint8 (H, W), kind of error of each pixel, 0 where right or void; ids of
            :data:`segops.metrics.wrong_pixels.KINDS` from 1.
        errors: What went wrong, largest first.
        confidence: Mean top probability of the image, 0..1; None where the model does not say.
        activation: uint8 (H, W), 0..255: where the network looked for `explained`; None: not asked.
        explained: Name of the class that `activation` explains.
        others: What the opponents predicted, in their order, each as `prediction`; empty: not kept.
    """

    image_id: str
    score: float | None
    image: NDArray[np.uint8]
    truth: NDArray[np.uint8]
    prediction: NDArray[np.uint8]
    kinds: NDArray[np.uint8]
    errors: tuple[Mistake, ...] = ()
    confidence: float | None = None
    activation: NDArray[np.uint8] | None = None
    explained: str | None = None
    others: tuple[NDArray[np.uint8], ...] = ()


@dataclass(frozen=True)
class ImageRow:
    """The figures of one image.

    Attributes:
        image_id: Its id.
        score: The image score, as of :class:`GalleryPicture`.
        pixels: Labelled pixels.
        wrong: Those of them that were predicted wrong.
        kinds: Wrong pixels by kind, one of :data:`segops.metrics.wrong_pixels.KINDS`.
        worst_class: The class of its truth with the lowest IoU; None where the truth is all void.
        worst_iou: That IoU, 0..1.
        confidence: Mean top probability, 0..1; None where the model does not say.
        suspected: Whether a label audit suspects its label; None: no audit is known.
        suspected_pixels: Its pixels in :class:`LabelErrors`; None: not suspected, not counted.
        others: The image scores of the opponents, in their order; empty: they are not shown.
    """

    image_id: str
    score: float | None
    pixels: int
    wrong: int
    kinds: Mapping[str, int]
    worst_class: str | None
    worst_iou: float | None
    confidence: float | None
    suspected: bool | None = None
    suspected_pixels: int | None = None
    others: tuple[float | None, ...] = ()

    @property
    def differences(self) -> tuple[float | None, ...]:
        """The score minus that of each opponent; None where there is no score."""
        own = self.score
        return tuple(None if own is None or one is None else own - one for one in self.others)


@dataclass(frozen=True)
class LabelErrors:
    """What a label audit says of the images of the page.

    Attributes:
        by: What judged the labels, in words.
        judged: How many images of the split it judged.
        pixels: Wrong pixels that contradict the label as the audit does, by the id of each image
            whose label is suspected; None where they were not counted.
        wrong: Wrong pixels of all images.
        miou: MIoU over the other images; None where they have none.
        miou_low: Lower end of its interval; None where there is none.
        miou_high: Upper end, likewise.
    """

    by: str
    judged: int
    pixels: Mapping[str, int | None]
    wrong: int
    miou: float | None
    miou_low: float | None
    miou_high: float | None

    @property
    def counted(self) -> int | None:
        """All the pixels; None where they were not counted."""
        known = [one for one in self.pixels.values() if one is not None]
        return sum(known) if len(known) == len(self.pixels) else None


class Place(NamedTuple):
    """The images that a figure of the page comes from.

    Attributes:
        images: How many there are.
        rows: Those of them that the page lists, most pixels first: the place in the page's table of
            images, and how many pixels of the figure the image holds.
    """

    images: int
    rows: tuple[tuple[int, int], ...]


@dataclass(frozen=True)
class Opponent:
    """Another model that was scored on the same split.

    Attributes:
        name: What people call it, as "champion, version 3".
        evaluation: Its evaluation, of the form of ``metrics/evaluation.json``; an older one may
            lack keys.
        images: How many images the differences are over: those that neither was trained on.
        excluded: How many images of the split were left out for that reason.
        confidence: Level of the intervals, 0..1.
        miou: Difference of mIoU, over the classes that occur in the truth of these images.
        classes: Difference of IoU by class name, for the classes in the truth of these images.
        about: Its network in words; empty where only its counts are known.
    """

    name: str
    evaluation: Mapping[str, Any]
    images: int
    excluded: int
    confidence: float
    miou: Difference
    classes: Mapping[str, Difference]
    about: str = ""
