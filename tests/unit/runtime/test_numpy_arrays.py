"""The rule of prediction without torch: the same as with it, but for the last bits."""

from __future__ import annotations

import subprocess
import sys
from io import BytesIO
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor, nn

from segops.children import child_environment
from segops.runtime.arrays import NumpyArrays
from segops.runtime.errors import SegopsError
from segops.runtime.inference import Inference
from segops.runtime.predict_settings import PredictSettings
from segops.runtime.predictor import Predictor
from segops.runtime.torch_arrays import TorchArrays
from segops.runtime.torch_predictor import TorchPredictor

NAMES = ("background", "cat", "dog")
NUMPY, TORCH = NumpyArrays(), TorchArrays("cpu")
WAYS: list[dict[str, Any]] = [
    {},
    {"flip": True},
    {"scales": [0.6, 1, 1.7], "flip": True},
    {"mode": "window", "window": [20, 16], "overlap": 0.4},
    {"mode": "window", "window": [16, 40], "flip": True, "scales": [1.3]},
]


def across(pixels: Any) -> Any:
    """Logits (1, 3, h, w) of a network that looks two pixels to the right and one down."""
    found = pixels / 64
    found[..., :-2] -= pixels[..., 2:] / 90
    found[:, 0, :-1] += pixels[:, 2, 1:] / 100
    return found


def in_numpy(pixels: NDArray[Any]) -> NDArray[np.float32]:
    return np.asarray(across(pixels.astype(np.float32)))


class InTorch(nn.Module):
    def forward(self, images: Tensor) -> Tensor:
        logits: Tensor = across(images.float())
        return logits


def picture(height: int, width: int) -> NDArray[np.uint8]:
    return np.random.default_rng(height + width).integers(0, 256, (height, width, 3), np.uint8)


def numpy_predictor(network: Any = in_numpy, **chosen: Any) -> Predictor:
    inference = Inference(PredictSettings.of_bundle(chosen))
    return Predictor(network, NUMPY, NAMES, inference)


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("size", [(37, 53), (53, 20), (1, 1)])
def test_numpy_predicts_as_torch_does(way: dict[str, Any], size: tuple[int, int]) -> None:
    image = picture(*size)
    inference = Inference(PredictSettings.of_bundle(way))
    expected, found = TorchPredictor(InTorch(), NAMES, "cpu", inference), numpy_predictor(**way)
    wanted = expected.predict_probabilities(image)
    np.testing.assert_allclose(found.predict_probabilities(image), wanted, atol=2e-6)
    prediction = found.predict(image)
    sure = np.diff(np.sort(wanted, axis=0)[-2:], axis=0)[0] > 1e-5
    assert sure.mean() > 0.98
    np.testing.assert_array_equal(
        prediction.mask[sure], expected.predict(image).mask[sure], strict=True
    )
    assert prediction.confidence == pytest.approx(expected.predict(image).confidence, abs=1e-6)
    mask, top = found.predict_tensors(image)
    np.testing.assert_array_equal(mask, prediction.mask)
    np.testing.assert_allclose(top, wanted.max(axis=0), atol=2e-6)
    np.testing.assert_array_equal(found.predict_mask(image), prediction.mask)


sides = st.integers(1, 40)


@given(sides, sides, sides, sides)
@settings(max_examples=60, deadline=None)
def test_resizing_is_torchs(height: int, width: int, to_height: int, to_width: int) -> None:
    values = np.random.default_rng(0).normal(0, 1, (1, 2, height, width)).astype(np.float32)
    expected = TORCH.resize(torch.from_numpy(values), (to_height, to_width)).numpy()
    found = NUMPY.resize(values, (to_height, to_width))
    assert found.dtype == np.float32
    np.testing.assert_allclose(found, expected, atol=1e-4)
    assert not np.shares_memory(found, values)


def test_of_equal_logits_the_first_class_is_the_largest() -> None:
    logits = np.zeros((3, 2, 2), np.float32)
    logits[1:, 0] = 5
    for arrays in (NUMPY, TORCH):
        top, ids = arrays.largest(arrays.send(logits))
        assert arrays.fetch(ids).tolist() == [[1, 1], [0, 0]]
        assert arrays.fetch(top).tolist() == [[5, 5], [0, 0]]


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
@pytest.mark.parametrize("way", WAYS)
def test_what_is_not_finite_is_found_in_every_way(way: dict[str, Any], value: float) -> None:
    def broken(pixels: NDArray[Any]) -> NDArray[np.float32]:
        logits = in_numpy(pixels)
        logits[0, 1, -1, -1] = value
        return logits

    found = numpy_predictor(broken, **way)
    for call in (found.predict, found.predict_mask, found.predict_probabilities):
        with pytest.raises(SegopsError, match="not finite"):
            call(picture(37, 53))


WITHOUT_TORCH = """
import sys

class NoTorch:
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] in ("torch", "torchvision", "timm"):
            raise ImportError(f"{name} is blocked")

sys.meta_path.insert(0, NoTorch())
import numpy as np
from io import BytesIO
from PIL import Image
from segops.runtime.arrays import NumpyArrays
from segops.runtime.inference import Inference
from segops.runtime.predict_settings import PredictSettings
from segops.runtime.predictor import Predictor

image = np.random.default_rng(0).integers(0, 256, (40, 56, 3), np.uint8)
stream = BytesIO()
Image.fromarray(image).save(stream, "PNG")
way = {"mode": "window", "window": [24, 32], "flip": True, "scales": [0.75, 1.5]}
network = lambda pixels: np.float32(pixels) / 32
found = Predictor(
    network, NumpyArrays(), ("a", "b", "c"), Inference(PredictSettings.of_bundle(way))
)
mask, confidence = found.predict_bytes(stream.getvalue())
assert "torch" not in sys.modules
sys.stdout.buffer.write(mask)
"""


def test_the_whole_path_runs_where_torch_cannot_be_imported(tmp_path: Path) -> None:
    done = subprocess.run(
        [sys.executable, "-c", WITHOUT_TORCH],
        capture_output=True,
        cwd=tmp_path,
        env=child_environment(),
    )
    assert done.returncode == 0, done.stderr.decode()

    class Brightest(nn.Module):
        def forward(self, images: Tensor) -> Tensor:
            return images.float() / 32

    way = {"mode": "window", "window": [24, 32], "flip": True, "scales": [0.75, 1.5]}
    inference = Inference(PredictSettings.of_bundle(way))
    image = np.random.default_rng(0).integers(0, 256, (40, 56, 3), np.uint8)
    expected = TorchPredictor(Brightest(), ("a", "b", "c"), "cpu", inference).predict_mask(image)
    found = np.array(Image.open(BytesIO(done.stdout)))
    assert (found != expected).mean() < 1e-3
