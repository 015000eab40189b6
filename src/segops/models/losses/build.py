"""A loss from its description: one loss, or several with their weights."""

from __future__ import annotations

import difflib
import inspect
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn

from segops.params.loss import WEIGHTED
from segops.runtime.errors import SegopsError

from .lovasz import Lovasz
from .pixels import Pixels
from .pixelwise import BoundaryWeighted, CrossEntropy, Focal, OnlineHardExamples
from .regions import Dice, Jaccard, Tversky

LOSSES: dict[str, Callable[..., nn.Module]] = {
    "cross_entropy": CrossEntropy,
    "ohem": OnlineHardExamples,
    "focal": Focal,
    "dice": Dice,
    "jaccard": Jaccard,
    "lovasz": Lovasz,
    "tversky": Tversky,
    "boundary": BoundaryWeighted,
}
"""Every loss by its name in ``train.loss``."""


@dataclass(frozen=True)
class LossPart:
    """One part of a loss.

    Attributes:
        name: A key of :data:`LOSSES`.
        weight: Its factor in the sum, above 0.
        options: Arguments of the loss's class other than class weights; those left out have their
            defaults.
    """

    name: str
    weight: float = 1.0
    options: Mapping[str, Any] = field(default_factory=dict)


class Loss(nn.Module):
    """A weighted sum of losses.

    Args:
        parts: The losses; each maps :class:`Pixels` to a scalar.
        weights: Their factors.
    """

    def __init__(self, parts: Sequence[nn.Module], weights: Sequence[float]) -> None:
        super().__init__()
        self.parts = nn.ModuleList(parts)
        self.weights = tuple(weights)

    def forward(self, logits: Tensor, target: Tensor) -> Tensor:
        """The loss of a batch.

        Args:
            logits: (N, C, H, W), any float dtype.
            target: (N, H, W), uint8 or int64, ids in 0..C-1 or 255 for void.

        Returns:
            float32 scalar, on the logits' device.

        Raises:
            SegopsError: There are class weights, but not one for each class.
        """
        with torch.autocast(logits.device.type, enabled=False):
            pixels = Pixels(logits, target)
            values = [
                weight * part(pixels) for part, weight in zip(self.parts, self.weights, strict=True)
            ]
            return torch.stack(values).sum() if len(values) > 1 else values[0]


def build_loss(
    parts: str | Sequence[LossPart], class_weights: Tensor | Sequence[float] | None = None
) -> Loss:
    """Build a loss.

    Args:
        parts: Names joined by ``+``, or parts with weights and options.
        class_weights: Not negative, (C,), in id order, for the parts whose losses take them.

    Returns:
        A module that maps logits and target to a scalar; it has no parameters, and its class
        weights move with it to a device.

    Raises:
        SegopsError: There is no loss of a name or no such option, a weight is not positive, class
            weights are negative, not finite or all 0, or no part takes them.
    """
    if isinstance(parts, str):
        parts = [LossPart(name.strip()) for name in parts.split("+")]
    if not parts:
        raise SegopsError(f"train.loss: no part; expected one or more of {', '.join(LOSSES)}")
    weights = _checked(class_weights, parts)
    return Loss([_build_part(part, weights) for part in parts], [part.weight for part in parts])


def _build_part(part: LossPart, class_weights: Tensor | None) -> nn.Module:
    if part.name not in LOSSES:
        close = difflib.get_close_matches(part.name, LOSSES, n=1)
        hint = f" Did you mean {close[0]}?" if close else ""
        raise SegopsError(f"train.loss: no loss {part.name!r}; expected {', '.join(LOSSES)}.{hint}")
    if not 0 < part.weight < float("inf"):
        raise SegopsError(f"train.loss: weight {part.weight} of {part.name}; expected above 0")
    loss = LOSSES[part.name]
    allowed = [
        name
        for name, parameter in inspect.signature(loss).parameters.items()
        if parameter.kind is parameter.POSITIONAL_OR_KEYWORD and name != "class_weights"
    ]
    unknown = sorted(set(part.options) - set(allowed))
    if unknown:
        raise SegopsError(
            f"train.loss: {part.name} has no option {', '.join(unknown)}; "
            f"expected {', '.join(allowed) or 'none'}"
        )
    if part.name in WEIGHTED:
        return loss(class_weights=class_weights, **part.options)
    return loss(**part.options)


def _checked(
    class_weights: Tensor | Sequence[float] | None, parts: Sequence[LossPart]
) -> Tensor | None:
    if class_weights is None:
        return None
    weights = torch.as_tensor(class_weights, dtype=torch.float32).detach().clone()
    if weights.ndim != 1 or not weights.isfinite().all() or (weights < 0).any():
        raise SegopsError(
            f"train.class_weights: {weights.tolist()}; expected one number of 0 or more per class"
        )
    if not (weights > 0).any():
        raise SegopsError(
            "train.class_weights: all are 0, so that nothing would be learnt; expected one above 0"
        )
    if not any(part.name in WEIGHTED for part in parts):
        raise SegopsError(
            f"train.class_weights: {' + '.join(part.name for part in parts)} takes none; expected "
            f"{', '.join(sorted(WEIGHTED))} in train.loss, or train.class_weights: null"
        )
    return weights
