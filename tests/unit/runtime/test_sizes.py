"""Any size of image: odd, tiny, elongated, and far too large to be held as probabilities."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from torch import nn

from segops.runtime.inference import Inference
from segops.runtime.networks.zoo import ModelSpec, build
from segops.runtime.predict_settings import PredictSettings
from segops.runtime.torch_predictor import TorchPredictor
from tests.support import large_image

NAMES = ("background", "cat", "dog")

needs_proc = pytest.mark.skipif(
    not Path("/proc/self/clear_refs").exists(), reason="peak memory is read from /proc"
)


def picture(height: int, width: int, seed: int = 0) -> NDArray[np.uint8]:
    return np.random.default_rng(seed).integers(0, 256, (height, width, 3), dtype=np.uint8)


@pytest.fixture(scope="module")
def networks() -> dict[str, nn.Module]:
    torch.manual_seed(0)
    return {
        "plain_cnn": build(ModelSpec("plain_cnn", "", 3, {"width": 4})).eval(),
        "unet": build(
            ModelSpec("unet", "resnet18", 3, {"decoder_channels": (16, 16, 8, 8, 8)})
        ).eval(),
    }


@pytest.mark.parametrize("name", ["plain_cnn", "unet"])
@pytest.mark.parametrize("size", [(1, 1), (33, 47), (1, 300), (65, 31)])
def test_sides_that_no_stride_divides(
    networks: dict[str, nn.Module], name: str, size: tuple[int, int]
) -> None:
    image = picture(*size)
    logits = networks[name](torch.from_numpy(image).permute(2, 0, 1)[None])
    assert logits.shape == (1, 3, *size)  # padded to the stride, and back
    for settings in (
        {},
        {"flip": True, "scales": [0.5, 1.3]},
        {"mode": "window", "window": (32, 40)},
    ):
        inference = Inference(PredictSettings.of_bundle(settings))
        found = TorchPredictor(networks[name], NAMES, inference=inference).predict(image)
        assert found.mask.shape == size
        assert found.mask.max() < 3
        assert 1 / 3 <= found.confidence <= 1
        if not settings:
            np.testing.assert_array_equal(found.mask, logits[0].argmax(dim=0).numpy())


def test_what_lies_below_and_right_of_the_image_is_not_in_the_mask(
    networks: dict[str, nn.Module],
) -> None:
    # Padding keeps the pixel grid: an image of a stride's multiple is predicted without it.
    image = picture(64, 96)
    small = TorchPredictor(networks["plain_cnn"], NAMES).predict_probabilities(image[:61, :95])
    large = TorchPredictor(networks["plain_cnn"], NAMES).predict_probabilities(image)
    np.testing.assert_allclose(small[:, :24, :48], large[:, :24, :48], atol=1e-5)


@pytest.mark.parametrize("size", [(1, 5000), (5000, 1), (2, 3000)])
def test_very_elongated_images(networks: dict[str, nn.Module], size: tuple[int, int]) -> None:
    image = picture(*size)
    window = PredictSettings(mode="window", window=(256, 256), overlap=0.75, flip=True)
    for inference in (None, Inference(window)):
        found = TorchPredictor(networks["plain_cnn"], NAMES, inference=inference).predict(image)
        assert found.mask.shape == size
        assert found.mask.max() < 3


@needs_proc
@pytest.mark.parametrize("size", [(3_000, 400), (400, 3_000)])
def test_windows_take_memory_for_one_strip_whatever_the_length(size: tuple[int, int]) -> None:
    """In a process of its own: this one holds freed memory that would hide what is taken."""
    done = subprocess.run(
        [sys.executable, "-m", large_image.__name__, *map(str, size)],
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    growth, held = map(int, done.stdout.split())
    pixels = size[0] * size[1]
    assert held > 21 * pixels * 4 - (8 << 20)  # so much for the measure
    strip = 21 * 100 * 400 * 4
    # The mask, a strip, and what is needed for a window; 101 MB if all classes were held.
    assert growth < pixels + 3 * strip + (8 << 20)


@needs_proc
@pytest.mark.slow
@pytest.mark.long
def test_an_image_of_108_million_pixels_from_file_to_mask_without_a_warning() -> None:
    done = subprocess.run(
        [sys.executable, "-W", "error", "-m", large_image.__name__],
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    # Pillow takes 4 bytes a pixel, the array 3, the mask 1 and as much while it becomes a PNG,
    # beside a strip of 108 MB. All classes at once would be 12 more.
    assert int(done.stdout) < 11 * large_image.HEIGHT * large_image.WIDTH
