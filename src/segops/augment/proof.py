"""The proof, on real samples, that a policy keeps image and mask together and void void."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator

import numpy as np
from numpy.typing import NDArray

from segops.augment.geometry import IMAGENET_MEAN_COLOR
from segops.augment.policy import Policy
from segops.runtime.classes import VOID
from segops.runtime.errors import SegopsError

LARGEST_SIDE = 1024
"""The proof looks at this much of an image at most, in pixels along each side."""

SPAN = 128
"""Source pixels that one ramp measures; the values around them let interpolation stay linear."""
START = 63

INSIDE = 255
"""Colour of the probe that tells what of a crop shows the image; the padding is darker."""

Sample = tuple[str, NDArray[np.uint8], NDArray[np.uint8]]
"""(image id, image (H, W, 3), mask (H, W))."""


def prove(policy: Policy, samples: Iterable[Sample], seeds: Iterable[int]) -> int:
    """Check `policy` on every sample with every seed.

    Returns:
        How many crops were checked.

    Raises:
        SegopsError: Every image and seed for which a property does not hold, with the property.
    """
    faults: list[tuple[str, int, SegopsError]] = []
    checked = 0
    seeds = tuple(seeds)
    for image_id, image, mask in samples:
        for seed in seeds:
            checked += 1
            fault = find_fault(policy, image, mask, seed)
            if fault is not None:
                faults.append((image_id, seed, fault))
    if faults:
        raise SegopsError(
            "\n".join(
                [
                    "The augmentation policy breaks the bond of image and mask:",
                    *(f"  {image_id} (seed {seed}): {one}" for image_id, seed, one in faults),
                    "Neither data nor parameters can cause this: the mistake is in the code of "
                    "segops/augment, or in a library it uses.",
                ]
            )
        )
    return checked


def find_fault(
    policy: Policy, image: NDArray[np.uint8], mask: NDArray[np.uint8], seed: int
) -> SegopsError | None:
    """The first property that `policy` breaks for one image; None where all hold.

    Where each pixel of a crop comes from is measured by sending ramps, whose brightness is the
    position, through the same map: interpolation of any kind keeps a ramp. The mask of the crop
    must then hold what the mask of the image holds there, give or take one pixel.
    """
    image, mask = _part(image), _part(mask)
    crop, crop_mask = policy(image, mask, seed)
    if crop.shape != (*policy.crop, 3) or crop_mask.shape != policy.crop:
        return SegopsError(
            f"expected a crop of {policy.crop}, got {crop.shape} and mask {crop_mask.shape}"
        )
    if crop.dtype != np.uint8 or crop_mask.dtype != np.uint8:
        return SegopsError(f"expected uint8, got {crop.dtype} and mask {crop_mask.dtype}")
    for other in (policy, Policy.from_json(policy.to_json())):
        again, again_mask = other(image, mask, seed)
        if not (np.array_equal(again, crop) and np.array_equal(again_mask, crop_mask)):
            return SegopsError(
                f"the same seed gives other bytes{'' if other is policy else ' once read back'}"
            )
    new = np.setdiff1d(crop_mask, np.append(np.unique(mask), VOID))
    if new.size:
        return SegopsError(f"ids {new.tolist()} appear that the mask does not hold")
    geometry = policy.geometry()
    if not np.array_equal(geometry(image, mask, seed)[1], crop_mask):
        return SegopsError("a part that changes colours changes the mask")
    return _find_misplaced(geometry, mask, crop_mask, seed)


def _find_misplaced(
    geometry: Policy, mask: NDArray[np.uint8], crop_mask: NDArray[np.uint8], seed: int
) -> SegopsError | None:
    def look(probe: NDArray[np.uint8]) -> NDArray[np.uint8]:
        return geometry(probe, mask, seed)[0]

    probe = look(np.full((*mask.shape, 3), INSIDE, dtype=np.uint8))
    fill = np.array(IMAGENET_MEAN_COLOR, dtype=np.uint8)
    if (probe < fill).any():
        return SegopsError(f"the image is padded with another colour than {IMAGENET_MEAN_COLOR}")
    padding = (probe == fill).all(axis=2)
    if (crop_mask[padding] != VOID).any():
        return SegopsError(
            f"padding has the ids {np.unique(crop_mask[padding]).tolist()}, expected {VOID}"
        )
    inside = (probe == INSIDE).all(axis=2)
    height, width = mask.shape
    columns = _positions(look, np.broadcast_to(np.arange(width), mask.shape))[inside]
    rows = _positions(look, np.broadcast_to(np.arange(height)[:, None], mask.shape))[inside]
    if (columns < 0).any() or (rows < 0).any():
        return SegopsError(
            "pixels that come from nowhere in the image, yet do not have the padding's colour"
        )
    found = crop_mask[inside]
    around = [
        mask[np.clip(rows + down, 0, height - 1), np.clip(columns + right, 0, width - 1)]
        for down in (-1, 0, 1)
        for right in (-1, 0, 1)
    ]
    astray = ~np.any([found == one for one in around], axis=0)
    void = np.all([one == VOID for one in around], axis=0)
    if astray.any():
        return SegopsError(
            f"{int(astray.sum())} of {astray.size} pixels of the mask are not the image's, "
            f"{int((astray & void).sum())} of them void pixels that became a class"
        )
    return None


def _positions(
    look: Callable[[NDArray[np.uint8]], NDArray[np.uint8]], position: NDArray[np.int64]
) -> NDArray[np.int64]:
    """Which `position` every pixel of the crop shows; -1 where none is seen."""
    found: NDArray[np.int64] | None = None
    for starts in _threes(range(0, int(position.max()) + 1, SPAN)):
        ramps = [np.clip(position - start + START, 0, 255) for start in starts]
        seen = look(np.stack(ramps, axis=2).astype(np.uint8)).astype(np.int64)
        if found is None:
            found = np.full(seen.shape[:2], -1)
        for channel, start in enumerate(starts):
            value = seen[..., channel] - START
            hit = (value >= 0) & (value <= SPAN)
            found[hit] = value[hit] + start
    assert found is not None
    return found


def _threes(starts: Iterable[int]) -> Iterator[tuple[int, int, int]]:
    """Three at a time, one for each channel; the last one stands in for those that are missing."""
    waiting = list(starts)
    while waiting:
        first, second, third = (waiting + waiting[-1:] * 2)[:3]
        yield first, second, third
        waiting = waiting[3:]


def _part(array: NDArray[np.uint8]) -> NDArray[np.uint8]:
    # Read-only, so that a transform that writes into its input fails here as on the packed store.
    part = array[:LARGEST_SIDE, :LARGEST_SIDE].view()
    part.flags.writeable = False
    return part
