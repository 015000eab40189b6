"""The autoencoders: what the encoder sees, what counts, and that its weights fit a training."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor

from segops.models.autoencoders import (
    Autoencoder,
    ConvolutionalAutoencoder,
    MaskedAutoencoder,
    build_autoencoder,
    encoder_weights,
    position_embeddings,
)
from segops.models.pretrained import build_pretrained, load_encoder_weights
from segops.params.pretrain import PretrainParams
from segops.runtime.errors import SegopsError
from segops.runtime.networks.zoo import ModelSpec, build
from tests.support.networks import random_images, small

pytestmark = pytest.mark.usefixtures("one_thread")

CROP = (64, 96)
ARCHITECTURES = {"linear": MaskedAutoencoder, "unet": ConvolutionalAutoencoder}


def made(architecture: str, **params: object) -> Autoencoder:
    torch.manual_seed(0)
    values = {"crop": CROP, "mask_block": 16, "noise": 0.0, "decoder_width": 32} | params
    settings = PretrainParams.model_validate(values)
    return build_autoencoder(build(small(architecture)), architecture, settings).eval()


def otherwise(images: Tensor, where: Tensor) -> Tensor:
    """The images with other pixels at some places."""
    return torch.where(where, 255 - images, images)


def restored(network: Autoencoder, images: Tensor, hidden: Tensor) -> Tensor:
    return network.restore(network.normalised(images), hidden)[1]


@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_as_many_cells_are_hidden_of_each_crop_and_others_each_time(architecture: str) -> None:
    network = made(architecture, mask_share=0.75)
    assert type(network) is ARCHITECTURES[architecture]
    cells = CROP[0] // network.cell[0] * CROP[1] // network.cell[1]
    torch.manual_seed(1)
    first, second = network.draw(3), network.draw(3)
    assert first.sum(dim=1).tolist() == [round(0.75 * cells)] * 3
    assert not torch.equal(first, second)
    torch.manual_seed(1)
    assert torch.equal(network.draw(3), first)
    assert network.spread(first).float().mean().item() == pytest.approx(0.75)


@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_the_encoder_sees_nothing_of_what_is_hidden(architecture: str) -> None:
    network, images = made(architecture), random_images(2, *CROP)
    hidden = network.draw(2)
    where = network.spread(hidden)
    changed = otherwise(images, where)
    kept = (~hidden).nonzero()[:, 1].view(2, -1)
    with torch.no_grad():
        if isinstance(network, MaskedAutoencoder):
            found, same, other = (
                network.encode(network.normalised(one), kept)
                for one in (images, changed, otherwise(images, ~where))
            )
        else:
            found, same, other = (
                restored(network, one, hidden)
                for one in (images, changed, otherwise(images, ~where))
            )
    torch.testing.assert_close(found, same)
    assert not torch.allclose(found, other, atol=1e-3)


@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_only_hidden_pixels_inside_of_the_image_count(architecture: str) -> None:
    network, images = made(architecture), random_images(2, *CROP)
    hidden = network.draw(2)
    counted = torch.ones(2, *CROP, dtype=torch.bool)
    counted[:, :, :16] = False
    weights = network.weights(counted, hidden)
    expected = network.spread(hidden)[:, 0] & counted
    assert weights.sum() == expected.sum()
    with torch.no_grad():
        errors = network.errors(network.normalised(images), hidden)
        loss = network(images, counted, hidden)
        none = network(images, torch.zeros_like(counted), hidden)
    literal = errors[weights > 0].mean() / 3
    torch.testing.assert_close(loss, literal)
    assert none == 0


def test_noise_hides_a_little_everywhere_so_that_all_counts() -> None:
    network, images = made("unet", noise=0.5), random_images(2, *CROP)
    hidden = network.draw(2)
    counted = torch.ones(2, *CROP, dtype=torch.bool)
    assert network.weights(counted, hidden).sum() == counted.sum()
    torch.manual_seed(0)
    seen = network.restore(network.normalised(images), hidden)[0]
    noise = (seen - network.normalised(images))[~network.spread(hidden).expand(-1, 3, -1, -1)]
    assert noise.std().item() == pytest.approx(0.5, rel=0.05)


def test_a_perfect_prediction_restores_the_image_and_costs_nothing(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    network, images = made("linear"), random_images(2, *CROP)
    assert isinstance(network, MaskedAutoencoder)
    normalised, hidden = network.normalised(images), network.draw(2)
    own = network.patches(normalised)
    mean, variance = own.mean(dim=(2, 3), keepdim=True), own.var(dim=(2, 3), keepdim=True)
    target = (own - mean) / (variance + 1e-6).sqrt()
    monkeypatch.setattr(network, "predicted", lambda *_: target)
    torch.testing.assert_close(restored(network, images, hidden), normalised)
    assert network(images, torch.ones(2, *CROP, dtype=torch.bool), hidden) == 0


def test_positions_are_told_apart_by_row_and_column() -> None:
    table = position_embeddings((4, 6), 32)[0]
    assert table.shape == (24, 32)
    assert torch.unique(table, dim=0).shape[0] == 24
    grid = table.view(4, 6, 32)
    assert torch.equal(grid[2, 0, :16], grid[2, 5, :16])
    assert torch.equal(grid[0, 3, 16:], grid[3, 3, 16:])


@pytest.mark.parametrize(
    ("architecture", "encoder"),
    [
        ("linear", "tu-test_vit"),
        ("unet", "tu-test_resnet"),
        ("unet", "resnet18"),
        ("fpn", "mit_b0"),
    ],
)
def test_the_weights_fit_the_encoder_of_a_training(
    architecture: str, encoder: str, tmp_path: Path
) -> None:
    torch.manual_seed(0)
    spec = ModelSpec(architecture, encoder, 3)
    settings = PretrainParams(crop=(64, 64), decoder_width=32, noise=0.0)
    network = build_autoencoder(build(spec), architecture, settings)
    loss = network(
        random_images(2, 64, 64), torch.ones(2, 64, 64, dtype=torch.bool), network.draw(2)
    )
    loss.backward()
    learned = [one for one in network.encoder.parameters() if one.grad is not None]
    assert len(learned) > len(list(network.encoder.parameters())) / 2
    weights = encoder_weights(network.encoder)
    assert not any(name.startswith("model.") for name in weights)
    path = tmp_path / "encoder.safetensors"
    save_file(weights, path)
    torch.manual_seed(1)
    other = build_pretrained(spec, str(path))
    assert other.encoder is not None
    report = load_encoder_weights(other.encoder, path)
    assert len(report.matched) == len(weights)
    for name, value in other.encoder.state_dict().items():
        assert torch.equal(value, weights[name.removeprefix("model.")])


def test_what_does_not_fit_is_refused() -> None:
    with pytest.raises(SegopsError, match=r"pretrain\.crop: 40; expected multiples of 32"):
        made("unet", crop=(64, 40))
    with pytest.raises(SegopsError, match=r"pretrain\.decoder_width: 48"):
        made("linear", decoder_width=48)
    for architecture in ("plain_cnn", "pidnet"):
        with pytest.raises(SegopsError, match=f"{architecture} has no encoder"):
            made(architecture)
