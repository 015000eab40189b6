"""Removes whole channels from a trained network."""

from __future__ import annotations

import warnings
from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor, nn

from segops.runtime.errors import SegopsError
from segops.runtime.networks.pruned import Shapes
from segops.runtime.networks.segmenter import Segmenter
from segops.runtime.networks.zoo import ModelSpec, build

KEY = "train.pruning"
LEAST_SIDE = 64


def prune(
    spec: ModelSpec, weights: Mapping[str, Tensor], share: float
) -> tuple[Shapes, dict[str, Tensor]]:
    """Remove a share of the channels of every layer but those that score classes.

    Layers whose channels belong together (a convolution, its batch norm, the convolutions that
    read it, and what is added to it) lose the same channels: those of the smallest L2 norm,
    averaged over these layers. The same weights and share lose the same channels.

    Source:
        Li et al., "Pruning Filters for Efficient ConvNets" (2017), section 3.1, by the L1 norm,
        https://arxiv.org/abs/1608.08710; layers that belong together: Fang et al., "DepGraph:
        Towards Any Structural Pruning" (2023), https://arxiv.org/abs/2301.12900

    Args:
        spec: The specification of the network; it may be pruned already.
        weights: Its state dict.
        share: Share of the channels to remove, above 0 and below 1. At least one of a layer's
            channels goes, and one stays.

    Returns:
        `pruned_shapes` for the specification of the smaller network, and its state dict.

    Raises:
        SegopsError: The weights are not of this network, it cannot be pruned, or torch-pruning is
            not installed.
    """
    with torch.random.fork_rng(devices=[]):  # building draws random weights
        segmenter = build(spec)
        whole = _state(build(replace(spec, pruned_shapes={})))
        more = _state(build(replace(spec, classes=spec.classes + 1, pruned_shapes={})))
    try:
        segmenter.load_state_dict(dict(weights))
    except RuntimeError as error:
        raise SegopsError(
            f"{KEY}: the model of model.start_from is another network than section `model` and "
            f"data.classes say: {_first(error)} Set them to those that it was trained with, or "
            f"{KEY} to null."
        ) from None
    scoring = {name.rpartition(".")[0] for name in whole if whole[name].shape != more[name].shape}
    dtypes = {name: tensor.dtype for name, tensor in segmenter.state_dict().items()}
    _remove_channels(segmenter, spec, share, scoring)
    left = {name: one.to(dtypes[name]) for name, one in segmenter.state_dict().items()}
    shapes = {
        name: [
            None if size == before else size
            for size, before in zip(one.shape, whole[name].shape, strict=True)
        ]
        for name, one in _state(segmenter).items()
        if one.shape != whole[name].shape
    }
    return shapes, left


def _remove_channels(segmenter: Segmenter, spec: ModelSpec, share: float, keep: set[str]) -> None:
    """Prune in place; the norms are summed in float64, so that no order of sums decides."""
    try:
        from torch_pruning import importance, pruner
    except ImportError:
        raise SegopsError(
            f"{KEY} needs torch-pruning, which is not installed. `pip install 'segops[pruning]'` "
            f"installs it; or set {KEY} to null."
        ) from None
    network = segmenter.network.eval().double()
    side = max(LEAST_SIDE, segmenter.stride, segmenter.min_side)
    example = torch.zeros(1, spec.channels, side, side, dtype=torch.float64)
    modules: dict[str, nn.Module] = dict(network.named_modules())
    # Mappings of its own: the library's defaults are shared by all calls and keep their networks.
    groups: dict[str, Any] = {
        name: {} for name in ("in_channel_groups", "out_channel_groups", "num_heads")
    }
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            pruner.BasePruner(
                network,
                example,
                importance.GroupMagnitudeImportance(p=2),
                pruning_ratio=share,
                ignored_layers=[modules[name] for name in sorted(keep)],
                **groups,
            ).step()
            with torch.no_grad():
                network(example)
    except Exception as error:  # of whatever kind the library meets in a layer that it cannot cut
        raise SegopsError(
            f"{KEY}: {spec.architecture} with encoder {spec.encoder} cannot be pruned: "
            f"{type(error).__name__}: {_first(error)} Set {KEY} to null, or choose another network."
        ) from error


def _state(segmenter: Segmenter) -> dict[str, Tensor]:
    """The state dict without the segmenter's own prefix, as `pruned_shapes` name its tensors."""
    state: dict[str, Tensor] = segmenter.network.state_dict()
    return state


def _first(error: Exception) -> str:
    lines = [line.strip().rstrip(".") for line in str(error).splitlines() if line.strip()]
    return f"{' '.join(lines[:2]) or 'it gives no reason'}."
