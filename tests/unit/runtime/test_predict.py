"""The predictor: masks, confidence, image formats, and what it leaves as it was."""

from __future__ import annotations

import base64
from io import BytesIO

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor, nn

from segops.runtime.errors import SegopsError
from segops.runtime.masks import decode_mask
from segops.runtime.networks.zoo import ModelSpec, build
from segops.runtime.torch_predictor import TorchPredictor

NAMES = ("background", "cat", "dog")


class Brightest(nn.Module):
    """Says class c where colour channel c is the brightest, with that margin as logits."""

    def forward(self, images: Tensor) -> Tensor:
        return images.float() / 32


class Faulty(nn.Module):
    """Logits of the wrong shape or with a value that is no number."""

    def __init__(self, channels: int = 3, value: float = 0.0) -> None:
        super().__init__()
        self.channels, self.value = channels, value

    def forward(self, images: Tensor) -> Tensor:
        logits = torch.zeros(1, self.channels, *images.shape[2:])
        logits[0, 1, 0, 0] = self.value
        return logits


@pytest.fixture(scope="module")
def network() -> nn.Module:
    torch.manual_seed(0)
    return build(ModelSpec("plain_cnn", "", 3, {"width": 8}))


def picture(height: int, width: int, seed: int = 0) -> NDArray[np.uint8]:
    return np.random.default_rng(seed).integers(0, 256, (height, width, 3), dtype=np.uint8)


def encoded(image: Image.Image, kind: str = "PNG", **options: object) -> bytes:
    buffer = BytesIO()
    image.save(buffer, kind, **options)
    return buffer.getvalue()


@given(st.integers(1, 40), st.integers(1, 40), st.integers(0, 1000))
@settings(max_examples=30, deadline=None)
def test_mask_and_confidence_equal_their_definition(height: int, width: int, seed: int) -> None:
    image = picture(height, width, seed)
    found = TorchPredictor(Brightest(), NAMES).predict(image)
    logits = image.astype(np.float64) / 32
    probabilities = np.exp(logits) / np.exp(logits).sum(axis=2, keepdims=True)
    assert found.mask.dtype == np.uint8
    np.testing.assert_array_equal(found.mask, image.argmax(axis=2))
    assert found.confidence == pytest.approx(probabilities.max(axis=2).mean(), rel=1e-6)


@pytest.mark.parametrize("size", [(1, 1), (7, 33), (64, 80)])
def test_a_mask_has_the_images_own_size_and_no_void(
    network: nn.Module, size: tuple[int, int]
) -> None:
    predictor = TorchPredictor(network, NAMES)
    found = predictor.predict(picture(*size))
    assert found.mask.shape == size
    assert found.mask.max() < 3
    assert 1 / 3 <= found.confidence <= 1
    np.testing.assert_array_equal(predictor.predict_mask(picture(*size)), found.mask)


def test_predicting_leaves_modes_gradients_statistics_and_random_state(network: nn.Module) -> None:
    network.train()
    frozen = next(one for one in network.modules() if isinstance(one, nn.BatchNorm2d))
    frozen.eval()
    modes = [one.training for one in network.modules()]
    before = {name: value.clone() for name, value in network.state_dict().items()}
    random = torch.get_rng_state()
    TorchPredictor(network, NAMES).predict(picture(20, 30))
    assert [one.training for one in network.modules()] == modes
    assert torch.is_grad_enabled()
    assert torch.equal(torch.get_rng_state(), random)
    for name, value in network.state_dict().items():
        assert torch.equal(value, before[name]), name
    with pytest.raises(SegopsError):
        TorchPredictor(network, NAMES[:2]).predict(picture(20, 30))
    assert [one.training for one in network.modules()] == modes


def test_it_predicts_in_evaluation_mode_and_in_float32(network: nn.Module) -> None:
    image = picture(40, 50)
    expected = TorchPredictor(network.eval(), NAMES).predict(image)
    with torch.autocast("cpu", torch.bfloat16):
        found = TorchPredictor(network.train(), NAMES).predict(image)
    np.testing.assert_array_equal(found.mask, expected.mask)
    assert found.confidence == expected.confidence


@pytest.mark.filterwarnings("error")
def test_views_that_cannot_be_written_are_taken(network: nn.Module) -> None:
    image = picture(32, 40)
    expected = TorchPredictor(network, NAMES).predict(image).mask
    image.flags.writeable = False
    np.testing.assert_array_equal(TorchPredictor(network, NAMES).predict(image).mask, expected)
    turned = np.ascontiguousarray(image[:, ::-1])[:, ::-1]
    np.testing.assert_array_equal(TorchPredictor(network, NAMES).predict(turned).mask, expected)


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_an_output_that_is_not_finite_is_an_error(value: float) -> None:
    with pytest.raises(SegopsError, match="not finite"):
        TorchPredictor(Faulty(value=value), NAMES).predict(picture(4, 4))
    with pytest.raises(SegopsError, match="not finite"):
        TorchPredictor(Faulty(value=value), NAMES).predict_mask(picture(4, 4))


def test_a_network_with_other_classes_is_an_error() -> None:
    with pytest.raises(SegopsError, match=r"\(1, 5, 4, 6\); expected \(1, 3, 4, 6\)"):
        TorchPredictor(Faulty(channels=5), NAMES).predict(picture(4, 6))


@pytest.mark.parametrize(
    "image", [np.zeros((4, 4), np.uint8), np.zeros((4, 4, 3)), np.zeros((0, 4, 3), np.uint8)]
)
def test_other_arrays_are_refused(image: NDArray[np.uint8]) -> None:
    with pytest.raises(ValueError, match="expected uint8 of"):
        TorchPredictor(Brightest(), NAMES).predict(image)


def test_bytes_give_a_palette_mask_of_the_images_size() -> None:
    image = picture(12, 17)
    content, confidence = TorchPredictor(Brightest(), NAMES).predict_bytes(
        encoded(Image.fromarray(image))
    )
    assert Image.open(BytesIO(content)).mode == "P"
    np.testing.assert_array_equal(decode_mask(content, "mask"), image.argmax(axis=2))
    again = base64.b64encode(encoded(Image.fromarray(image))).decode()
    assert TorchPredictor(Brightest(), NAMES).predict_bytes(again) == (content, confidence)


def test_an_exif_orientation_turns_the_mask_too() -> None:
    image = Image.fromarray(picture(12, 17))
    exif = Image.Exif()
    exif[0x0112] = 6  # stored lying on its side: turn it clockwise to see it
    turned = TorchPredictor(Brightest(), NAMES).predict_bytes(encoded(image, exif=exif))[0]
    plain = TorchPredictor(Brightest(), NAMES).predict_bytes(encoded(image))[0]
    np.testing.assert_array_equal(
        decode_mask(turned, "mask"), np.rot90(decode_mask(plain, "mask"), k=-1)
    )


@pytest.mark.parametrize(
    ("mode", "kind"), [("L", "PNG"), ("RGBA", "PNG"), ("CMYK", "JPEG"), ("L", "JPEG"), ("P", "PNG")]
)
def test_images_of_other_modes_are_read_as_rgb(network: nn.Module, mode: str, kind: str) -> None:
    content = encoded(Image.fromarray(picture(12, 17)).convert(mode), kind)
    expected = np.array(Image.open(BytesIO(content)).convert("RGB"))
    predictor = TorchPredictor(network, NAMES)
    mask = decode_mask(predictor.predict_bytes(content)[0], "mask")
    np.testing.assert_array_equal(mask, predictor.predict(expected).mask)


def test_what_is_no_image_is_refused_by_name() -> None:
    predictor = TorchPredictor(Brightest(), NAMES)
    floating = Image.fromarray(np.zeros((4, 4), np.float32))
    for content, words in (
        (b"not an image", "image 7.*not an image"),
        (encoded(Image.fromarray(picture(40, 40)), "JPEG")[:-200], "image 7"),
        (encoded(floating, "TIFF"), "image 7.*mode F, floating point.*8 bits.*Convert it to RGB"),
        ("%%%", "image 7.*base64"),
        (b"", "image 7"),
    ):
        with pytest.raises(SegopsError, match=words):
            predictor.predict_bytes(content, "image 7")


@pytest.mark.parametrize("names", [(), tuple(str(one) for one in range(256))])
def test_the_number_of_classes_is_bounded(names: tuple[str, ...]) -> None:
    with pytest.raises(SegopsError, match="expected 1 to 255"):
        TorchPredictor(Brightest(), names)
