"""Tells whether the user asked for a training from the start."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import PurePath

import psutil

VARIABLE = "SEGOPS_FRESH"
_FLAGS = frozenset("fqvsmipPRkA")
"""Short options of `dvc repro` and `dvc exp run` without a value, which may be combined."""


def wants_fresh() -> bool:
    """Whether ``SEGOPS_FRESH=1`` is set or DVC runs this stage with `--force`."""
    if os.environ.get(VARIABLE) == "1":
        return True
    for process in psutil.Process().parents():
        try:
            forced = is_forced(process.cmdline())
        except psutil.Error:
            continue
        if forced is not None:
            return forced
    return False


def is_forced(command: Sequence[str]) -> bool | None:
    """Whether a command line of DVC that runs stages has `--force`; None for other commands.

    Args:
        command: The words of the command line, for example of ``python bin/dvc repro -f`` or
            ``python -m dvc exp run --force``.
    """
    place = next((at for at, word in enumerate(command[:6]) if _is_dvc(word)), None)
    if place is None:
        return None
    arguments = command[place + 1 :]
    names = [word for word in arguments if not word.startswith("-")][:3]  # `--cd DIR repro` too
    if "repro" not in names and "run" not in names:
        return None
    return any(word == "--force" or _is_short_force(word) for word in arguments)


def _is_dvc(word: str) -> bool:
    return PurePath(word).name in ("dvc", "dvc.exe")


def _is_short_force(word: str) -> bool:
    return word.startswith("-") and "f" in word[1:] and set(word[1:]) <= _FLAGS
