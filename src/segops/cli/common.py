"""What all commands share."""

from __future__ import annotations

import importlib
import logging
import os
import sys
from pathlib import Path
from typing import Any

from rich.console import Console

from segops.errors import SegopsError

console = Console()


def checkout() -> Path:
    """The checkout that a command works on: the one around the working directory.

    Raises:
        SegopsError: There is none.
    """
    from segops import paths

    return paths.workspace()


def flow_module(root: Path, name: str) -> Any:
    """A module of the checkout's ``flows/``; Prefect lives there alone.

    Raises:
        SegopsError: There is no such module.
    """
    if not (root / "flows" / f"{name}.py").is_file():
        raise SegopsError(f"{root}/flows/{name}.py: no such file. Every checkout of segops has it.")
    sys.path.insert(0, str(root))
    # Prefect sets up logging, to its page too, only where nobody else has.
    logging.root.handlers.clear()
    os.environ.setdefault("PREFECT_LOGGING_EXTRA_LOGGERS", "segops")
    return importlib.import_module(f"flows.{name}")
