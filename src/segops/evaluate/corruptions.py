"""The fifteen corruptions of ImageNet-C, each in five strengths.

Source: Hendrycks and Dietterich, "Benchmarking Neural Network Robustness to Common Corruptions and
Perturbations", ICLR 2019, section 3, with the parameters of its code for ImageNet. Sizes in pixels
are not scaled with the image, as usual where photographs of other sizes are corrupted (Michaelis et
al., "Benchmarking Robustness in Object Detection", 2019).

What differs: fog and frost are made of octaves of noise, in place of a plasma fractal and of
photographs of frost; `elastic` moves the mask with the image and leaves out the affine part. An
image is an RGB array, float32 (H, W, 3) in 0..1, inside this module.
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray

from segops.data.store import PackedStore
from segops.runtime.images import decode_image

Image = Any
"""Float32 (H, W, 3) or (H, W); the types that OpenCV states are wider."""
Random = np.random.Generator

STRENGTHS = (1, 3, 5)
"""The strengths that are scored, of 1 to 5."""


def _gaussian_noise(image: Image, level: int, random: Random) -> Image:
    scale = (0.08, 0.12, 0.18, 0.26, 0.38)[level]
    return image + scale * random.standard_normal(image.shape, np.float32)


def _shot_noise(image: Image, level: int, random: Random) -> Image:
    photons = (60, 25, 12, 5, 3)[level]
    noisy = np.empty_like(image)
    for rows in _strips(len(image)):  # what is drawn takes 16 bytes a value
        noisy[rows] = random.poisson(image[rows] * photons) / photons
    return noisy


def _impulse_noise(image: Image, level: int, random: Random) -> Image:
    share = (0.03, 0.06, 0.09, 0.17, 0.27)[level]
    drawn = random.random(image.shape, np.float32)
    return np.where(drawn < share, (drawn < share / 2).astype(np.float32), image)


def _defocus_blur(image: Image, level: int, random: Random) -> Image:
    radius, softness = ((3, 0.1), (4, 0.5), (6, 0.5), (8, 0.5), (10, 0.5))[level]
    reach = np.arange(-max(8, radius), max(8, radius) + 1)
    disc = (np.add.outer(reach**2, reach**2) <= radius**2).astype(np.float32)
    disc = cv2.GaussianBlur(disc / disc.sum(), (3, 3) if radius <= 8 else (5, 5), softness)
    return cv2.filter2D(image, -1, disc)


def _glass_blur(image: Image, level: int, random: Random) -> Image:
    sigma, reach, times = ((0.7, 1, 2), (0.9, 2, 1), (1.0, 2, 3), (1.1, 3, 2), (1.5, 4, 2))[level]
    image = cv2.GaussianBlur(image, (0, 0), sigma)
    height, width = image.shape[:2]
    columns = np.arange(width)
    for _ in range(times):
        # All pixels at once; the original swaps them one after the other.
        down, right = random.integers(-reach, reach, (2, height, width), np.int8)
        moved = np.empty_like(image)
        for rows in _strips(height):  # places take 16 bytes a pixel
            above = np.arange(rows.start, rows.stop)[:, None] + down[rows]
            beside = columns + right[rows]
            moved[rows] = image[above.clip(0, height - 1), beside.clip(0, width - 1)]
        image = moved
    return cv2.GaussianBlur(image, (0, 0), sigma)


def _motion_blur(image: Image, level: int, random: Random) -> Image:
    radius, sigma = ((10, 3), (15, 5), (15, 8), (15, 12), (20, 15))[level]
    return _moved(image, radius, sigma, random.uniform(-45, 45))


def _zoom_blur(image: Image, level: int, random: Random) -> Image:
    most, step = ((1.11, 0.01), (1.16, 0.01), (1.21, 0.02), (1.26, 0.02), (1.31, 0.03))[level]
    factors = np.arange(1, most, step)
    total = image + sum(_zoomed(image, float(factor)) for factor in factors)
    return np.asarray(total / (len(factors) + 1), np.float32)


def _snow(image: Image, level: int, random: Random) -> Image:
    mean, spread, zoom, least, radius, sigma, kept = (
        (0.1, 0.3, 3.0, 0.5, 10, 4, 0.8),
        (0.2, 0.3, 2.0, 0.5, 12, 4, 0.7),
        (0.55, 0.3, 4.0, 0.9, 12, 8, 0.7),
        (0.55, 0.3, 4.5, 0.85, 12, 8, 0.65),
        (0.55, 0.3, 2.5, 0.85, 12, 12, 0.55),
    )[level]
    flakes = random.normal(mean, spread, image.shape[:2]).astype(np.float32)
    flakes = _zoomed(flakes, zoom)
    flakes[flakes < least] = 0
    flakes = _moved(flakes.clip(0, 1), radius, sigma, random.uniform(-135, -45))[..., None]
    grey = cv2.cvtColor(image, cv2.COLOR_RGB2GRAY)[..., None] * 1.5 + 0.5
    return kept * image + (1 - kept) * np.maximum(image, grey) + flakes + flakes[::-1, ::-1]


def _frost(image: Image, level: int, random: Random) -> Image:
    kept, amount = ((1.0, 0.4), (0.8, 0.6), (0.7, 0.7), (0.65, 0.7), (0.6, 0.75))[level]
    # Ridges of noise look like crystals; bluish white, and thicker towards one side.
    ridges = 1 - np.abs(2 * _octaves(image.shape[:2], 0.7, random) - 1)
    thick = _octaves(image.shape[:2], 0.3, random)
    crystals = (ridges**3 * 0.6 + thick * 0.5)[..., None]
    return kept * image + amount * crystals * np.array([0.85, 0.95, 1.0], np.float32)


def _fog(image: Image, level: int, random: Random) -> Image:
    amount, decay = ((1.5, 2.0), (2.0, 2.0), (2.5, 1.7), (2.5, 1.5), (3.0, 1.4))[level]
    brightest = float(image.max())
    fog = amount * _octaves(image.shape[:2], 1 / decay, random)[..., None]
    return (image + fog) * brightest / (brightest + amount)


def _brightness(image: Image, level: int, random: Random) -> Image:
    hsv = cv2.cvtColor(image, cv2.COLOR_RGB2HSV)
    hsv[..., 2] = (hsv[..., 2] + (0.1, 0.2, 0.3, 0.4, 0.5)[level]).clip(0, 1)
    return cv2.cvtColor(hsv, cv2.COLOR_HSV2RGB)


def _contrast(image: Image, level: int, random: Random) -> Image:
    means = image.mean(axis=(0, 1), keepdims=True)
    return (image - means) * (0.4, 0.3, 0.2, 0.1, 0.05)[level] + means


def _elastic(image: Image, level: int, random: Random) -> Image:
    return cv2.remap(image, *_field(image.shape, level, random), cv2.INTER_LINEAR, None, _MIRRORED)


def _pixelate(image: Image, level: int, random: Random) -> Image:
    height, width = image.shape[:2]
    share = (0.6, 0.5, 0.4, 0.3, 0.25)[level]
    size = max(1, int(width * share)), max(1, int(height * share))
    small = cv2.resize(image, size, interpolation=cv2.INTER_AREA)
    return cv2.resize(small, (width, height), interpolation=cv2.INTER_NEAREST)


def _jpeg(image: Image, level: int, random: Random) -> Image:
    quality = (25, 18, 15, 10, 7)[level]
    pixels = np.rint(255 * image[..., ::-1]).astype(np.uint8)
    _, content = cv2.imencode(".jpg", pixels, [cv2.IMWRITE_JPEG_QUALITY, quality])
    return decode_image(content.tobytes(), "corrupted").astype(np.float32) / 255


_MIRRORED = cv2.BORDER_REFLECT_101
STRIP = 64
"""Rows of an image that are worked on at a time, where this takes much memory."""


def _strips(height: int) -> list[slice]:
    return [slice(top, min(top + STRIP, height)) for top in range(0, height, STRIP)]


def _moved(image: Image, radius: int, sigma: float, degrees: float) -> Image:
    """Blurred along a line to one side, with weights of a Gaussian."""
    distance = np.arange(radius + 1)
    weights = np.exp(-(distance**2) / (2 * sigma**2))
    kernel = np.zeros((2 * radius + 1, 2 * radius + 1), np.float32)
    angle = math.radians(degrees)
    rows = radius + np.rint(distance * math.sin(angle)).astype(int)
    columns = radius + np.rint(distance * math.cos(angle)).astype(int)
    np.add.at(kernel, (rows, columns), weights)
    return cv2.filter2D(image, -1, kernel / kernel.sum(), borderType=_MIRRORED)


def _zoomed(image: Image, factor: float) -> Image:
    """The middle of the image, enlarged to its size."""
    height, width = image.shape[:2]
    across, down = (max(1, math.ceil(side / factor)) for side in (width, height))
    left, top = (width - across) // 2, (height - down) // 2
    part = image[top : top + down, left : left + across]
    return cv2.resize(part, (width, height), interpolation=cv2.INTER_LINEAR)


def _octaves(shape: tuple[int, ...], falloff: float, random: Random) -> Image:
    """Clouds in 0..1, float32 (H, W): noise of ever finer grids, each weaker by `falloff`."""
    height, width = shape
    total = np.zeros((height, width), np.float32)
    cells, weight = 2, 1.0
    while cells < 2 * max(height, width):
        grid = random.random((min(cells, height), min(cells, width)), np.float32)
        total += weight * cv2.resize(grid, (width, height), interpolation=cv2.INTER_CUBIC)
        cells, weight = 2 * cells, weight * falloff
    low, high = float(total.min()), float(total.max())
    return (total - low) / max(high - low, 1e-6)


def _field(shape: tuple[int, ...], level: int, random: Random) -> tuple[Image, Image]:
    """Where each pixel comes from: columns and rows, each float32 (H, W)."""
    height, width = shape[:2]
    amount, sigma = ((488.0, 170.8), (488.0, 19.52), (12.2, 2.44), (17.08, 2.44), (29.28, 2.44))[
        level
    ]
    noise = random.uniform(-1, 1, (2, height, width)).astype(np.float32)
    right, down = (
        amount * cv2.GaussianBlur(one, (0, 0), sigma, borderType=cv2.BORDER_REFLECT)
        for one in noise
    )
    rows, columns = np.indices((height, width)).astype(np.float32)
    return columns + right, rows + down


CORRUPTIONS: dict[str, Callable[[Image, int, Random], Image]] = {
    "gaussian noise": _gaussian_noise,
    "shot noise": _shot_noise,
    "impulse noise": _impulse_noise,
    "defocus blur": _defocus_blur,
    "glass blur": _glass_blur,
    "motion blur": _motion_blur,
    "zoom blur": _zoom_blur,
    "snow": _snow,
    "frost": _frost,
    "fog": _fog,
    "brightness": _brightness,
    "contrast": _contrast,
    "elastic": _elastic,
    "pixelate": _pixelate,
    "jpeg": _jpeg,
}


def corrupt(image: NDArray[np.uint8], name: str, strength: int, image_id: str) -> NDArray[np.uint8]:
    """Corrupt a photograph, uint8 (H, W, 3), RGB; the same arguments give the same pixels.

    `name` is a key of :data:`CORRUPTIONS`, `strength` 1 to 5.
    """
    changed = CORRUPTIONS[name](
        image.astype(np.float32) / 255, strength - 1, _random(name, strength, image_id)
    )
    np.clip(changed, 0, 1, out=changed)
    changed *= 255
    pixels: NDArray[np.uint8] = np.rint(changed, out=changed).astype(np.uint8)
    return pixels


def corrupt_mask(
    mask: NDArray[np.uint8], name: str, strength: int, image_id: str
) -> NDArray[np.uint8]:
    """The mask of the corrupted photograph, uint8 (H, W): where pixels move, labels move along."""
    if name != "elastic":
        return mask
    field = _field(mask.shape, strength - 1, _random(name, strength, image_id))
    moved: Any = cv2.remap(mask, *field, cv2.INTER_NEAREST, None, _MIRRORED)
    return np.asarray(moved, np.uint8)


def _random(name: str, strength: int, image_id: str) -> Random:
    digest = hashlib.sha256(f"{name}\n{strength}\n{image_id}".encode()).digest()
    return np.random.default_rng(int.from_bytes(digest[:8], "big"))


class CorruptedStore(PackedStore):
    """A packed store of RGB images whose images are corrupted when they are read."""

    def __init__(self, path: Path, name: str, strength: int) -> None:
        super().__init__(path)
        self._how = name, strength

    def __reduce__(self) -> tuple[Any, ...]:
        return CorruptedStore, (self.path, *self._how)

    def image(self, image_id: str) -> NDArray[np.uint8]:
        """The image, corrupted."""
        return corrupt(super().image(image_id), *self._how, image_id)

    def mask(self, image_id: str) -> NDArray[np.uint8]:
        """Its mask."""
        return corrupt_mask(super().mask(image_id), *self._how, image_id)

    def private(self, image_id: str) -> tuple[NDArray[np.uint8], NDArray[np.uint8]]:
        """Both, writable; only the caller sees what is written."""
        return self.image(image_id), self.mask(image_id).copy()
