"""What processes that segops starts have in common."""

from __future__ import annotations

import os
from pathlib import Path

import segops


def child_environment() -> dict[str, str]:
    """The environment of a child process that imports the very segops that this process runs."""
    here = str(Path(segops.__file__).resolve().parents[1])
    paths = [here, *filter(None, os.environ.get("PYTHONPATH", "").split(os.pathsep))]
    return {**os.environ, "PYTHONPATH": os.pathsep.join(paths)}
