"""The commands `ledger verify` and `ledger history`."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.table import Table

from segops.cli.common import checkout, console

if TYPE_CHECKING:
    from segops.report.history_page import VersionRow

LAST = 20
"""Versions that the terminal shows; the page has all."""
CHANGES = 4
"""Changes that it shows of each."""
app = typer.Typer(help="The ledger of the registered model.", no_args_is_help=True)


@app.callback()
def _group() -> None:
    """The ledger of the registered model."""


@app.command()
def verify() -> None:
    """Read the whole ledger, and compare it with this checkout's copy and the model's tag."""
    root = checkout()
    from segops.params.file import load_params
    from segops.record.tracking import session
    from segops.release.ledger import Ledger

    settings = load_params(root).registry
    with session(root, settings, create=False) as store:
        ledger = Ledger(store, root, settings.model)
        chain = ledger.verify()
    void = chain.number - len(chain.entries)
    console.say(f"{ledger.where}: {len(chain.entries)} entries verified, {void} void.")
    console.say(f"Last entry: {chain.head}")


@app.command()
def history(
    output: Annotated[
        Path | None,
        typer.Option(
            help="The page; left out: reports/history.html of this checkout.", show_default=False
        ),
    ] = None,
) -> None:
    """Show all versions of the model: decisions, scores, and what changed from one to the next.

    Every figure is as it was recorded; nothing is scored again.
    """
    root = checkout()
    from segops.release.history import PAGE
    from segops.release.history import history as read_history

    page = root / PAGE if output is None else output
    found = read_history(root, page)
    table = Table(title=f"Versions of {found.model}", title_justify="left")
    for heading in ("version", "registered,\nUTC", "decision"):
        table.add_column(heading)
    table.add_column("mIoU", justify="right", no_wrap=True)
    table.add_column("difference", justify="right", no_wrap=True)
    table.add_column("what changed", overflow="fold")
    for row in found.rows[-LAST:]:
        table.add_row(*_cells(row))
    console.print(table)
    if len(found.rows) > LAST:
        console.say(f"The last {LAST} of {len(found.rows)} versions; the page has all.")
    console.say(f"Page: {page}")


def _cells(row: VersionRow) -> tuple[str, ...]:
    from segops.report.html import decimal, signed

    miou, difference = decimal(row.miou), ""
    if row.low is not None and row.high is not None:
        miou += f"\n{row.low:.3f} to {row.high:.3f}"
    if row.difference is not None:
        low, high = signed(row.difference.low), signed(row.difference.high)
        difference = f"{signed(row.difference.difference)} to {row.compared}\n{low} to {high}"
    lines = [f"{one.name or one.kind}: {one.text}" for one in row.changes]
    if row.before is not None and not lines:
        lines = ["nothing that is recorded, but the weights"]
    more = len(lines) - CHANGES
    told = lines[:CHANGES] + ([f"and {more} more"] if more > 0 else [])
    state = f"{row.state}, gone from the registry" if row.is_gone else row.state
    registered = row.registered[:16].replace("T", " ")
    return row.number, registered, state, miou, difference, "\n".join(told)
