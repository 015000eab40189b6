"""Class activation maps, from a network whose gradient is known to every one of the zoo."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn import functional

from segops.predict.bundle import load_bundle
from segops.predict.explain import LONGEST_SIDE, explain, require_class
from segops.report.overlay import heat_overlay
from segops.runtime.errors import SegopsError
from segops.runtime.networks.zoo import ARCHITECTURES, build
from segops.runtime.torch_predictor import TorchPredictor
from tests.support.bundles import write_bundle
from tests.support.networks import CLASSES, random_images, small, wake

pytestmark = pytest.mark.usefixtures("one_thread")

NAMES = tuple(f"class {index}" for index in range(CLASSES))


class Known(nn.Module):
    """The encoder gives the colours, averaged over blocks; each logit is a weighted colour.

    Args:
        weights: (C, 3), of the colours in each class's logit.
        stride: Side of a block, in pixels.
    """

    def __init__(self, weights: list[list[float]], stride: int = 4) -> None:
        super().__init__()
        self.stride = stride
        self.encoder = nn.AvgPool2d(stride)
        self.score = nn.Conv2d(3, len(weights), 1, bias=False)
        self.score.weight.data = torch.tensor(weights)[..., None, None]

    def forward(self, images: Tensor) -> Tensor:
        logits: Tensor = self.score(self.encoder(images.float()))
        return functional.interpolate(logits, size=images.shape[-2:], mode="nearest")


def two_colours(height: int = 16, width: int = 24) -> NDArray[np.uint8]:
    """Blue on the left, red on the right third, uint8 (height, width, 3)."""
    image = np.zeros((height, width, 3), dtype=np.uint8)
    image[:, : width // 3 * 2] = (10, 20, 200)
    image[:, width // 3 * 2 :] = (220, 30, 10)
    return image


def zoo_image(height: int = 48, width: int = 72) -> NDArray[np.uint8]:
    image = random_images(1, height, width)[0].permute(1, 2, 0).numpy()
    return np.ascontiguousarray(image)


def by_hand(
    network: Known, image: NDArray[np.uint8], class_id: int, region: NDArray[np.bool_]
) -> NDArray[np.float64]:
    """Seg-Grad-CAM of :class:`Known` from the formula, at the features' resolution."""
    stride = network.stride
    height, width = (side // stride for side in region.shape)
    blocks = image.astype(np.float64).reshape(height, stride, width, stride, 3)
    features = blocks.mean((1, 3))
    # A logit is used once by every pixel of its block that lies in the region.
    uses = region.reshape(height, stride, width, stride).sum((1, 3))
    weights = network.score.weight.detach().double().numpy()[class_id, :, 0, 0]
    alpha = uses.mean() * weights
    found: NDArray[np.float64] = np.maximum((alpha * features).sum(-1), 0)
    return found


@pytest.mark.parametrize("class_id", [0, 1])
def test_a_network_whose_gradient_is_known(class_id: int) -> None:
    network = Known([[1.0, -0.3, -0.5], [-0.4, 0.2, 0.8]], stride=4)
    image = np.random.default_rng(3).integers(0, 256, (16, 24, 3), dtype=np.uint8)
    region = np.zeros((16, 24), dtype=bool)
    region[3:9, 5:20] = True
    found = explain(TorchPredictor(network, ("a", "b")), image, class_id, region)
    expected = by_hand(network, image, class_id, region)
    large = functional.interpolate(
        torch.from_numpy(expected)[None, None], size=(16, 24), mode="bilinear"
    )[0, 0]
    assert np.allclose(found, large / large.max(), atol=1e-5)
    assert found.max() == 1


def test_a_network_that_looks_at_colour_is_explained_by_colour() -> None:
    """Red speaks for class 1, which the right third is; blue for class 0."""
    predictor = TorchPredictor(
        Known([[0.0, 0, 1], [1, 0, 0], [-1, -1, -1]]), ("blue", "red", "none")
    )
    image = two_colours()
    red, blue = explain(predictor, image, 1), explain(predictor, image, 0)
    assert red.shape == (16, 24)
    assert red.dtype == np.float32
    assert red[:, 18:].min() > 0.9
    assert red[:, :14].max() < 0.1
    assert blue[:, :14].min() > 0.9
    assert blue[:, 18:].max() < 0.1
    assert not explain(predictor, image, 2).any()  # nothing speaks for it


def test_without_a_region_the_pixels_of_the_class_are_explained() -> None:
    network = Known([[0.1, -0.3, 0.9], [0.9, 0.7, -0.2]])
    predictor, image = TorchPredictor(network, ("a", "b")), two_colours()
    seen = predictor.predict_mask(image) == 1
    assert 0 < seen.sum() < seen.size
    own = explain(predictor, image, 1)
    assert np.array_equal(own, explain(predictor, image, 1, seen))
    never = TorchPredictor(Known([[1.0, 1, 1], [0.5, 0.1, 0.2]]), ("a", "b"))
    everywhere = np.ones(image.shape[:2], dtype=bool)
    assert np.array_equal(explain(never, image, 1), explain(never, image, 1, everywhere))


@pytest.mark.parametrize("architecture", sorted(ARCHITECTURES))
def test_every_architecture_of_the_zoo(architecture: str) -> None:
    torch.manual_seed(3)
    network = build(small(architecture))
    wake(network)
    image = zoo_image(41, 70)  # padded below and on the right
    predictor = TorchPredictor(network, NAMES)
    maps = [explain(predictor, image, class_id) for class_id in range(3)]
    for one in maps:
        assert one.shape == (41, 70)
        assert np.isfinite(one).all()
        assert one.min() >= 0
        assert one.max() in (0, 1)
    # Among three classes of random weights some are spoken for, not by all places alike.
    active = [one for one in maps if one.any()]
    assert active
    assert any(one.std() > 0.01 for one in active)


@pytest.mark.parametrize("architecture", ["unet", "dpt", "plain_cnn"])
def test_the_network_is_left_as_it_was(architecture: str) -> None:
    torch.manual_seed(3)
    network = build(small(architecture)).train()
    network.network.requires_grad_(False)
    parameters = list(network.parameters())
    parameters[-1].requires_grad = True
    next(network.children()).eval()
    state = {name: one.clone() for name, one in network.state_dict().items()}
    modes = [module.training for module in network.modules()]
    hooks = [len(module._forward_hooks) for module in network.modules()]
    image = zoo_image()
    with torch.inference_mode():
        first = explain(TorchPredictor(network, NAMES), image, 1)
    assert np.array_equal(first, explain(TorchPredictor(network, NAMES), image, 1))
    assert modes == [module.training for module in network.modules()]
    assert hooks == [len(module._forward_hooks) for module in network.modules()]
    assert [one.requires_grad for one in parameters] == [False] * (len(parameters) - 1) + [True]
    assert all(one.grad is None for one in parameters)
    assert not any(one.is_inference() for one in network.state_dict().values())
    after = network.state_dict()
    assert all(torch.equal(one, after[name]) for name, one in state.items())


def test_a_bundle_is_explained_by_its_own_network(tmp_path: Path) -> None:
    """Its classes are copies of ours: no `isinstance` holds."""
    torch.manual_seed(3)
    spec = small("unet")
    network = build(spec).eval()
    write_bundle(tmp_path / "bundle", network, spec, NAMES, {}, {})
    bundled, image = load_bundle(tmp_path / "bundle"), zoo_image()
    assert type(bundled.network) is not type(network)
    expected = explain(TorchPredictor(network, NAMES), image, 1)
    assert np.allclose(explain(bundled, image, 1), expected, atol=1e-5)


def test_a_bundle_of_old_that_hands_out_no_network(tmp_path: Path) -> None:
    spec = small("plain_cnn")
    write_bundle(tmp_path / "bundle", build(spec), spec, NAMES, {}, {})
    bundled = load_bundle(tmp_path / "bundle")
    del bundled._inner.network
    with pytest.raises(SegopsError, match=r"has no network.* new bundle"):
        explain(bundled, zoo_image(), 1, np.ones((48, 72), dtype=bool))


def test_a_large_image_is_shrunk_and_its_region_too() -> None:
    sizes: list[tuple[int, ...]] = []

    class Watched(Known):
        def forward(self, images: Tensor) -> Tensor:
            sizes.append(tuple(images.shape[-2:]))
            return super().forward(images)

    network = Watched([[0.0, 0, 1], [1, 0, 0]], stride=8)
    image = np.zeros((40, 3 * LONGEST_SIDE, 3), dtype=np.uint8)
    image[:, LONGEST_SIDE:] = (250, 0, 0)
    region = np.zeros(image.shape[:2], dtype=bool)
    region[20, 2000] = True  # less than a pixel of the shrunk image
    found = explain(TorchPredictor(network, ("blue", "red")), image, 1, region)
    assert sizes == [(13, LONGEST_SIDE)]
    assert found.shape == image.shape[:2]
    assert found[:, LONGEST_SIDE + 40 :].min() > 0.95
    assert found[:, : LONGEST_SIDE - 40].max() == 0


@pytest.mark.parametrize("shape", [(1, 1), (1, 33), (37, 2)])
def test_small_images(shape: tuple[int, int]) -> None:
    torch.manual_seed(3)
    predictor = TorchPredictor(build(small("unet")), NAMES)
    found = explain(predictor, zoo_image(*shape), 1)
    assert found.shape == shape
    assert np.isfinite(found).all()


def test_a_broken_network_is_told_of() -> None:
    network = Known([[float("nan"), 0, 0]])
    with pytest.raises(SegopsError, match="not finite"):
        explain(TorchPredictor(network, ("a",)), two_colours(), 0, np.ones((16, 24), dtype=bool))


def test_a_heat_map_leaves_the_photograph_where_nothing_is() -> None:
    image = two_colours()
    activation = np.zeros((16, 24), dtype=np.float32)
    assert np.array_equal(heat_overlay(image, activation), image)
    activation[:] = np.linspace(0, 1, 24)
    shown = heat_overlay(np.full_like(image, 60), activation)
    assert shown.dtype == np.uint8
    assert shown.shape == image.shape
    light = shown[0] @ np.array([0.2126, 0.7152, 0.0722])
    assert light[-1] > 160
    assert (np.diff(light[8:]) > 0).all()  # the stronger, the lighter
    assert np.array_equal(heat_overlay(image, activation, alpha=0), image)
    with pytest.raises(ValueError, match="differ in size"):
        heat_overlay(image, activation[1:])


def test_an_export_is_refused_before_anything_is_predicted() -> None:
    require_class("auto", {"class_names": ["sky"]})
    require_class(None, {"class_names": ["sky"], "format": "onnx"})
    with pytest.raises(SegopsError, match="the model is an export for onnx"):
        require_class("auto", {"class_names": ["sky"], "format": "onnx"})
