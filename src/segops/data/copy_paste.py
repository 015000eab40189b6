"""Copy-paste: objects of rare classes cut out of train images and put into others."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import cv2
import numpy as np
from numpy.typing import NDArray

from segops.augment.geometry import Pixels
from segops.augment.policy import sample_seed
from segops.data.imbalance import PixelCounts, image_counts, rare_classes
from segops.data.store import PackedStore
from segops.params.samples import CopyPasteParams
from segops.runtime.classes import VOID
from segops.runtime.errors import SegopsError
from segops.voc.histogram import count_ids

SCALE = (0.8, 1.25)
"""Smallest and largest factor of an object's size: the paper's standard jitter. The policy scales
image and objects together afterwards."""

BORDER = 5
"""Void within so many pixels of an object is its border; PASCAL VOC's void lines are as wide."""

TILE = 4096
"""Longest side, in pixels, of what is searched for an object at a time."""


class Source(NamedTuple):
    """The tile of an image, from row `top` and column `left` on, that objects are cut out of.

    It is the whole image where no side is longer than `TILE`. An object that reaches into another
    tile is cut where its tile ends.
    """

    image_id: str
    top: int
    left: int

    def tile(self, pixels: Pixels) -> Pixels:
        """The tile, as a view, of the image or its mask."""
        return pixels[self.top : self.top + TILE, self.left : self.left + TILE]


class Cutout(NamedTuple):
    """An object cut out of an image, in its bounding box.

    Attributes:
        image: uint8 (h, w, C).
        labels: uint8 (h, w): the object's class, and 255 on its void border.
        shape: bool (h, w): the pixels of the box that are pasted, border included.
    """

    image: Pixels
    labels: Pixels
    shape: NDArray[np.bool_]


@dataclass(frozen=True)
class CopyPaste:
    """Pastes objects into a train image; the result depends on the image and a seed alone.

    An object is a connected component of the pixels of a class in the mask (a semantic mask does
    not separate instances) with the void line around it. It is taken from another image, flipped
    with probability one half, scaled, and put at a random place, wholly inside the image where it
    fits. The void line stays void.

    Attributes:
        store: Holds the images.
        sources: The id of each class that is copied, and where there are enough pixels of it.
        params: Probability, number and size of the objects.
        scale: Smallest and largest factor of an object's size.

    Source:
        Ghiasi et al., "Simple Copy-Paste is a Strong Data Augmentation Method for Instance
        Segmentation", CVPR 2021; without blending, as there, but with objects of chosen classes
        alone.
    """

    store: PackedStore
    sources: tuple[tuple[int, tuple[Source, ...]], ...]
    params: CopyPasteParams
    scale: tuple[float, float] = SCALE

    @classmethod
    def of(
        cls,
        store: PackedStore,
        ids: Sequence[str],
        params: CopyPasteParams,
        background: int | None = None,
    ) -> CopyPaste:
        """The copy-paste of the training images `ids`; the class `background` is never rare.

        Raises:
            SegopsError: A named class does not exist or has too few pixels in each image; or no
                class is rare.
        """
        counts = image_counts(store, ids)
        if params.classes == "rare":
            classes = rare_classes(counts, background)
        else:
            classes = tuple(_id_of(name, store.class_names) for name in params.classes)
        parts = [*_parts(store, ids, counts)]
        sources = []
        for c in classes:
            holding = tuple(source for source, pixels in parts if pixels[c] >= params.min_area)
            if holding:
                sources.append((c, holding))
            elif params.classes != "rare":
                raise SegopsError(
                    f"augment.copy_paste.classes: no training image has "
                    f"augment.copy_paste.min_area: {params.min_area} pixels or more of "
                    f"{store.class_names[c]}; lower min_area or leave the class out"
                )
        if not sources:
            raise SegopsError(
                "augment.copy_paste.classes: rare, but no class with fewer pixels than the median "
                f"class has augment.copy_paste.min_area: {params.min_area} pixels in one image; "
                "lower min_area, name the classes, or set augment.copy_paste.p to 0"
            )
        return cls(store, tuple(sources), params)

    def __call__(self, image_id: str, seed: int) -> tuple[Pixels, Pixels]:
        """An image of the store and its mask, with objects of other images pasted into them.

        Returns:
            Image, uint8 (H, W, C), and mask, uint8 (H, W); read-only where nothing is drawn. Memory
            is taken for the pasted objects, not for the image.
        """
        # A separate generator, so that the policy draws the same with and without pasted objects.
        generator = np.random.default_rng(sample_seed(seed, 0, -2))
        if generator.random() >= self.params.p:
            return self.store.image(image_id), self.store.mask(image_id)
        image, mask = self.store.private(image_id)
        for _ in range(int(generator.integers(1, self.params.max_objects + 1))):
            if cutout := self._draw(image_id, generator):
                _paste(image, mask, cutout, generator)
        return image, mask

    def _draw(self, image_id: str, generator: np.random.Generator) -> Cutout | None:
        """An object of another image; None where the drawn image has no object large enough."""
        c, holding = self.sources[int(generator.integers(len(self.sources)))]
        others = [other for other in holding if other.image_id != image_id]
        if not others:
            return None
        source = others[int(generator.integers(len(others)))]
        image, mask = self.store.image(source.image_id), self.store.mask(source.image_id)
        tiles = source.tile(image), source.tile(mask)
        cutout = cut_out(*tiles, c, self.params.min_area, generator)
        if cutout is None:
            return None
        return _changed(cutout, generator.random() < 0.5, generator.uniform(*self.scale))


def _parts(
    store: PackedStore, ids: Sequence[str], counts: PixelCounts
) -> Iterator[tuple[Source, PixelCounts]]:
    """The tiles of the images `ids` and the pixels of each class in them; `counts`: per image."""
    for image_id, row in zip(ids, counts, strict=True):
        height, width = store.size(image_id)
        corners = [(y, x) for y in range(0, height, TILE) for x in range(0, width, TILE)]
        for corner in corners:
            source = Source(image_id, *corner)
            whole = len(corners) == 1
            yield source, row if whole else count_ids(source.tile(store.mask(image_id)))


def cut_out(
    image: Pixels, mask: Pixels, c: int, min_area: int, generator: np.random.Generator
) -> Cutout | None:
    """Cut a random object of class `c` and at least `min_area` pixels out of an image.

    None where the image has no such object.
    """
    number, components, stats, _ = cv2.connectedComponentsWithStats((mask == c).view(np.uint8))
    large = [k for k in range(1, number) if stats[k, cv2.CC_STAT_AREA] >= min_area]
    if not large:
        return None
    k = large[int(generator.integers(len(large)))]
    left, top, width, height = stats[k, :4].tolist()
    rows = slice(max(0, top - BORDER), top + height + BORDER)
    columns = slice(max(0, left - BORDER), left + width + BORDER)
    inside = components[rows, columns] == k
    near = cv2.dilate(inside.view(np.uint8), np.ones((2 * BORDER + 1,) * 2, np.uint8)) > 0
    border = near & (mask[rows, columns] == VOID)
    labels = np.where(inside, c, VOID).astype(np.uint8)
    return Cutout(image[rows, columns], labels, inside | border)


def _changed(cutout: Cutout, flip: bool, scale: float) -> Cutout:
    """Flip and scale an object."""
    image, labels, shape = cutout
    if flip:
        image, labels, shape = image[:, ::-1], labels[:, ::-1], shape[:, ::-1]
    height, width = shape.shape
    size = max(1, round(width * scale)), max(1, round(height * scale))
    # OpenCV's plain nearest neighbour is half a pixel off its bilinear interpolation.
    nearest = cv2.INTER_NEAREST_EXACT
    return Cutout(
        np.asarray(cv2.resize(np.ascontiguousarray(image), size), np.uint8),
        np.asarray(cv2.resize(np.ascontiguousarray(labels), size, interpolation=nearest), np.uint8),
        cv2.resize(np.ascontiguousarray(shape).view(np.uint8), size, interpolation=nearest) > 0,
    )


def _paste(image: Pixels, mask: Pixels, cutout: Cutout, generator: np.random.Generator) -> None:
    """Put an object at a random place and cut it at the borders of the image."""
    target, source = [], []
    for side, length in zip(mask.shape, cutout.shape.shape, strict=True):
        surplus = side - length
        start = int(generator.integers(min(0, surplus), max(0, surplus) + 1))
        target.append(slice(max(0, start), start + length))
        source.append(slice(max(0, -start), max(0, -start) + min(side, length)))
    shape = cutout.shape[tuple(source)]
    image[tuple(target)][shape] = cutout.image[tuple(source)][shape]
    mask[tuple(target)][shape] = cutout.labels[tuple(source)][shape]


def _id_of(name: str, names: Sequence[str]) -> int:
    if name not in names:
        raise SegopsError(
            f"augment.copy_paste.classes: no class {name!r}; expected names out of "
            f"{', '.join(names)}, or `rare`"
        )
    return names.index(name)
