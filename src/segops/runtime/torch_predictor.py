"""The predictor around a network of torch: of training's selection, and of a bundle's weights."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager
from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn

from .bands import RGB
from .classes import Classes
from .predictor import Predictor
from .torch_arrays import TorchArrays

if TYPE_CHECKING:
    from .inference import Inference


class TorchPredictor(Predictor):
    """Predicts with a network of torch, on its device.

    Args:
        network: Takes images (N, B, H, W) in 0..255 of any size, returns logits (N, C, H, W). It
            is in evaluation mode during a prediction only.
        class_names: As of :class:`.predictor.Predictor`, like all that follow.
        device: Device of the network, to which images are sent.
        inference: See `class_names`.
        bit_depth: See `class_names`.
        channels: See `class_names`.
        classes: See `class_names`.
    """

    def __init__(
        self,
        network: nn.Module,
        class_names: Sequence[str],
        device: torch.device | str = "cpu",
        inference: Inference | None = None,
        bit_depth: int | None = 16,
        channels: int = RGB,
        classes: Classes | None = None,
    ) -> None:
        arrays = TorchArrays(device)
        super().__init__(
            self._logits_of, arrays, class_names, inference, bit_depth, channels, classes
        )
        self.network = network
        self.device: torch.device = arrays.device

    def _logits_of(self, pixels: Tensor) -> Tensor:
        logits: Tensor = self.network(pixels)
        return logits.float()

    def _running(self) -> AbstractContextManager[None]:
        return evaluating(self.network, self.device)


@contextmanager
def evaluating(
    network: nn.Module, device: torch.device, *, gradients: bool = False
) -> Iterator[None]:
    """Evaluation mode, true float32 and deterministic kernels; gradients if asked for."""
    training = [module for module in network.modules() if module.training]
    precision = torch.get_float32_matmul_precision()
    for module in training:
        module.training = False
    if precision != "highest":
        torch.set_float32_matmul_precision("highest")
    try:
        with (
            torch.inference_mode(not gradients),
            torch.autocast(device.type, enabled=False),
            torch.backends.cudnn.flags(
                enabled=True, benchmark=False, deterministic=True, allow_tf32=False
            ),
        ):
            yield
    finally:
        if precision != "highest":
            torch.set_float32_matmul_precision(precision)
        for module in training:
            module.training = True
