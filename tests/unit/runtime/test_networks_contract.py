"""What every architecture must do; each runs through all of it."""

from __future__ import annotations

import json
import warnings
from dataclasses import asdict
from pathlib import Path

import numpy as np
import onnxruntime
import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from segops.runtime.classes import VOID
from segops.runtime.networks.options import MASKS, OF_PATCHES, WITHOUT_ENCODER
from segops.runtime.networks.segmenter import Segmenter
from segops.runtime.networks.zoo import ARCHITECTURES, ModelSpec, build
from tests.support.networks import CLASSES, random_images, small, wake
from tests.unit.models.test_losses import loss_named

pytestmark = pytest.mark.usefixtures("one_thread")

NEW_EXPORTER = ("pspnet", "dilated_pspnet", "upernet", *OF_PATCHES, *WITHOUT_ENCODER)
"""Exported to ONNX from the exported program, which works for all and takes seconds. The older
exporter takes half a second, but can neither pool to a grid that does not divide the features nor
export transformers."""

# One of each family; the others take several seconds each.
QUICKLY_EXPORTED = (
    "deeplabv3plus",
    "dilated_fcn",
    "fcn8s",
    "plain_cnn",
    "pspnet",
    "segformer",
    "unet",
)
every_architecture = pytest.mark.parametrize("architecture", sorted(ARCHITECTURES))


def seeded(architecture: str, auxiliary: bool = False) -> Segmenter:
    torch.manual_seed(3)
    without = architecture in (*WITHOUT_ENCODER, MASKS)
    return build(small(architecture), auxiliary=auxiliary and not without)


def speaking(architecture: str) -> Segmenter:
    """A network as it is shipped: no auxiliary head, evaluation mode."""
    network = seeded(architecture, auxiliary=True)
    wake(network)
    network.auxiliary = None
    return network.eval()


def all_logits(network: Segmenter, images: Tensor) -> tuple[Tensor, ...]:
    if network.auxiliary is None:
        return (network(images),)
    both: tuple[Tensor, Tensor] = network(images, with_auxiliary=True)
    return both


@every_architecture
def test_any_size_gives_logits_of_that_size(architecture: str) -> None:
    network = seeded(architecture, auxiliary=True).eval()
    with torch.no_grad():
        for height, width in [(1, 1), (37, 53)]:
            images = random_images(1, height, width)
            both = all_logits(network, images)
            for logits in both:
                assert logits.shape == (1, CLASSES, height, width)
                assert logits.dtype == torch.float32
            assert torch.equal(both[0], network(images))
        assert torch.equal(both[0], network(images.float()))


@every_architecture
def test_a_training_step_with_void_pixels(architecture: str) -> None:
    network = seeded(architecture, auxiliary=True)
    images = random_images(2, 48, 40)
    masks = (images[:, 0] // 60).clamp(max=CLASSES - 1)
    masks[:, :9] = VOID
    loss_of = loss_named("cross_entropy")
    optimizer = torch.optim.SGD(network.parameters(), lr=1e-3)

    def loss(target: Tensor) -> Tensor:
        torch.manual_seed(0)  # the same dropout each time
        both = all_logits(network, images)
        weighted = [w * loss_of(one, target) for w, one in zip((1, 0.4), both, strict=False)]
        return torch.stack(weighted).sum()

    loss(torch.full_like(masks, VOID)).backward()
    gradients = [p.grad for p in network.parameters() if p.grad is not None]
    assert all(not gradient.any() for gradient in gradients)  # void alone teaches nothing
    optimizer.zero_grad()
    first = loss(masks)
    first.backward()
    gradients = [p.grad for p in network.parameters() if p.grad is not None]
    assert all(torch.isfinite(gradient).all() for gradient in gradients)
    assert sum(bool(gradient.any()) for gradient in gradients) > len(gradients) / 4
    optimizer.step()
    assert loss(masks) < first


@every_architecture
def test_a_last_batch_of_one_image_trains(architecture: str) -> None:
    """The last batch of an epoch may hold one image, which pooled batch norm refuses."""
    network = seeded(architecture, auxiliary=True)
    before = {name: buffer.clone() for name, buffer in network.named_buffers()}
    sum(one.square().mean() for one in all_logits(network, random_images(1, 40, 32))).backward()  # type: ignore[union-attr]
    assert all(module.training for module in network.modules())
    gradients = [p.grad for p in network.parameters() if p.grad is not None]
    assert gradients
    assert all(torch.isfinite(gradient).all() for gradient in gradients)
    assert all(torch.isfinite(buffer).all() for buffer in network.buffers())
    # The layers that see more than one value do learn their statistics.
    changed = [
        not torch.equal(buffer, before[name])
        for name, buffer in network.named_buffers()
        if name.endswith("running_mean")
    ]
    assert any(changed) or architecture == MASKS  # which has no batch norm


@every_architecture
def test_the_seed_alone_decides_the_start(architecture: str) -> None:
    first = seeded(architecture).state_dict()
    second = seeded(architecture, auxiliary=True).state_dict()
    own = [name for name in second if not name.startswith("auxiliary.")]
    assert own == list(first)
    assert all(torch.equal(first[name], second[name]) for name in first)
    torch.manual_seed(4)
    other = build(small(architecture)).state_dict()
    assert any(not torch.equal(first[name], other[name]) for name in first)


@every_architecture
def test_saved_weights_and_specification_give_the_same_network(
    architecture: str, tmp_path: Path
) -> None:
    network = speaking(architecture)
    save_file(network.state_dict(), tmp_path / "weights.safetensors")
    assert all(name.startswith("network.") for name in network.state_dict())
    loaded = build(ModelSpec(**json.loads(json.dumps(asdict(small(architecture))))))
    loaded.load_state_dict(load_file(tmp_path / "weights.safetensors"), strict=True)
    images = random_images(1, 40, 50)
    with torch.no_grad():
        logits = network(images)
        assert logits.std() > 0
        assert torch.equal(loaded.eval()(images), logits)


@pytest.mark.parametrize(
    "architecture",
    [
        one if one in QUICKLY_EXPORTED else pytest.param(one, marks=pytest.mark.long)
        for one in sorted(ARCHITECTURES)
    ],
)
def test_exports_and_onnx_give_the_same_logits(architecture: str, tmp_path: Path) -> None:
    network = speaking(architecture)
    images = random_images(1, 40, 56)
    program = torch.export.export(network, (images,))
    with torch.no_grad():
        logits = network(images)
        assert logits.std() > 0
        assert torch.equal(program.module()(images), logits)
    path = tmp_path / "network.onnx"
    if architecture in NEW_EXPORTER:
        torch.onnx.export(
            program, f=path, dynamo=True, optimize=False, verbose=False, input_names=["images"]
        )
    else:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # it is the older one, and it traces
            torch.onnx.export(network, (images,), path, dynamo=False, input_names=["images"])
    session = onnxruntime.InferenceSession(path)
    (found,) = session.run(None, {"images": images.numpy()})
    tolerance = 1e-4 * float(logits.abs().max())
    np.testing.assert_allclose(found, logits.numpy(), rtol=0, atol=tolerance)
