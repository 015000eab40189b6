"""The deepest features of a network, as they pass."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from torch import Tensor, nn
from torch.utils.hooks import RemovableHandle


def inner_of(network: nn.Module) -> nn.Module:
    """The network without its normalisation and padding."""
    # A bundle has its own class of network, so only the attributes can be tested.
    inner: nn.Module = getattr(network, "network", network)
    return inner


def pass_deepest(network: nn.Module, through: Callable[[Tensor], Tensor]) -> RemovableHandle:
    """Pass the deepest features of each call of a network through a function.

    They are the coarsest features of the encoder, (N, D, h, w); without an encoder, the input of
    the last convolution.

    Returns:
        What removes the function again.
    """
    inner = inner_of(network)
    encoder = getattr(inner, "encoder", None)
    if isinstance(encoder, nn.Module):
        return encoder.register_forward_hook(
            lambda _module, _inputs, output: _with_last(output, through)
        )
    *_, last = (module for module in inner.modules() if isinstance(module, nn.Conv2d))
    return last.register_forward_pre_hook(lambda _module, inputs: (through(inputs[0]), *inputs[1:]))


def _with_last(features: Any, through: Callable[[Tensor], Tensor]) -> Any:
    """An encoder's output with its last feature map passed through a function."""
    if isinstance(features, Tensor):
        return through(features)
    maps: Sequence[Any] = features
    if isinstance(maps[0], Tensor):
        return [*maps[:-1], through(maps[-1])]
    return (_with_last(maps[0], through), *maps[1:])  # DPT: feature maps, then tokens
