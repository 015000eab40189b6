"""Colour jitter, blur and noise: transforms that change the image and not the mask."""

from __future__ import annotations

import math
from collections.abc import Callable
from statistics import NormalDist
from typing import TYPE_CHECKING, Any, TypeVar

import albumentations as A
import cv2
import numpy as np
from numpy.typing import NDArray

from segops.augment.geometry import Pixels
from segops.runtime.bands import RGB, false_colour
from segops.runtime.classes import VOID

if TYPE_CHECKING:
    from torch import Tensor

LUMA = np.array((0.299, 0.587, 0.114))
"""Weights of red, green and blue in grey: ITU-R BT.601, as in Pillow, OpenCV and torchvision."""

RGB_TO_YIQ = np.array(
    [LUMA, (0.595716, -0.274453, -0.321263), (0.211456, -0.522591, 0.311135)], dtype=np.float64
)
"""Grey and two axes of colour (NTSC); rows two and three sum to zero, so grey has no colour."""
YIQ_TO_RGB = np.linalg.inv(RGB_TO_YIQ)

NORMAL_LEVELS = np.array([NormalDist().inv_cdf((level + 0.5) / 256) for level in range(256)])
NORMAL_LEVELS /= NORMAL_LEVELS.std()
"""256 equally likely values of mean 0 and deviation 1."""

ROW_STEP = 8

Colours = TypeVar("Colours", Pixels, "Tensor")


class ColorJitter(A.ImageOnlyTransform):  # type: ignore[misc]
    """Random brightness, contrast, saturation and hue, as one 3x3 matrix and an offset.

    Each of the four is linear in RGB and keeps grey grey, so their order does not matter and
    nothing is rounded or clipped in between. Contrast is taken about the mean grey of the pixels
    that are not void, so neither padding nor unlabelled pixels change it.

    Args:
        brightness: Factor within 1 ± this, 0 to 1; so are `contrast` and `saturation`.
        hue: Turn of the colour circle within ± this share of it, 0 to 0.5.
        p: Probability.

    Source:
        Haeberli, "Matrix Operations for Image Processing", 1993; factors as in torchvision's
        ``ColorJitter``. Hue is a rotation of the chroma plane (YIQ), not a shift of HSV's hue.
    """

    def __init__(
        self,
        brightness: float = 0.0,
        contrast: float = 0.0,
        saturation: float = 0.0,
        hue: float = 0.0,
        p: float = 0.5,
    ) -> None:
        super().__init__(p=p)
        self.brightness = brightness
        self.contrast = contrast
        self.saturation = saturation
        self.hue = hue

    def get_params_dependent_on_data(
        self, params: dict[str, Any], data: dict[str, Any]
    ) -> dict[str, Any]:
        """Draw `brightness`, `contrast`, `saturation` (factors) and `hue` (share of the circle).

        Returns:
            These four, `linear`, float64 (3, 3), `per_grey`, the offset for each level of the mean
            grey, and `matrix`, float64 (3, 4), that maps (red, green, blue, 1) to the new colour.
        """
        around = self.py_random.uniform
        brightness = around(1 - self.brightness, 1 + self.brightness)
        contrast = around(1 - self.contrast, 1 + self.contrast)
        saturation = around(1 - self.saturation, 1 + self.saturation)
        hue = around(-self.hue, self.hue)
        linear = brightness * contrast * (_hue(hue) @ _saturation(saturation))
        per_grey = (1 - contrast) * brightness
        offset = per_grey * _mean_grey(data["image"], data.get("mask")) if per_grey else 0.0
        return {
            "brightness": brightness,
            "contrast": contrast,
            "saturation": saturation,
            "hue": hue,
            "linear": linear,
            "per_grey": per_grey,
            "matrix": np.column_stack((linear, np.full(3, offset))),
        }

    def apply(self, img: Pixels, matrix: NDArray[np.float64], **_: Any) -> Pixels:
        """Change the colours of an image: uint8 (H, W, C), rounded and clipped to 0..255."""
        return recoloured(img, lambda rgb: np.asarray(cv2.transform(rgb, matrix), np.uint8))


class GaussianBlur(A.ImageOnlyTransform):  # type: ignore[misc]
    """Gaussian blur; separable, in a third of the time of Albumentations' own.

    Args:
        sigma: Smallest and largest standard deviation, in pixels.
        p: Probability.
    """

    def __init__(self, sigma: tuple[float, float] = (0.3, 1.2), p: float = 0.5) -> None:
        super().__init__(p=p)
        self.sigma = sigma

    def get_params(self) -> dict[str, Any]:
        """Draw `drawn_sigma`, in pixels."""
        return {"drawn_sigma": self.py_random.uniform(*self.sigma)}

    def apply(self, img: Pixels, drawn_sigma: float, **_: Any) -> Pixels:
        """Blur an image: uint8 (H, W, C)."""
        return np.asarray(cv2.GaussianBlur(img, (0, 0), drawn_sigma), dtype=np.uint8)


class GaussianNoise(A.ImageOnlyTransform):  # type: ignore[misc]
    """Gaussian noise, drawn for each pixel and channel independently.

    A random byte picks one of 256 equally likely values of the normal distribution (inversion, see
    Devroye, "Non-Uniform Random Variate Generation", 1986, II.2), rounded to whole grey levels: a
    tenth of the time of Albumentations' ``GaussNoise``. No value exceeds 2.9 deviations.

    Args:
        std: Smallest and largest standard deviation, as a share of 255.
        p: Probability.
    """

    def __init__(self, std: tuple[float, float] = (0.01, 0.05), p: float = 0.5) -> None:
        super().__init__(p=p)
        self.std = std

    def get_params_dependent_on_data(
        self, params: dict[str, Any], data: dict[str, Any]
    ) -> dict[str, Any]:
        """Draw `drawn_std`, a share of 255, and `levels`, random bytes of the image's shape.

        `noise`, int16 (256,), is the value for each byte.
        """
        shape = data["image"].shape
        size = math.prod(shape)
        words = self.random_generator.integers(0, 2**64, size=-(-size // 8), dtype=np.uint64)
        std = self.py_random.uniform(*self.std)
        return {
            "drawn_std": std,
            "noise": np.rint(std * 255 * NORMAL_LEVELS).astype(np.int16),
            "levels": words.view(np.uint8)[:size].reshape(shape),
        }

    def apply(self, img: Pixels, noise: NDArray[np.int16], levels: Pixels, **_: Any) -> Pixels:
        """Add noise to an image: uint8 (H, W, C), clipped to 0..255."""
        return np.asarray(cv2.add(img, cv2.LUT(levels, noise), dtype=cv2.CV_8U), dtype=np.uint8)


def _saturation(factor: float) -> NDArray[np.float64]:
    return factor * np.eye(3) + (1 - factor) * np.outer(np.ones(3), LUMA)


def _hue(share: float) -> NDArray[np.float64]:
    cosine, sine = math.cos(2 * math.pi * share), math.sin(2 * math.pi * share)
    # From red towards green, as a growing hue of HSV goes.
    turn = np.array([[1, 0, 0], [0, cosine, sine], [0, -sine, cosine]], dtype=np.float64)
    return YIQ_TO_RGB @ turn @ RGB_TO_YIQ


def _mean_grey(image: Pixels, mask: Pixels | None) -> float:
    """Mean grey, 0 to 255, over the labelled pixels, or over all where none is labelled.

    Of a large image only every eighth row is counted.
    """
    step = ROW_STEP if image.shape[0] >= 16 * ROW_STEP else 1
    labelled = None if mask is None else (mask[::step] != VOID).view(np.uint8)
    if labelled is not None and not labelled.any():
        labelled = None
    rgb = false_colour(image[::step])
    return float(LUMA @ np.array(cv2.mean(rgb, mask=labelled)[:3]))


def recoloured(image: Colours, change: Callable[[Any], Any]) -> Colours:
    """An image (..., C), array or tensor, whose colours `change` changed.

    The colours are the first three channels; the first of two is a grey. The others stay.
    """
    channels = image.shape[-1]
    changed: Colours = change(false_colour(image))
    if channels == RGB:
        return changed
    coloured = RGB if channels > RGB else 1
    whole: Any = image.copy() if isinstance(image, np.ndarray) else image.clone()
    whole[..., :coloured] = changed[..., :coloured]
    result: Colours = whole
    return result
