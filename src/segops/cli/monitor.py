"""`segops monitor`: whether images still look like the champion's data."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer
from rich.table import Table

from segops.cli.common import checkout, console, log_to_stderr
from segops.cli.options import Device, Model

DRIFTED = 3
"""Exit status where a drift is found; 1 is an error."""
SHOWN = 5


def monitor(
    source: Annotated[
        Path, typer.Argument(help="A directory of images, or a log of `segops predict --log`.")
    ],
    model: Model = None,
    days: Annotated[
        float | None,
        typer.Option(min=0.0, help="Only what came within so many days; else monitor.days."),
    ] = None,
    output: Annotated[
        Path | None,
        typer.Option(help="The page; left out: reports/drift.html of this checkout."),
    ] = None,
    device: Device = "auto",
    json: Annotated[
        bool, typer.Option("--json", help="Print the result as JSON, all else to stderr.")
    ] = False,
) -> None:
    """Compare images with the data of the champion, and write a page.

    The exit status is 3 when a drift is found.
    """
    root = checkout()
    if json:
        log_to_stderr()
    from segops import files
    from segops.operate.drift import PAGE
    from segops.operate.drift import monitor as compare

    found = compare(root, source, output or root / PAGE, model=model, device=device, days=days)
    if json:
        typer.echo(files.json_text(found.to_json()), nl=False)
        raise typer.Exit(DRIFTED if found.drift.drifted else 0)
    table = Table("what", "p, corrected", "found", title="Drift", title_justify="left")
    for test in found.drift.tests:
        words = "drift" if test.drifted else "no drift"
        table.add_row(test.name, f"{test.corrected:.4f}", words)
    console.print(table)
    for test in found.drift.tests:
        for change in found.changes(test, SHOWN):
            console.say(f"{test.name}: {change}")
    for name, reason in found.drift.left_out.items():
        console.say(f"Not compared: {name}, because {reason}.")
    for note in found.notes:
        console.say(note)
    console.say(f"{found.sentence} Compared with the data of {found.model}.\nPage: {found.page}")
    if found.drift.drifted:
        raise typer.Exit(DRIFTED)
