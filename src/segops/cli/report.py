"""The command `report`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from segops.cli.common import checkout, printable


def report(
    against: Annotated[
        str, typer.Option(metavar="REV", help="The commit, tag or branch to compare with.")
    ] = "main",
    output: Annotated[
        Path | None, typer.Option(help="Write it into this file; left out: print it.")
    ] = None,
) -> None:
    """Say in Markdown what a change does to the model: metrics, classes, data, the gate's preview.

    Nothing is trained. Metrics come from the checkout, from git or from DVC's cache.
    """
    root = checkout()
    from segops import files
    from segops.operate.change_report import report as write

    text = printable(write(root, against))
    if output is None:
        typer.echo(text, nl=False)
    else:
        files.write_text(output, text)
