"""Weights files and what of them fits a network."""

from __future__ import annotations

import logging
import pickle
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor, nn

from segops.runtime.bands import MOST_CHANNELS, RGB
from segops.runtime.errors import SegopsError
from segops.runtime.networks.segmenter import Segmenter
from segops.words import first_line

LEAST_MATCH = 0.9
"""Share of a network's tensors that a file must bring; below it, it is another network's file."""

KEY = "model.encoder_weights"
CHECKPOINTS = (".pt", ".pth", ".bin", ".ckpt", ".tar")
"""Suffixes of what `torch.save` writes; anything else is read as safetensors."""

_NESTED = ("state_dict", "model_state_dict", "state_dict_ema", "model_ema", "model", "network")
_SHOWN = 5
log = logging.getLogger("segops")
StateDict = Mapping[str, Tensor]


@dataclass(frozen=True)
class LoadReport:
    """What weights brought.

    Attributes:
        matched: Names of the network's tensors that are there in the right shape.
        missing: Names that are not there.
        unexpected: Names there that the network does not have (a classifier, for instance).
        mismatched: Shape there and shape expected, by the names whose shapes differ.
    """

    matched: tuple[str, ...]
    missing: tuple[str, ...]
    unexpected: tuple[str, ...]
    mismatched: Mapping[str, tuple[tuple[int, ...], tuple[int, ...]]]


def _told(report: LoadReport) -> str:
    shapes = [
        f"{name}: {there} there, {expected} expected"
        for name, (there, expected) in report.mismatched.items()
    ]
    return (
        f"{len(report.matched)} matched, {_some(report.missing, 'missing')}, "
        f"{_some(shapes, 'of another shape')}, {_some(report.unexpected, 'unexpected')}"
    )


def _some(names: Sequence[str], kind: str) -> str:
    """How many there are of a kind, and the first of them."""
    rest = f" and {len(names) - _SHOWN} more" if len(names) > _SHOWN else ""
    shown = f" ({', '.join(names[:_SHOWN])}{rest})" if names else ""
    return f"{len(names)} {kind}{shown}"


def read_weights(path: Path) -> dict[str, Tensor]:
    """Read the tensors of a safetensors file or of a checkpoint that torch saved.

    A checkpoint is read with ``weights_only=True``: nothing in it is run. Its state dict may lie
    under one of the usual keys (`state_dict`, `model`, ...), and beside other things.

    Raises:
        SegopsError: The file is missing, broken, holds more than weights, or holds no tensors.
    """
    if not path.is_file():
        raise SegopsError(
            f"{KEY}: {path}: no such file. Expected a published name such as `imagenet`, null, or "
            "the path of a local safetensors file or checkpoint."
        )
    if path.suffix not in CHECKPOINTS:
        try:
            return load_file(str(path))
        except (SafetensorError, OSError) as error:
            raise SegopsError(
                f"{KEY}: {path} is not a safetensors file ({error}). A checkpoint of torch ends in "
                f"{', '.join(CHECKPOINTS)}."
            ) from None
    try:
        content = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:
        raise SegopsError(
            f"{KEY}: {path} cannot be read as weights alone ({_reason(error)}). It is broken, or "
            "holds objects, which are not read, because loading them can run code; save its state "
            "dict with safetensors.torch.save_file."
        ) from None
    tensors = _tensors(content)
    if not tensors:
        raise SegopsError(
            f"{KEY}: {path} holds no state dict: expected names and tensors, at the top or under "
            f"one of {', '.join(_NESTED)}."
        )
    return tensors


def _reason(error: Exception) -> str:
    if isinstance(error, pickle.UnpicklingError):  # torch's text advises to run what is in there
        return "it is pickled with more than tensors"
    return first_line(error)


def _tensors(content: Any) -> dict[str, Tensor]:
    if not isinstance(content, Mapping):
        return {}
    for key in _NESTED:
        if isinstance(content.get(key), Mapping):
            return _tensors(content[key])
    return {str(name): one for name, one in content.items() if isinstance(one, Tensor)}


def take(
    network: nn.Module,
    found: StateDict,
    fail: Callable[[str], SegopsError],
    source: str,
    fresh: Iterable[str] = (),
) -> LoadReport:
    """Load what fits into a network, if it is enough.

    Args:
        network: The network.
        found: Tensors by the network's names.
        fail: Makes the error out of the report's words.
        source: Where the weights come from, for the log.
        fresh: Names that are to keep their random start; they do not count.

    Raises:
        SegopsError: Fewer than 90 % of the network's tensors are there in the right shape.
    """
    kept = set(fresh)
    expected, there = (
        {name: tuple(one.shape) for name, one in state.items() if name not in kept}
        for state in (network.state_dict(), found)
    )
    report = LoadReport(
        matched=tuple(name for name in expected if there.get(name) == expected[name]),
        missing=tuple(name for name in expected if name not in there),
        unexpected=tuple(name for name in there if name not in expected),
        mismatched={
            name: (there[name], shape)
            for name, shape in expected.items()
            if there.get(name, shape) != shape
        },
    )
    # A counter of batches, which many files leave out, decides nothing about a match.
    counted = [name for name in expected if not name.endswith("num_batches_tracked")]
    matching = len(set(counted) & set(report.matched))
    if matching < LEAST_MATCH * len(counted):
        raise fail(f"{matching} of {len(counted)} tensors match: {_told(report)}")
    # SMP's mit_b encoders have a method of their own that does not know `strict`.
    fitting = {name: found[name] for name in report.matched}
    nn.Module.load_state_dict(network, fitting, strict=False)
    log.info("%s: %s.", source, _told(report))
    return report


def widened(found: StateDict, expected: Mapping[str, tuple[int, ...]]) -> dict[str, Tensor]:
    """The tensors, with those of an RGB first layer adapted to the channels of a network.

    The first three channels keep their weights and further ones take theirs again in turn; all are
    scaled by 3 / channels, so that the layer's output keeps its size. That is the rule of SMP's
    ``patch_first_conv`` and timm's ``adapt_input_conv`` for published weights.
    """
    adapted = dict(found)
    for name, tensor in found.items():
        shape = expected.get(name, ())
        if (
            len(shape) == tensor.ndim == 4
            and tensor.shape[1] == RGB != shape[1] <= MOST_CHANNELS
            and (shape[0], *shape[2:]) == (tensor.shape[0], *tensor.shape[2:])
        ):
            turns = [channel % RGB for channel in range(shape[1])]
            adapted[name] = tensor[:, turns] * (RGB / shape[1])
    return adapted


def load_start(segmenter: Segmenter, state: StateDict) -> LoadReport:
    """Start a network from the weights of another one of ours.

    The classifier may be of another number of classes; then it keeps its random start, and so
    does an auxiliary head, which no bundle holds. Both are in no list of the report.

    Args:
        segmenter: The network to start.
        state: State dict of a network of the same architecture and encoder.

    Raises:
        SegopsError: Fewer than 90 % of the other tensors match.
    """
    own = segmenter.state_dict()
    state = widened(state, {name: tuple(one.shape) for name, one in own.items()})
    fresh = [name for name in own if name.startswith("auxiliary.") and name not in state]
    classifier = _classifier(own, state)
    if classifier:
        log.info(
            "model.start_from: another number of classes; %s starts anew.", ", ".join(classifier)
        )
    return take(
        segmenter,
        state,
        lambda words: SegopsError(
            f"model.start_from: that model is another network: {words}. Set model.architecture, "
            "model.encoder and model.options to those it was trained with, or start_from to null."
        ),
        "model.start_from",
        [*fresh, *classifier],
    )


def _classifier(own: StateDict, state: StateDict) -> list[str]:
    """Names of the tensors that differ in their number of classes and in nothing else."""
    differing = {
        name: (tuple(state[name].shape), tuple(tensor.shape))
        for name, tensor in own.items()
        if name in state and state[name].shape != tensor.shape
    }
    classes = {(there[:1], here[:1]) for there, here in differing.values()}
    alike = all(there[1:] == here[1:] for there, here in differing.values())
    return list(differing) if alike and len(classes) == 1 else []
