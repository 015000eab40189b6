"""What all commands share."""

from __future__ import annotations

from pathlib import Path

from rich.console import Console

console = Console()


def checkout() -> Path:
    """The checkout that a command works on: the one around the working directory.

    Raises:
        SegopsError: There is none.
    """
    from segops import paths

    return paths.workspace()
