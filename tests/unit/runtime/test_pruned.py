"""Layers that are smaller than their architecture builds them, told by a file of anyone."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import nn

from segops.runtime.errors import SegopsError
from segops.runtime.networks.pruned import shrink
from segops.runtime.networks.zoo import build
from tests.support.networks import small


def test_layers_know_their_channels() -> None:
    network = nn.ModuleDict(
        {
            "plain": nn.Conv2d(6, 8, 3),
            "grouped": nn.Conv2d(8, 8, 3, groups=4),
            "depthwise": nn.Conv2d(8, 8, 3, groups=8),
            "up": nn.ConvTranspose2d(8, 6, 2),
            "norm": nn.BatchNorm2d(8),
            "layer_norm": nn.LayerNorm(8),
            "group_norm": nn.GroupNorm(2, 8),
            "linear": nn.Linear(8, 6),
        }
    )
    shapes = {
        "plain.weight": [5, 4, None, None], "plain.bias": [5],
        "grouped.weight": [4, 1, None, None], "grouped.bias": [4],
        "depthwise.weight": [5, None, None, None], "depthwise.bias": [5],
        "up.weight": [5, 3, None, None], "up.bias": [3],
        **{f"norm.{name}": [5] for name in ("weight", "bias", "running_mean", "running_var")},
        "layer_norm.weight": [5], "layer_norm.bias": [5],
        "group_norm.weight": [4], "group_norm.bias": [4],
        "linear.weight": [3, 5], "linear.bias": [3],
    }  # fmt: skip
    shrink(network, shapes)
    sizes = {
        "plain": (1, 4, 9, 9), "grouped": (1, 4, 9, 9), "depthwise": (1, 5, 9, 9),
        "up": (1, 5, 9, 9), "norm": (2, 5, 9, 9), "layer_norm": (2, 5), "group_norm": (2, 4, 9, 9),
        "linear": (2, 5),
    }  # fmt: skip
    made = {name: network[name](torch.rand(size)).shape[1] for name, size in sizes.items()}
    assert made == {
        "plain": 5, "grouped": 4, "depthwise": 5, "up": 3, "norm": 5, "layer_norm": 5,
        "group_norm": 4, "linear": 3,
    }  # fmt: skip
    layers: dict[str, Any] = dict(network.named_children())
    assert (layers["plain"].in_channels, layers["plain"].out_channels) == (4, 5)
    assert (layers["grouped"].in_channels, layers["grouped"].groups) == (4, 4)
    assert layers["depthwise"].groups == layers["depthwise"].in_channels == 5
    assert (layers["up"].in_channels, layers["up"].out_channels) == (5, 3)
    assert (layers["linear"].in_features, layers["linear"].out_features) == (5, 3)
    assert layers["norm"].num_features == 5
    assert all(isinstance(one, nn.Parameter) for one in network.parameters())


@pytest.mark.parametrize(
    "shape",
    [
        [10**12, None, None, None],  # larger than the network has it
        [9, None, None, None],
        [0, None, None, None],
        [-1, None, None, None],
        [True, None, None, None],
        [2.0, None, None, None],
        ["2", None, None, None],
        [4, None, None],
        [4, None, None, None, None],
        4,
        None,
        "4",
    ],
)
def test_a_shape_that_is_none_of_the_network_is_refused(shape: Any) -> None:
    with pytest.raises(SegopsError, match=r"pruned_shapes: weight: .* \(8, 6, 3, 3\)"):
        shrink(nn.Conv2d(6, 8, 3), {"weight": shape})


@pytest.mark.parametrize("name", ["", "weights", "x.weight", "__class__", "weight.data"])
def test_a_name_that_is_no_tensor_is_refused(name: str) -> None:
    with pytest.raises(SegopsError, match="not there"):
        shrink(nn.Conv2d(6, 8, 3), {name: [1]})


def test_shapes_that_do_not_fit_together_are_refused() -> None:
    spec = small("unet")
    name = next(one for one in build(spec).network.state_dict() if one.endswith("conv1.weight"))
    with pytest.raises(SegopsError, match="pruned_shapes: architecture unet with encoder"):
        build(replace(spec, pruned_shapes={name: [1, None, None, None]}))
