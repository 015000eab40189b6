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
        command: Its words, for example ``python bin/dvc repro -f`` or ``python -m dvc exp run``.
    """
    programs = [PurePath(word).name in ("dvc", "dvc.exe") for word in command[:6]]
    if True not in programs:
        return None
    arguments = command[programs.index(True) + 1 :]
    names = [word for word in arguments if not word.startswith("-")][:3]  # `--cd DIR repro` too
    if "repro" not in names and "run" not in names:
        return None
    return any(
        word == "--force" or ("f" in word and word[0] == "-" and set(word[1:]) <= _FLAGS)
        for word in arguments
    )
