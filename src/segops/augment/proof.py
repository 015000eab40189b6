"""The proof, on real samples, that a policy keeps image and mask together and void void."""

from __future__ import annotations

import copy
import json
from collections.abc import Callable, Iterable
from itertools import product, zip_longest

import albumentations as A
import numpy as np
from numpy.typing import NDArray

from segops.augment.geometry import Pixels, Warp
from segops.augment.policy import Policy
from segops.runtime.bands import RGB
from segops.runtime.classes import VOID
from segops.runtime.errors import SegopsError

LARGEST_SIDE = 1024
"""The proof looks at this much of an image at most, in pixels along each side."""

SPAN = 128
"""Source pixels that one ramp measures; the values around them let interpolation stay linear."""
START = 63

NamedSample = tuple[str, Pixels, Pixels]
"""(image id, image (H, W, C), mask (H, W))."""


def prove(policy: Policy, samples: Iterable[NamedSample], seeds: Iterable[int]) -> int:
    """Check `policy` on every sample with every seed; return the number of checked crops.

    Raises:
        SegopsError: Every image and seed for which a property does not hold, with the part of the
            policy and the property.
    """
    places: dict[str, list[SegopsError]] = {}
    checked = 0
    for (image_id, image, mask), seed in product(samples, seeds):
        checked += 1
        if fault := find_fault(policy, image, mask, seed):
            places.setdefault(str(fault), []).append(SegopsError(f"{image_id} (seed {seed})"))
    if places:
        faults = [f"  {fault}: {', '.join(map(str, where))}" for fault, where in places.items()]
        raise SegopsError(
            "The augmentation policy does not keep image and mask together:\n"
            + "\n".join(faults)
            + "\nIf the part is a transform of augment.extra, remove it or change its arguments "
            f"(fill_mask: {VOID} makes void what it leaves empty). If not, the mistake is in "
            "segops/augment or in a library that it uses."
        )
    return checked


def find_fault(policy: Policy, image: Pixels, mask: Pixels, seed: int) -> SegopsError | None:
    """The first part of `policy` that breaks a property for an image, and the property.

    The warp is checked on the image; each later part is checked alone and with probability 1, on
    the crop that the warp makes of the image. None where all properties hold.
    """
    image, mask = _part(image), _part(mask)
    warp, *others = policy.compose.transforms
    first = Policy(A.Compose([warp]))
    fault = _fault_of(first, image, mask, seed) or _find_misplaced(first, image, mask, seed)
    if fault:
        return SegopsError(f"Warp: {fault}")
    crop, crop_mask = first(image, mask, seed)
    for transform in others:
        certain = copy.copy(transform)
        certain.p = 1
        alone = Policy(A.Compose([Warp(size=policy.crop, fill=warp.fill), certain]))
        try:
            fault = _fault_of(alone, crop, crop_mask, seed)
            if not fault and not isinstance(transform, A.ImageOnlyTransform):
                fault = _find_misplaced(alone, crop, crop_mask, seed)
        except Exception as error:  # a transform of augment.extra may raise anything
            fault = SegopsError(f"{type(error).__name__}: {' '.join(str(error).split())}")
            if crop.shape[2] != RGB:
                fault = SegopsError(f"{fault} (images have {crop.shape[2]} channels)")
        if fault:
            return SegopsError(f"{type(transform).__name__}: {fault}")
    return _fault_of(policy, image, mask, seed)


def _fault_of(policy: Policy, image: Pixels, mask: Pixels, seed: int) -> SegopsError | None:
    """What is wrong with the size, the type, the ids or the repetition of a crop."""
    crop, crop_mask = policy(image, mask, seed)
    if crop.shape != (*policy.crop, image.shape[2]) or crop_mask.shape != policy.crop:
        return SegopsError(
            f"expected a crop of {policy.crop}, got {crop.shape} and mask {crop_mask.shape}"
        )
    if crop.dtype != np.uint8 or crop_mask.dtype != np.uint8:
        return SegopsError(f"expected uint8, got {crop.dtype} and mask {crop_mask.dtype}")
    read_back = Policy.from_json(json.loads(json.dumps(policy.to_json())))
    for other in (policy, read_back):
        again, again_mask = other(image, mask, seed)
        if not (np.array_equal(again, crop) and np.array_equal(again_mask, crop_mask)):
            return SegopsError(
                f"the same seed gives other bytes{'' if other is policy else ' once read back'}"
            )
    new = np.setdiff1d(crop_mask, np.append(np.unique(mask), VOID))
    if new.size:
        return SegopsError(f"ids {new.tolist()} appear that the mask does not hold")
    return None


def _find_misplaced(policy: Policy, image: Pixels, mask: Pixels, seed: int) -> SegopsError | None:
    """What of the mask of a crop is not where the crop shows it.

    Ramps, whose brightness is the position, are sent through the same map to measure where each
    pixel of a crop comes from: interpolation of any kind keeps a ramp. The mask of the crop must
    hold what the mask of the image holds there, give or take one pixel. Where the crop shows
    nothing of the image, whatever its colour, the mask must be void.
    """

    def look(probe: Pixels) -> Pixels:
        return policy(probe, mask, seed)[0]

    crop_mask = policy(image, mask, seed)[1]
    dark, bright = (look(np.full_like(image, level)).astype(np.int16) for level in (0, 255))
    shown = (bright - dark).sum(axis=2)
    empty = crop_mask[shown == 0]
    if (empty != VOID).any():
        return SegopsError(
            "where the crop shows nothing of the image, the mask has the ids "
            f"{np.unique(empty).tolist()}, expected {VOID}"
        )
    channels = image.shape[2]
    inside = shown == channels * 255
    height, width = mask.shape
    columns = _positions(look, channels, np.broadcast_to(np.arange(width), mask.shape))[inside]
    rows = _positions(look, channels, np.broadcast_to(np.arange(height)[:, None], mask.shape))[
        inside
    ]
    if (columns < 0).any() or (rows < 0).any():
        return SegopsError("pixels come from nowhere in the image")
    labels = crop_mask[inside]
    around = [
        mask[np.clip(rows + down, 0, height - 1), np.clip(columns + right, 0, width - 1)]
        for down in (-1, 0, 1)
        for right in (-1, 0, 1)
    ]
    astray = ~np.any([labels == label for label in around], axis=0)
    void = np.all([label == VOID for label in around], axis=0)
    if astray.any():
        return SegopsError(
            f"{int(astray.sum())} of {astray.size} pixels of the mask are not the image's, "
            f"{int((astray & void).sum())} of them void pixels that became a class"
        )
    return None


def _positions(
    look: Callable[[Pixels], Pixels], channels: int, position: NDArray[np.int64]
) -> NDArray[np.int64]:
    """Which `position` each pixel of the crop shows; -1 where it shows none."""
    spans = range(0, int(position.max()) + 1, SPAN)
    shown: NDArray[np.int64] | None = None
    # As many ramps at a time as there are channels.
    for starts in zip_longest(*[iter(spans)] * channels, fillvalue=spans[-1]):
        ramps = [np.clip(position - start + START, 0, 255) for start in starts]
        seen = look(np.stack(ramps, axis=2).astype(np.uint8)).astype(np.int64) - START
        if shown is None:
            shown = np.full(seen.shape[:2], -1)
        for value, start in zip(np.moveaxis(seen, 2, 0), starts, strict=True):
            np.copyto(shown, value + start, where=(value >= 0) & (value <= SPAN))
    assert shown is not None
    return shown


def _part(array: Pixels) -> Pixels:
    # Read-only, so that a transform that writes into its input fails here as on the packed store.
    part = array[:LARGEST_SIDE, :LARGEST_SIDE].view()
    part.flags.writeable = False
    return part
