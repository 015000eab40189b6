"""`segops data diff`: what changed in the data since a commit."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer
from rich.table import Table

from segops.cli.common import checkout, console


def diff(
    revision: Annotated[
        str, typer.Argument(metavar="REV", help="A commit, tag or branch.")
    ] = "HEAD",
    out: Annotated[Path | None, typer.Option(help="The page; reports/data-diff.html.")] = None,
) -> None:
    """Show what changed in the data since a commit: images, splits, masks, pixels by class.

    The earlier data come from DVC's cache; nothing in the checkout changes. The present data are
    what lies in the checkout, also where DVC does not track it yet.
    """
    from segops.operate.data_diff import PAGE
    from segops.operate.data_diff import diff as compare
    from segops.params.file import load_params
    from segops.report.diff_page import class_rows, sentences
    from segops.report.html import number, percent

    root = checkout()
    page = out or root / PAGE
    changes = compare(root, load_params(root), revision, page)
    for one in sentences(changes):
        console.say(one)
    rows = [row for row in class_rows(changes) if row["before"] != row["after"]]
    if rows:
        table = Table("class", title="Pixels by class")
        for name in ("before", "now", "share before", "now"):
            table.add_column(name, justify="right")
        for row in rows:
            table.add_row(
                row["name"],
                *(number(row[key]) for key in ("before", "after")),
                *(percent(row[f"{key}_share"], 2) for key in ("before", "after")),
            )
        console.print(table)
    console.say(f"Look at {page}.")
