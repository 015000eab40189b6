"""Photometric distortion, as published recipes use it."""

from __future__ import annotations

from typing import Any, NamedTuple

import albumentations as A
import cv2
import numpy as np
from numpy.typing import NDArray

from segops.augment.color import recoloured
from segops.augment.geometry import Pixels

LEVELS = np.arange(256, dtype=np.uint8)


class PhotometricDistortion(A.ImageOnlyTransform):  # type: ignore[misc]
    """Random brightness, contrast, saturation and hue, each with probability one half.

    Brightness is added to all channels and contrast multiplies them; both results are clipped to
    0..255. Saturation is multiplied and hue turned in HSV. Contrast comes right after brightness or
    last, each with probability one half.

    Args:
        brightness: Grey levels added, within ± this.
        contrast: Smallest and largest factor.
        saturation: Smallest and largest factor of HSV's saturation.
        hue: Degrees that HSV's hue is turned by, within ± this.
        p: Probability of all of it; the reference has 1.

    Source:
        Liu et al., "SSD: Single Shot MultiBox Detector", ECCV 2016, section 2.2 and its released
        code, with the hue in degrees; the order is that of ``PhotoMetricDistortion`` in
        MMSegmentation, whose ``hue_delta=18`` counts OpenCV's steps of two degrees and is 36 here.
        Values are rounded, not cut off, and hue and saturation change in one conversion with a hue
        in steps of 1.4 degrees.
    """

    def __init__(
        self,
        brightness: float = 32.0,
        contrast: tuple[float, float] = (0.5, 1.5),
        saturation: tuple[float, float] = (0.5, 1.5),
        hue: float = 18.0,
        p: float = 1.0,
    ) -> None:
        super().__init__(p=p)
        self.brightness = brightness
        self.contrast = contrast
        self.saturation = saturation
        self.hue = hue

    def get_params(self) -> dict[str, Any]:
        """Draw `brightness` (grey levels), `contrast`, `saturation` (factors), `hue` (degrees).

        Each is 0 or 1 where it does not act. `contrast_first`: contrast comes before saturation.
        """
        return {
            "brightness": self._drawn(-self.brightness, self.brightness, 0.0),
            "contrast_first": self._happens(),
            "contrast": self._drawn(*self.contrast, 1.0),
            "saturation": self._drawn(*self.saturation, 1.0),
            "hue": self._drawn(-self.hue, self.hue, 0.0),
        }

    def apply(
        self,
        img: Pixels,
        brightness: float,
        contrast: float,
        contrast_first: bool,
        saturation: float,
        hue: float,
        **_: Any,
    ) -> Pixels:
        """Distort the colours of an image: uint8 (H, W, C)."""
        tables = make_tables(brightness, contrast, contrast_first, saturation, hue)
        return recoloured(img, lambda rgb: self._distorted(rgb, tables))

    @staticmethod
    def _distorted(img: Pixels, tables: Tables) -> Pixels:
        img = _replaced(img, tables.before)
        if tables.changes_color:
            hsv = cv2.LUT(cv2.cvtColor(img, cv2.COLOR_RGB2HSV_FULL), tables.hsv[None])
            img = np.asarray(cv2.cvtColor(hsv, cv2.COLOR_HSV2RGB_FULL), dtype=np.uint8)
        return _replaced(img, tables.after)

    def _happens(self) -> bool:
        return bool(self.py_random.random() < 0.5)

    def _drawn(self, low: float, high: float, otherwise: float) -> float:
        return float(self.py_random.uniform(low, high)) if self._happens() else otherwise


class Tables(NamedTuple):
    """What a distortion replaces each of the 256 levels by.

    `before` and `after`, uint8 (256,), are for each channel of RGB, `hsv`, uint8 (256, 3), for hue,
    saturation and value in between. `changes_color`: the image is converted to HSV at all.
    """

    before: Pixels
    hsv: Pixels
    after: Pixels
    changes_color: bool


def make_tables(
    brightness: float, contrast: float, contrast_first: bool, saturation: float, hue: float
) -> Tables:
    """The tables of a distortion; each argument as :class:`PhotometricDistortion` draws it."""
    levels = LEVELS.astype(np.float64)
    brighter = np.clip(levels + brightness, 0, 255)
    changes_color = saturation != 1 or hue != 0
    if contrast_first or not changes_color:
        before, after = brighter * contrast, levels
    else:
        before, after = brighter, levels * contrast
    # OpenCV's "full" conversion spreads the circle over 256 steps one way, over 255 the other.
    turned = (levels * 360 / 256 + hue) % 360 * 255 / 360
    hsv = np.stack((turned, levels * saturation, levels), axis=1)
    return Tables(_to_bytes(before), _to_bytes(hsv), _to_bytes(after), changes_color)


def _replaced(img: Pixels, table: Pixels) -> Pixels:
    return img if np.array_equal(table, LEVELS) else np.asarray(cv2.LUT(img, table), np.uint8)


def _to_bytes(values: NDArray[np.float64]) -> Pixels:
    return np.rint(np.clip(values, 0, 255)).astype(np.uint8)
