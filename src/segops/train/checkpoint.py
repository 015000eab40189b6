"""What it takes to continue a training that was killed, bit for bit."""

from __future__ import annotations

import logging
import pickle
import shutil
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from segops.files import atomic_path

FORMAT = 1
NAME = "state.pt"
Weights = dict[str, Tensor]
_UNUSABLE = (OSError, RuntimeError, pickle.UnpicklingError, EOFError, KeyError, TypeError)
"""What reading a damaged file raises."""

log = logging.getLogger("segops")


@dataclass
class Best:
    """The best epoch so far.

    Attributes:
        epoch: Its number, from 1.
        score: Its selection mIoU.
        weights: The network's state dict after it, on the CPU.
    """

    epoch: int
    score: float
    weights: Weights


@dataclass
class Checkpoint:
    """A training between two steps.

    There is no random state in it: the order of the images, their augmentation and the network's
    own randomness (dropout) of every step are functions of the seed and the step.

    Attributes:
        parts: Hashes of all that the training depends on, by name.
        epoch: Epochs completed.
        batch: Steps taken in the epoch under way.
        network: State dict of the network.
        optimizer: State dict of the optimiser.
        plateau: State of :class:`~segops.train.schedules.Plateau`.
        losses: State of :class:`~segops.train.losslog.LossLog`.
        rows: Learning curves so far, one mapping an epoch.
        best: The best epoch so far, where there is a selection split.
    """

    parts: dict[str, str]
    epoch: int
    batch: int
    network: Weights
    optimizer: dict[str, Any]
    plateau: dict[str, float]
    losses: dict[str, float]
    rows: list[dict[str, Any]]
    best: Best | None


def save(directory: Path, checkpoint: Checkpoint) -> None:
    """Write a checkpoint into `directory`, whole or not at all."""
    content = {name: getattr(checkpoint, name) for name in Checkpoint.__dataclass_fields__}
    content["best"] = None if checkpoint.best is None else dict(vars(checkpoint.best))
    with atomic_path(directory / NAME) as temporary:
        torch.save({"format": FORMAT, **content}, temporary)


def load(directory: Path, parts: Mapping[str, str]) -> Checkpoint | None:
    """Read the checkpoint in `directory`, if there is one of this very training.

    Args:
        directory: Where :func:`save` wrote it.
        parts: Hashes of all that the training depends on, by name.

    Returns:
        The checkpoint; None where there is none, or one that cannot be read or that belongs to a
        training with other parameters, data or code (logged).
    """
    path = directory / NAME
    if not path.is_file():
        return None
    try:
        content = torch.load(path, map_location="cpu", weights_only=True)
        if content.pop("format") != FORMAT:
            raise KeyError("format")
        best = content.pop("best")
        checkpoint = Checkpoint(**content, best=None if best is None else Best(**best))
    except _UNUSABLE as error:
        log.warning("%s: not a usable checkpoint (%s); starting afresh.", path, error)
        return None
    if checkpoint.parts != dict(parts):
        changed = sorted(
            name
            for name in {*parts, *checkpoint.parts}
            if parts.get(name) != checkpoint.parts.get(name)
        )
        log.info("The interrupted training had another %s; starting afresh.", ", ".join(changed))
        return None
    return checkpoint


def remove(directory: Path) -> None:
    """Delete the checkpoint, if there is one."""
    if directory.exists():
        shutil.rmtree(directory)


def on_cpu(state: Mapping[str, Tensor]) -> Weights:
    """A copy of a state dict that later steps do not change, on the CPU."""
    return {name: tensor.detach().to("cpu", copy=True) for name, tensor in state.items()}
