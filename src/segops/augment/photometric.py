"""Photometric distortion, as published recipes use it."""

from __future__ import annotations

from typing import Any

import albumentations as A
import cv2
import numpy as np
from albumentations.core.transforms_interface import BaseTransformInitSchema
from numpy.typing import NDArray
from pydantic import Field

LEVELS = np.arange(256, dtype=np.float64)


class PhotometricDistortion(A.ImageOnlyTransform):  # type: ignore[misc]
    """Random brightness, contrast, saturation and hue, each with probability one half.

    Brightness is added, contrast multiplies all channels; both are clipped to 0..255. Saturation is
    multiplied and hue turned in HSV. Contrast comes right after brightness or last, either with
    probability one half.

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

    class InitSchema(BaseTransformInitSchema):  # type: ignore[misc]
        """Types and bounds; Albumentations checks them."""

        brightness: float = Field(ge=0, le=255)
        contrast: tuple[float, float]
        saturation: tuple[float, float]
        hue: float = Field(ge=0, le=180)

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
        """Draw the changes.

        Returns:
            `brightness` (grey levels), `contrast` and `saturation` (factors), `hue` (degrees), each
            0 or 1 where it does not act, and `contrast_first`: contrast comes before saturation.
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
        img: NDArray[np.uint8],
        brightness: float,
        contrast: float,
        contrast_first: bool,
        saturation: float,
        hue: float,
        **_: Any,
    ) -> NDArray[np.uint8]:
        """Distort an image: uint8 (H, W, 3), RGB."""
        colored = changes_color(saturation, hue)
        before, after = level_tables(brightness, contrast, contrast_first, colored)
        img = _mapped(img, before)
        if colored:
            img = _mapped(_changed_in_hsv(img, saturation, hue), after)
        return img

    def _happens(self) -> bool:
        return bool(self.py_random.random() < 0.5)

    def _drawn(self, low: float, high: float, otherwise: float) -> float:
        return float(self.py_random.uniform(low, high)) if self._happens() else otherwise


def changes_color(saturation: float, hue: float) -> bool:
    """Whether an image is converted to HSV and back at all."""
    return saturation != 1 or hue != 0


def level_tables(
    brightness: float, contrast: float, contrast_first: bool, colored: bool
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """What each of the 256 levels becomes before and after the change in HSV, not rounded yet."""
    before = _clipped(LEVELS + brightness)
    if contrast_first or not colored:
        return _clipped(before * contrast), LEVELS
    return before, _clipped(LEVELS * contrast)


def hsv_table(saturation: float, hue: float) -> NDArray[np.uint8]:
    """What each level of hue, saturation and value becomes, uint8 (256, 3)."""
    # OpenCV's "full" conversion spreads the circle over 256 steps one way, over 255 the other.
    turned = np.rint((LEVELS * 360 / 256 + hue) % 360 * 255 / 360)
    table = np.stack((turned, np.rint(_clipped(LEVELS * saturation)), LEVELS), axis=1)
    return table.astype(np.uint8)


def _changed_in_hsv(img: NDArray[np.uint8], saturation: float, hue: float) -> NDArray[np.uint8]:
    hsv = cv2.cvtColor(img, cv2.COLOR_RGB2HSV_FULL)
    changed = cv2.LUT(hsv, hsv_table(saturation, hue)[None])
    return np.asarray(cv2.cvtColor(changed, cv2.COLOR_HSV2RGB_FULL), dtype=np.uint8)


def _mapped(img: NDArray[np.uint8], values: NDArray[np.float64]) -> NDArray[np.uint8]:
    """Every level replaced by its value, rounded."""
    if values is LEVELS or np.array_equal(values, LEVELS):
        return img
    return np.asarray(cv2.LUT(img, np.rint(values).astype(np.uint8)), dtype=np.uint8)


def _clipped(values: NDArray[np.float64]) -> NDArray[np.float64]:
    return np.clip(values, 0, 255)
