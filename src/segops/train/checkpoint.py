"""Checkpoints, from which a killed training continues bit for bit."""

from __future__ import annotations

import hashlib
import logging
import pickle
import shutil
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from segops.files import atomic_path
from segops.words import first_line

FORMAT = 5
NAME = "state.pt"
Weights = dict[str, Tensor]
_UNUSABLE = (
    OSError,
    RuntimeError,
    ValueError,
    pickle.UnpicklingError,
    EOFError,
    KeyError,
    TypeError,
)
"""Exceptions raised by reading a damaged file."""

SECONDS_BETWEEN_CHECKPOINTS = 60.0
"""Within an epoch; at its end only :data:`CHECKPOINT_SHARE` limits how often one is written."""

CHECKPOINT_SHARE = 0.05
"""Largest share of the time spent on writing checkpoints."""

log = logging.getLogger("segops")


@dataclass
class Checkpoint:
    """A training between two steps.

    It needs no random state: the order of the images, their augmentation and the network's dropout
    of every step are functions of the seed and the step.

    Attributes:
        parts: Hashes of all that the training depends on, by name.
        epoch: Completed epochs.
        batch: Completed steps of the next epoch.
        engine: State of the :class:`~segops.train.engine.Engine`.
        plateau: State of the :class:`~segops.train.schedules.Plateau`.
        losses: State of every rank's :class:`~segops.train.losslog.LossLog`.
        rows: Learning curves so far, a mapping for each epoch.
        best: The best epoch so far and its selection mIoU; None without a selection split.
    """

    parts: dict[str, str]
    epoch: int
    batch: int
    engine: dict[str, Any]
    plateau: dict[str, float]
    losses: list[dict[str, Any]]
    rows: list[dict[str, Any]]
    best: tuple[int, float] | None = None

    def copied(self) -> Checkpoint:
        """A copy on the CPU, in memory of its own."""
        return replace(self, engine=on_cpu(self.engine))


@dataclass
class Best:
    """The best epoch so far, from 1, and its selection mIoU.

    `checkpoint` is the training at its end, on the CPU; None on ranks that write nothing.
    `is_written`: its file exists beside the last checkpoint.
    """

    epoch: int
    score: float
    checkpoint: Checkpoint | None = None
    is_written: bool = False


def save(directory: Path, checkpoint: Checkpoint, best: Best | None = None) -> bool:
    """Write a checkpoint into `directory`, and the best epoch's checkpoint if it is new.

    A training can continue from either file. The former files stay until the new last checkpoint
    is in place.

    Returns:
        Whether it was written; if not (a full disk), the reason is logged and the former checkpoint
        is still usable.
    """
    path = directory / NAME
    try:
        if best is not None and best.checkpoint is not None and not best.is_written:
            _write(_best_path(directory, best.epoch), best.checkpoint)
            best.is_written = True
        _write(path, checkpoint)
    except OSError as error:
        log.warning(
            "%s: no checkpoint could be written: %s. %s.",
            path,
            error.strerror or str(error),
            "The one before it is kept" if path.is_file() else "There is none yet",
        )
        return False
    kept = None if best is None else _best_path(directory, best.epoch)
    for older in directory.glob("best-*.pt"):
        if older != kept:
            older.unlink()
    return True


def load(directory: Path, parts: Mapping[str, str]) -> tuple[Checkpoint, Best | None] | None:
    """Read the checkpoint in `directory`, if it belongs to the training with these `parts`.

    If the last checkpoint cannot be read, the best epoch's is read in its place: the training then
    repeats some epochs and has the same result.

    Returns:
        The checkpoint, and the best epoch so far; None if there is no checkpoint, or (logged) if it
        cannot be read or belongs to a training with other parameters, data or code.
    """
    candidates = _candidates(directory)
    for path in candidates:
        try:
            checkpoint = _read(path)
            best = _best_of(directory, checkpoint)
        except _UNUSABLE as error:
            log.warning("%s: not a usable checkpoint (%s).", path, error)
            continue
        if changed := differing(parts, checkpoint.parts):
            names = ", ".join(changed)
            log.info("The interrupted training had another %s; starting afresh.", names)
            return None
        return checkpoint, best
    if candidates:
        log.warning("%s: no usable checkpoint; starting afresh.", directory)
    return None


def parts_of_interrupted(directory: Path) -> dict[str, str] | None:
    """The parts of the interrupted training in `directory`; None if no checkpoint can be read."""
    for path in _candidates(directory):
        with suppress(*_UNUSABLE):  # `load` logs the error
            return _read(path, mmap=True).parts  # without reading the weights
    return None


def differing(first: Mapping[str, str], second: Mapping[str, str]) -> list[str]:
    """Names of the parts in which two trainings differ, sorted."""
    return sorted(name for name in {*first, *second} if first.get(name) != second.get(name))


def remove(directory: Path) -> None:
    """Delete the checkpoint, if there is one."""
    if directory.exists():
        shutil.rmtree(directory)


def on_cpu(state: Any) -> Any:
    """A copy on the CPU of a state: tensors in mappings and lists."""
    if isinstance(state, Tensor):
        return state.detach().to("cpu", copy=True)
    if isinstance(state, Mapping):
        return {name: on_cpu(value) for name, value in state.items()}
    if isinstance(state, (list, tuple)):
        return type(state)(on_cpu(value) for value in state)
    return state


def _candidates(directory: Path) -> list[Path]:
    """The checkpoints in a directory, in the order in which to try them."""
    paths = [directory / NAME, *sorted(directory.glob("best-*.pt"), reverse=True)]
    return [path for path in paths if path.is_file()]


def _best_path(directory: Path, epoch: int) -> Path:
    return directory / f"best-{epoch:06d}.pt"


def _write(path: Path, checkpoint: Checkpoint) -> None:
    with atomic_path(path) as temporary, temporary.open("wb") as file:
        try:
            torch.save({"format": FORMAT, **vars(checkpoint)}, file)
        except RuntimeError as error:  # raised by torch's writer when a write fails
            raise _cause(error) from error
        file.flush()
        # torch checks no sums when it reads: a flipped bit would lead to other weights.
        file.write(_digest(temporary, temporary.stat().st_size))


def _cause(error: BaseException) -> OSError:
    """The operating system's error behind an error of torch's writer."""
    cause: BaseException | None = error
    while cause is not None:
        if isinstance(cause, OSError):
            return cause
        cause = cause.__cause__ or cause.__context__
    return OSError(first_line(error))


def _digest(path: Path, length: int) -> bytes:
    """SHA-256 of the first `length` bytes of a file."""
    digest = hashlib.sha256()
    with path.open("rb") as file:
        while length > 0 and (block := file.read(min(length, 1 << 20))):
            digest.update(block)
            length -= len(block)
    return digest.digest()


def _read(path: Path, mmap: bool = False) -> Checkpoint:
    """Read a checkpoint; its hash is checked unless only its parts are wanted (`mmap`)."""
    if not mmap:
        length = path.stat().st_size - hashlib.sha256().digest_size
        with path.open("rb") as file:
            file.seek(max(length, 0))
            if file.read() != _digest(path, length):
                raise ValueError("its content does not have the hash that was written with it")
    content = torch.load(path, map_location="cpu", weights_only=True, mmap=mmap)
    if content.pop("format") != FORMAT:
        raise KeyError("format")
    return Checkpoint(**content)


def _best_of(directory: Path, checkpoint: Checkpoint) -> Best | None:
    """The best epoch that a checkpoint names; KeyError if the file here is of another epoch."""
    if checkpoint.best is None:
        return None
    epoch, score = checkpoint.best
    at_best = _read(_best_path(directory, epoch))
    if (at_best.parts, at_best.best) != (checkpoint.parts, checkpoint.best):
        raise KeyError("best")
    return Best(epoch, score, at_best, is_written=True)
