"""Scale, crop, flip, rotation, shift and shear in one resampling, straight from image to crop."""

from __future__ import annotations

import math
from typing import Any

import albumentations as A
import cv2
import numpy as np
from numpy.typing import NDArray

from segops.runtime.bands import IMAGENET_MEAN_COLOR, RGB
from segops.runtime.classes import VOID

MARGIN = 3
"""Source pixels kept around what a crop shows, so that interpolation never meets a cut edge."""

REDRAWS = 10
"""Times that a crop is drawn again at most."""

COUNTED_SIDE = 128
"""Fewest pixels along the crop's shorter side of which the classes are counted."""

Pixels = NDArray[np.uint8]
"""An image, (H, W, C), where three channels are RGB, or a mask, (H, W)."""

GROUP = 4
"""Channels that OpenCV warps and pads at a time."""

Affine = tuple[float, float, float, float, float, float]
"""The map (x, y) -> (a x + b y + c, d x + e y + f) as (a, b, c, d, e, f); plain numbers, because
making a numpy array of six costs more than the arithmetic."""

Window = tuple[int, int, int, int]
"""Left, top, right and bottom in pixels; right and bottom lie one beyond the last pixel."""


class Warp(A.DualTransform):  # type: ignore[misc]
    """A random affine map of an image and its mask onto a crop of fixed size.

    It does what ``RandomScale``, ``PadIfNeeded``, ``RandomCrop``, ``HorizontalFlip`` and ``Affine``
    do in this order, but resamples once: faster, less blurred, and a rotation shows the image, not
    padding, beyond the corners of the crop. A scaled image that is smaller than the crop lies at a
    random place in it.

    Images are resampled bilinearly, masks by nearest neighbour, always. An image that shrinks to
    less than half is reduced by area first, since bilinear interpolation would skip pixels. Beyond
    the border images have the colour `fill` and masks have `fill_mask`, which is void.

    Args:
        size: Height and width of the crop, in pixels.
        scale: Smallest and largest factor, drawn uniformly.
        scale_p: Probability of the scale; so are `flip_p` (horizontal), `rotate_p`, `shift_p` and
            `shear_p`. They are independent.
        rotate: Rotation between -rotate and rotate, in degrees, about the crop's centre.
        shift: Shift along each axis, up to this share of the crop's side.
        shear: Shear along each axis between -shear and shear, in degrees, about the centre.
        cat_max_ratio: The crop's place is drawn again, up to ten times, while a class has this
            share of its labelled pixels or more, or no pixel is labelled. The pixels counted are a
            grid, of 128 or more a side, of the warped mask. 1: the place is drawn once. As in
            ``RandomCrop`` of MMSegmentation.
        fill: A value for each channel, 0 to 255.
        fill_mask: Id, 0 to 255.
        p: Probability of all of it; a policy needs 1, since the crop's size is fixed.
    """

    def __init__(
        self,
        size: tuple[int, int],
        scale: tuple[float, float] = (1.0, 1.0),
        scale_p: float = 0.0,
        flip_p: float = 0.0,
        rotate: float = 0.0,
        rotate_p: float = 0.0,
        shift: float = 0.0,
        shift_p: float = 0.0,
        shear: float = 0.0,
        shear_p: float = 0.0,
        cat_max_ratio: float = 1.0,
        fill: tuple[int, ...] = IMAGENET_MEAN_COLOR,
        fill_mask: int = VOID,
        p: float = 1.0,
    ) -> None:
        super().__init__(p=p)
        self.size = size[0], size[1]  # a list where JSON is read
        self.scale = scale
        self.scale_p = scale_p
        self.flip_p = flip_p
        self.rotate = rotate
        self.rotate_p = rotate_p
        self.shift = shift
        self.shift_p = shift_p
        self.shear = shear
        self.shear_p = shear_p
        self.cat_max_ratio = cat_max_ratio
        self.fill = fill
        self.fill_mask = fill_mask

    def get_params_dependent_on_data(
        self, params: dict[str, Any], data: dict[str, Any]
    ) -> dict[str, Any]:
        """Draw a map for an image of shape ``params["shape"]``.

        Returns:
            `scale`, `flip`, `angle` (degrees), `shift` (pixels), `shear` (degrees); `to_source`,
            the map from crop to image, where positions count from the corner, so that the first
            pixel's centre is (0.5, 0.5); and `window`, the part of the crop beyond which there is
            only padding.
        """
        height, width = params["shape"][:2]
        crop_height, crop_width = self.size
        uniform, happens = self.py_random.uniform, self._happens
        scale = uniform(*self.scale) if happens(self.scale_p) else 1.0
        place = self._place(width * scale, height * scale)
        flip = happens(self.flip_p)
        angle = uniform(-self.rotate, self.rotate) if happens(self.rotate_p) else 0.0
        shift = shear = (0.0, 0.0)
        if happens(self.shift_p):
            shift = (
                uniform(-self.shift, self.shift) * crop_width,
                uniform(-self.shift, self.shift) * crop_height,
            )
        if happens(self.shear_p):
            shear = (uniform(-self.shear, self.shear), uniform(-self.shear, self.shear))

        drawn: dict[str, Any] = {"scale": scale, "flip": flip, "angle": angle}
        drawn |= {"shift": shift, "shear": shear}
        redraws = REDRAWS if self.cat_max_ratio < 1 and "mask" in data else 0
        for left in range(redraws, -1, -1):
            to_source = self._to_source(place, **drawn)
            window = self._window(to_source, width, height)
            if left == 0 or self._is_varied(data["mask"], to_source, window):
                break
            place = self._place(width * scale, height * scale)
        return {**drawn, "to_source": to_source, "window": window}

    def apply(
        self, img: Pixels, to_source: Affine, window: Window, scale: float, **_: Any
    ) -> Pixels:
        """Warp an image: uint8 (H, W, C) to uint8 of the crop's size, bilinearly.

        Raises:
            ValueError: The image has another number of channels than `fill`.
        """
        channels = img.shape[2]
        if channels != len(self.fill):
            raise ValueError(f"image of {channels} channels, fill of {len(self.fill)}")
        part, to_part = self.shown(img, to_source, window, scale)
        if part.size == 0:
            return np.full((*self.size, channels), self.fill, dtype=np.uint8)
        if channels != RGB:
            groups = []
            for first in range(0, channels, GROUP):
                some = part[..., first : first + GROUP]
                missing = GROUP - some.shape[2]  # two channels would be warped less exactly
                some = np.pad(some, ((0, 0), (0, 0), (0, missing)))
                fill = *self.fill[first : first + GROUP], *[0] * missing
                warped = _warp(some, to_part, window, cv2.INTER_LINEAR, fill)
                groups.append(self._padded(warped, window, fill))
            return np.ascontiguousarray(np.concatenate(groups, axis=2)[..., :channels])
        # OpenCV's bilinear warp of four channels takes a third of the time of three.
        part = np.asarray(cv2.cvtColor(part, cv2.COLOR_RGB2RGBA), dtype=np.uint8)
        warped = _warp(part, to_part, window, cv2.INTER_LINEAR, (*self.fill, 0))
        return self._padded(cv2.cvtColor(warped, cv2.COLOR_RGBA2RGB), window, self.fill)

    def apply_to_mask(self, mask: Pixels, to_source: Affine, window: Window, **_: Any) -> Pixels:
        """Warp a mask: uint8 (H, W) to uint8 of the crop's size, by nearest neighbour."""
        part, to_part = self.shown_mask(mask, to_source, window)
        if part.size == 0:
            return np.full(self.size, self.fill_mask, dtype=np.uint8)
        warped = _warp(part, to_part, window, cv2.INTER_NEAREST, (self.fill_mask,))
        return self._padded(warped, window, (self.fill_mask,))

    def shown(
        self, img: Pixels, to_source: Affine, window: Window, scale: float
    ) -> tuple[Pixels, Affine]:
        """The part of an image, uint8 (H, W, C), that a bilinear warp reads.

        Returns:
            The part, reduced by area where it shrinks to less than half, and the map from crop to
            part. The part has size 0 where the crop is all padding.
        """
        part, to_part = _needed(img, to_source, window, MARGIN + math.ceil(1 / scale))
        times = int(1 / scale)
        if part.size and times >= 2:
            height, width = part.shape[:2]
            smaller = max(1, round(width / times)), max(1, round(height / times))
            part = np.asarray(cv2.resize(part, smaller, interpolation=cv2.INTER_AREA), np.uint8)
            to_part = _chain(to_part, (smaller[0] / width, 0, 0, 0, smaller[1] / height, 0))
        return part, to_part

    def shown_mask(self, mask: Pixels, to_source: Affine, window: Window) -> tuple[Pixels, Affine]:
        """The part of a mask, uint8 (H, W), that a warp reads, and the map from crop to part."""
        return _needed(mask, to_source, window, MARGIN)

    def _happens(self, probability: float) -> bool:
        return bool(self.py_random.random() < probability)

    def _place(self, width: float, height: float) -> tuple[int, int]:
        """Left and top of a crop in a scaled image of `width` x `height`."""
        return self._offset(width - self.size[1]), self._offset(height - self.size[0])

    def _offset(self, surplus: float) -> int:
        """Where a crop begins in a scaled image; negative where padding comes first."""
        drawn = int(self.py_random.randint(0, math.floor(abs(surplus))))
        return drawn if surplus >= 0 else -drawn

    def _to_source(
        self,
        place: tuple[int, int],
        scale: float,
        flip: bool,
        angle: float,
        shift: tuple[float, float],
        shear: tuple[float, float],
    ) -> Affine:
        """The map from crop to image, which undoes each step, the last first."""
        height, width = self.size
        return _chain(
            _translation(-width / 2 - shift[0], -height / 2 - shift[1]),
            _rotation(-angle),
            # One axis after the other, so that the area stays the same at all angles.
            (1, -math.tan(math.radians(shear[0])), 0, 0, 1, 0),
            (1, 0, 0, -math.tan(math.radians(shear[1])), 1, 0),
            (-1.0 if flip else 1.0, 0, 0, 0, 1, 0),
            _translation(width / 2 + place[0], height / 2 + place[1]),
            (1 / scale, 0, 0, 0, 1 / scale, 0),
        )

    def _is_varied(self, mask: Pixels, to_source: Affine, window: Window) -> bool:
        """Whether the crop has labelled pixels and no class has `cat_max_ratio` of them."""
        part, to_part = self.shown_mask(mask, to_source, window)
        if part.size == 0:
            return False
        step = max(1, min(self.size) // COUNTED_SIDE)
        grid = _chain((step, 0, 0, 0, step, 0), to_part)
        counted = (0, 0, self.size[1] // step, self.size[0] // step)
        seen = _warp(part, grid, counted, cv2.INTER_NEAREST, (self.fill_mask,))
        counts = cv2.calcHist([seen], [0], None, [256], [0, 256]).reshape(-1)[:VOID]
        return bool(counts.sum() and counts.max() < self.cat_max_ratio * counts.sum())

    def _window(self, to_source: Affine, width: int, height: int) -> Window:
        """The part of the crop that an image of `width` x `height` can touch."""
        a, b, c, d, e, f = to_source
        area = a * e - b * d
        to_crop = (e / area, -b / area, 0, -d / area, a / area, 0)
        box = _box(_chain(_translation(-c, -f), to_crop), (0, 0, width, height))
        return _inside(box, 1, self.size[1], self.size[0])

    def _padded(self, part: Any, window: Window, fill: tuple[int, ...]) -> Pixels:
        """Put what fills `window` into a crop."""
        left, top, right, bottom = window
        borders = top, self.size[0] - bottom, left, self.size[1] - right
        if any(borders):
            part = cv2.copyMakeBorder(part, *borders, cv2.BORDER_CONSTANT, value=fill)
        return np.asarray(part, dtype=np.uint8)


def _needed(
    source: Pixels, to_source: Affine, window: Window, margin: int
) -> tuple[Pixels, Affine]:
    """The part of `source` that `window` shows, and the map from crop to part.

    Pixels of a large photograph that the crop does not show are not read.
    """
    if window[0] == window[2] or window[1] == window[3]:
        return source[:0], to_source
    height, width = source.shape[:2]
    left, top, right, bottom = _inside(_box(to_source, window), margin, width, height)
    return source[top:bottom, left:right], _chain(to_source, _translation(-left, -top))


def _warp(
    source: Pixels,
    to_source: Affine,
    window: Window,
    interpolation: int,
    fill: tuple[int, ...],
) -> Pixels:
    left, top, right, bottom = window
    # OpenCV counts positions from the centre of the first pixel.
    indices = _chain(_translation(left + 0.5, top + 0.5), to_source, _translation(-0.5, -0.5))
    warped = cv2.warpAffine(
        source,
        np.array(indices).reshape(2, 3),
        (right - left, bottom - top),
        flags=interpolation | cv2.WARP_INVERSE_MAP,
        borderMode=cv2.BORDER_CONSTANT,
        borderValue=fill,
    )
    return np.asarray(warped, dtype=np.uint8)


def _box(affine: Affine, window: Window) -> Window:
    """The smallest window that holds the image of `window` under `affine`."""
    a, b, c, d, e, f = affine
    left, top, right, bottom = window
    xs = [a * x + b * y + c for x in (left, right) for y in (top, bottom)]
    ys = [d * x + e * y + f for x in (left, right) for y in (top, bottom)]
    return math.floor(min(xs)), math.floor(min(ys)), math.ceil(max(xs)), math.ceil(max(ys))


def _inside(window: Window, margin: int, width: int, height: int) -> Window:
    """The part of a window and its margin in a `width` x `height` image; of area 0 if none is."""
    left, top, right, bottom = window
    left, top = min(max(left - margin, 0), width), min(max(top - margin, 0), height)
    return left, top, max(left, min(right + margin, width)), max(top, min(bottom + margin, height))


def _chain(*maps: Affine) -> Affine:
    """The map that applies `maps` in their order."""
    a, b, c, d, e, f = maps[0]
    for p, q, r, s, t, u in maps[1:]:
        a, b, c, d, e, f = (
            p * a + q * d,
            p * b + q * e,
            p * c + q * f + r,
            s * a + t * d,
            s * b + t * e,
            s * c + t * f + u,
        )
    return a, b, c, d, e, f


def _translation(x: float, y: float) -> Affine:
    return 1, 0, x, 0, 1, y


def _rotation(degrees: float) -> Affine:
    cosine, sine = math.cos(math.radians(degrees)), math.sin(math.radians(degrees))
    return cosine, -sine, 0, sine, cosine, 0
