"""Output, errors and paths that all commands share."""

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

from segops import logs
from segops.runtime.errors import SegopsError


def printable(text: str, *, lines: bool = True) -> str:
    r"""Escape the characters of a text, such as a file name, that would control the terminal.

    Control characters, marks of text direction and undecodable bytes become escapes like ``\x1b``;
    with `lines`, line ends stay.
    """
    return "".join(
        character.encode("unicode_escape").decode()
        if unicodedata.category(character) in ("Cc", "Cf", "Cs", "Zl", "Zp")
        and not (character == "\n" and lines)
        else character
        for character in text
    )


class Terminal(Console):
    """A console that prints names literally: it reads markup only where a call asks for it."""

    def __init__(self, **options: Any) -> None:
        super().__init__(markup=False, emoji=False, highlight=False, **options)

    def say(self, text: str, *, markup: bool = False) -> None:
        """Print sentences; the terminal breaks long lines, so a file receives them whole."""
        self.print(text, soft_wrap=True, markup=markup)

    def render_str(self, text: str, **options: Any) -> Text:
        """Render as the base class does, from printable text; all printed text passes here."""
        return super().render_str(printable(text), **options)


console = Terminal()


def start_logging() -> None:
    """Log to standard output, or as JSON to standard error, which then holds nothing else."""
    logging.basicConfig(level=logging.WARNING, format="%(message)s", stream=sys.stdout, force=True)
    if logs.wants_json():
        logs.use_json()
        os.environ.update(logs.PREFECT)


def print_error(message: str) -> None:
    """Print an error message to standard error, or log it as JSON."""
    if logs.wants_json():
        logging.getLogger("segops").error(message)
        return
    Terminal(stderr=True).say(f"[bold red]error:[/] {escape(message)}", markup=True)


def make_printable(record: logging.LogRecord) -> bool:
    """Make a log record's message :func:`printable`; as a logging filter it keeps all records."""
    record.msg, record.args = printable(record.getMessage()), ()
    return True


def log_to_stderr() -> None:
    """Send log lines to standard error, because standard output takes a result for a program."""
    for handler in logging.root.handlers:
        if isinstance(handler, logging.StreamHandler) and handler.stream is sys.stdout:
            handler.setStream(sys.stderr)


def checkout(project: Path | None = None) -> Path:
    """Return the workspace that contains the working directory, or that of a project.

    Raises:
        SegopsError: The working directory is in no checkout, or the project is no workspace.
    """
    from segops import paths

    if project is not None and not (project / "dvc.yaml").is_file():
        raise SegopsError(
            f"--project {project}: no dvc.yaml there. A project is a directory of the checkout "
            "with params.yaml and dvc.yaml, a link to the checkout's."
        )
    return paths.workspace(project)


def flow_module(root: Path, name: str) -> Any:
    """Import a module of the checkout's ``flows/``, the only place that imports Prefect.

    Raises:
        SegopsError: There is no such module, ``PREFECT_API_URL`` is no address, or this user has no
            home.
    """
    from segops import paths
    from segops.operate.surroundings import require_home, require_prefect_address

    root = paths.checkout(root)
    if not (root / "flows" / f"{name}.py").is_file():
        raise SegopsError(f"{root}/flows/{name}.py: no such file. Every checkout of segops has it.")
    require_home()
    if url := os.environ.get("PREFECT_API_URL"):
        require_prefect_address(url)
    sys.path.insert(0, str(root))
    # Prefect sets up its logging only if the root logger has no handler.
    logging.root.handlers.clear()
    os.environ.setdefault("PREFECT_LOGGING_EXTRA_LOGGERS", "segops")
    return importlib.import_module(f"flows.{name}")
