"""Finds images that show the same picture: candidates by a perceptual hash, proven on pixels.

The hash holds the signs of the lowest frequencies of a discrete cosine transform, as in Zauner,
"Implementation and Benchmarking of Perceptual Image Hash Functions", 2010, section 3.2.1, with a
threshold of zero in place of the mean, so that the hash of the mirrored image follows from it.
Candidates share a subset of their bits (locality-sensitive hashing: Indyk and Motwani,
"Approximate Nearest Neighbors", STOC 1998).
"""

from __future__ import annotations

import os
from bisect import bisect_left
from collections.abc import Callable
from dataclasses import dataclass
from functools import lru_cache
from itertools import product
from tempfile import TemporaryFile
from typing import TYPE_CHECKING

import cv2
import numpy as np
from numpy.typing import NDArray
from PIL import Image

from segops.progress import track
from segops.runtime.images import PIXELS_AT_ONCE
from segops.runtime.rgb import strips
from segops.threads import cores, pipelined
from segops.voc.pixels import four_bytes

if TYPE_CHECKING:  # a process that reads images needs no tables
    import pandas as pd

SIDE = 32
"""Side of the thumbnails, in pixels."""
LEAST_SIMILARITY = 0.97
"""Correlation of two thumbnails from which on two images show the same picture."""
LEAST_CONTRAST = 2.0
"""Standard deviation of a thumbnail, of 255, below which it shows nothing to compare."""
_BITS = 64
_MOST_DIFFERING = 14
_TABLES = 20
_TABLE_BITS = 18
_NEIGHBOURS = 8
_LOOKS = 8
"""Most different pictures of one hash that are compared with others."""
_WIDE = 96
_CROPS = (2, 4)
"""Pixels of `_WIDE` that a crop may have taken away."""
_HALVED = 256
_THREADS = 8
"""Most threads that decode images."""
_KEPT_VIEWS = 256
"""Images whose thumbnails are kept in memory: 35 MB."""


def _frequencies() -> NDArray[np.intp]:
    """Rows and columns of the lowest frequencies but the mean, shape (2, 64)."""
    down, across = np.mgrid[:SIDE, :SIDE]
    order = np.lexsort((across.ravel(), down.ravel(), (down + across).ravel()))[1 : _BITS + 1]
    return np.stack([down.ravel()[order], across.ravel()[order]])


_DOWN, _ACROSS = _frequencies()
_WEIGHTS = np.uint64(1) << np.arange(_BITS, dtype=np.uint64)
_MIRROR = int(_WEIGHTS[_ACROSS % 2 == 1].sum())
"""The bits that differ between the hashes of an image and of its mirror image."""


@dataclass(frozen=True)
class Duplicate:
    """Two listed images that show the same picture.

    Attributes:
        image_id: Id of the one that is listed first.
        split: Its split.
        other_id: Id of the other.
        other_split: Its split.
        same_pixels: Their decoded pixels are equal.
        similarity: Correlation of their thumbnails, `LEAST_SIMILARITY` to 1.
        mirrored: One is the mirror image of the other.
    """

    image_id: str
    split: str
    other_id: str
    other_split: str
    same_pixels: bool
    similarity: float
    mirrored: bool = False

    @property
    def across(self) -> bool:
        """Whether the two are in different splits."""
        return self.split != self.other_split


def perceptual_hash(grey: NDArray[np.uint8]) -> str | None:
    """The perceptual hash of an image as :func:`halved` gives it, as 16 hexadecimal digits.

    None where the image has too little contrast: the hash would be one of noise.
    """
    grey = _shrunk(grey)
    if cv2.meanStdDev(grey)[1].item() < LEAST_CONTRAST:
        return None
    signs = cv2.dct(grey.astype(np.float32))[_DOWN, _ACROSS] > 0
    return f"{int(_WEIGHTS[signs].sum(dtype=np.uint64)):016x}"


def halved(image: Image.Image) -> NDArray[np.uint8]:
    """An image in grey, uint8 (h, w), halved while its shorter side has `_HALVED` pixels or more.

    Images with equal pixels give equal arrays, whatever their modes.
    OpenCV averages four pixels many times faster than the areas of another scale. Last rows and
    columns that make no whole pixel are left out.
    """
    times = 0
    while min(image.size) >> times >= _HALVED:
        times += 1
    parts = []
    for strip in strips(image, 1 << times):
        width, height = strip.width >> times, strip.height >> times
        if height:
            even = four_bytes(strip)[: height << times, : width << times]
            part = cv2.cvtColor(even, cv2.COLOR_RGBA2GRAY)
            for rest in reversed(range(times)):
                size = width << rest, height << rest
                part = cv2.resize(part, size, interpolation=cv2.INTER_AREA)
            parts.append(part)
    return np.concatenate(parts).astype(np.uint8, copy=False)


def find(facts: pd.DataFrame, read: Callable[[str], NDArray[np.uint8]]) -> tuple[Duplicate, ...]:
    """All pairs of a facts table that show the same picture; see :func:`candidates`.

    Images with equal pixels are each a pair with the first of them; the others are a pair only
    where their thumbnails agree, also when one is slightly cropped or is mirrored. Of images with
    one hash each is a pair with the first that it agrees with, and only those that agree with none
    before them, at most `_LOOKS`, are compared with the images of other hashes.

    Args:
        facts: As of :func:`segops.quality.facts.scan`.
        read: Reads the pixels of an image, uint8 (H, W, 3), by its id; called in several threads.

    Returns:
        Pairs across splits first, then by falling similarity.
    """
    listed = facts.drop_duplicates("image_id")
    places = dict(zip(listed["image_id"], listed["split"], strict=True))
    alike = listed.groupby("image_pixels", sort=False)["image_id"].agg(list)
    found = [_pair(places, one[0], other, 1.0, True) for one in alike for other in one[1:]]
    repeated = listed["image_pixels"].notna() & listed["image_pixels"].duplicated()
    single = listed[~repeated].dropna(subset=["perceptual_hash"])
    ids = single["image_id"].tolist()
    hashes = np.array([int(one, 16) for one in single["perceptual_hash"]], dtype=np.uint64)
    unique, first, group = np.unique(hashes, return_index=True, return_inverse=True)

    sizes = (single["width"].astype("int64") * single["height"]).tolist()
    others = np.flatnonzero(first[group] != np.arange(len(hashes))).tolist()
    pairs = candidates(unique)
    wanted = sorted(
        {*others, *first[group[others]].tolist(), *first[np.unique(pairs).astype(int)].tolist()}
    )
    threads = min(_THREADS, cores())
    shrunk = pipelined(
        wanted,
        lambda place: _shrunk(read(ids[place]), _WIDE),
        threads,
        4 * threads,
        size=lambda place: sizes[place],
        limit=PIXELS_AT_ONCE,
    )
    # On disk, 28 kB an image: many similar images would not fit into memory, and each is in many
    # pairs.
    with TemporaryFile() as file:
        for thumbnail in track(shrunk, "Reading images that may be alike", len(wanted)):
            file.write(thumbnail.tobytes())
        file.flush()

        @lru_cache(_KEPT_VIEWS)
        def views(place: int) -> NDArray[np.float32]:
            length = 3 * _WIDE**2
            content = os.pread(file.fileno(), length, bisect_left(wanted, place) * length)
            return _views(np.frombuffer(content, np.uint8).reshape(_WIDE, _WIDE, 3))

        def agree(one: int, other: int) -> bool:
            similarity, mirrored = _similarity(views(one), views(other))
            is_pair = similarity >= LEAST_SIMILARITY
            if is_pair:
                one, other = sorted((one, other))
                found.append(_pair(places, ids[one], ids[other], similarity, False, mirrored))
            return is_pair

        looks = [[place] for place in first.tolist()]
        for place in track(others, "Comparing images of one hash"):
            own = looks[group[place]]
            if not any(agree(one, place) for one in own) and len(own) < _LOOKS:
                own.append(place)
        for a, b in track(pairs, "Comparing images"):
            for one, other in product(looks[a], looks[b]):
                agree(one, other)
    return tuple(
        sorted(found, key=lambda one: (not one.across, -one.similarity, one.image_id, one.other_id))
    )


def candidates(hashes: NDArray[np.uint64]) -> list[tuple[int, int]]:
    """Pairs of images whose hashes are alike, also when one image is mirrored; i < j, ascending.

    Each of `_TABLES` tables sorts the hashes by a subset of their bits, and compares each with the
    next `_NEIGHBOURS` in its own bucket: time and memory are linear in the number of images,
    however many of them are alike.

    Args:
        hashes: uint64 (N,), as numbers of :func:`perceptual_hash`, each once.
    """
    count = len(hashes)
    found = np.zeros(0, np.int64)
    both = np.concatenate([hashes, hashes ^ np.uint64(_MIRROR)])
    owners = np.tile(np.arange(count), 2)
    random = np.random.default_rng(0)
    for _ in range(_TABLES):
        mask = _WEIGHTS[random.choice(_BITS, _TABLE_BITS, replace=False)].sum(dtype=np.uint64)
        keys = both & mask
        order = np.lexsort((both, keys))
        keys, sorted_hashes, ids = keys[order], both[order], owners[order]
        pairs = [found]
        for step in range(1, _NEIGHBOURS + 1):
            near = np.flatnonzero(keys[step:] == keys[:-step])
            differing = np.bitwise_count(sorted_hashes[near] ^ sorted_hashes[near + step])
            near = near[differing <= _MOST_DIFFERING]
            one, other = ids[near], ids[near + step]
            apart = one != other
            low, high = np.minimum(one, other)[apart], np.maximum(one, other)[apart]
            pairs.append(low * count + high)
        found = np.unique(np.concatenate(pairs))
    return [(int(one) // count, int(one) % count) for one in found]


def _views(wide: NDArray[np.uint8]) -> NDArray[np.float32]:
    """Thumbnails of an image and of its crops, of mean 0 and norm 1, float32 (11, 32, 32, 3).

    `wide` is the image at `_WIDE` pixels a side.
    """
    cuts = [wide]
    for cut in _CROPS:
        kept, middle = _WIDE - cut, cut // 2
        corners = ((middle, middle), (0, 0), (0, cut), (cut, 0), (cut, cut))
        cuts += [wide[top : top + kept, left : left + kept] for top, left in corners]
    views = np.stack([_shrunk(one).astype(np.float32) for one in cuts])
    views -= views.mean(axis=(1, 2, 3), keepdims=True)
    norms = np.sqrt((views**2).sum(axis=(1, 2, 3), keepdims=True))
    normal: NDArray[np.float32] = views / np.maximum(norms, np.float32(1e-6))
    return normal


def _similarity(one: NDArray[np.float32], other: NDArray[np.float32]) -> tuple[float, bool]:
    """The highest correlation of one whole image with a view of the other; is it mirrored."""
    best = []
    for view in (other, other[:, :, ::-1]):
        first = np.tensordot(one, view[0], 3).max()
        second = np.tensordot(view, one[0], 3).max()
        best.append(float(max(first, second)))
    return min(1.0, max(best)), best[1] > best[0]


def _shrunk(image: NDArray[np.uint8], side: int = SIDE) -> NDArray[np.uint8]:
    shrunk = cv2.resize(image, (side, side), interpolation=cv2.INTER_AREA)
    return shrunk.astype(np.uint8, copy=False)


def _pair(
    places: dict[str, str],
    one: str,
    other: str,
    similarity: float,
    same: bool,
    mirrored: bool = False,
) -> Duplicate:
    return Duplicate(one, places[one], other, places[other], same, similarity, mirrored)
