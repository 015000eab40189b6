"""`train.layer_decay`: the learning rate of each layer of a vision transformer."""

from __future__ import annotations

import pytest

from segops.params.train import TrainParams
from segops.runtime.errors import SegopsError
from segops.runtime.networks.segmenter import Segmenter
from segops.runtime.networks.zoo import ModelSpec, build
from segops.train.optimizers import FACTOR, parameter_groups

BLOCKS = 12


def factors(network: Segmenter, params: TrainParams) -> dict[str, float]:
    """The factor of each parameter's learning rate, by its name; each is in one group."""
    names = {id(weight): name for name, weight in network.named_parameters()}
    found = [
        (names[id(weight)], group[FACTOR])
        for group in parameter_groups(network, params)
        for weight in group["params"]
    ]
    assert len(found) == len(dict(found)) == len(names)
    return dict(found)


def test_each_layer_learns_with_a_share_of_the_one_behind_it() -> None:
    network = build(ModelSpec("linear", "tu-vit_tiny_patch16_224", 3, {"img_size": 64}))
    found = factors(network, TrainParams(layer_decay=0.8, encoder_lr_factor=0.5))
    inside = "network.encoder.model"
    assert found["network.head.score.weight"] == 1
    assert found[f"{inside}.norm.weight"] == pytest.approx(0.5)
    for block in range(BLOCKS):
        behind = BLOCKS - 1 - block
        weight = found[f"{inside}.blocks.{block}.attn.qkv.weight"]
        assert weight == pytest.approx(0.5 * 0.8**behind), block
    assert found[f"{inside}.patch_embed.proj.weight"] == pytest.approx(0.5 * 0.8**BLOCKS)
    assert found[f"{inside}.pos_embed"] == pytest.approx(0.5 * 0.8**BLOCKS)


@pytest.mark.parametrize("architecture", ["plain_cnn", "unet"])
def test_a_network_without_such_layers_is_refused(architecture: str) -> None:
    network = build(ModelSpec(architecture, "resnet18", 3))
    with pytest.raises(SegopsError, match=r"train\.layer_decay: 0\.8, but .* null"):
        parameter_groups(network, TrainParams(layer_decay=0.8))
