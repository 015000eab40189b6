"""What all commands share."""

from __future__ import annotations

import importlib
import logging
import os
import sys
import unicodedata
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.markup import escape
from rich.text import Text

from segops.runtime.errors import SegopsError


def printable(text: str, *, lines: bool = True) -> str:
    r"""Text that a terminal shows as it stands: a name of the data may hold what would steer it.

    Args:
        text: May hold anything that a file may be called.
        lines: Leave the ends of lines as they are.

    Returns:
        The text with control characters, marks that turn the direction of writing, and bytes that
        are no text as escapes, like ``\x1b``.
    """
    return "".join(
        one.encode("unicode_escape").decode()
        if unicodedata.category(one) in ("Cc", "Cf", "Cs", "Zl", "Zp")
        and not (one == "\n" and lines)
        else one
        for one in text
    )


class Terminal(Console):
    """A console that takes names as they stand: markup is read only where a call asks for it."""

    def __init__(self, *, stderr: bool = False, soft_wrap: bool = False) -> None:
        super().__init__(stderr=stderr, soft_wrap=soft_wrap, markup=False, emoji=False)

    def render_str(self, text: str, **options: Any) -> Text:
        """As the base class; whatever is printed as text comes through here."""
        return super().render_str(printable(text), **options)


console = Terminal()


def print_error(message: str) -> None:
    """Print what is wrong to standard error."""
    Terminal(stderr=True, soft_wrap=True).print(
        f"[bold red]error:[/] {escape(message)}", highlight=False, markup=True
    )


def make_printable(record: logging.LogRecord) -> bool:
    """A filter that lets every message of a logger through, as :func:`printable` writes it."""
    record.msg, record.args = printable(record.getMessage()), ()
    return True


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
