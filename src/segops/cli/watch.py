"""`segops watch`: makes a run where new data are found."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Annotated

import typer

from segops.cli.common import checkout

UNITS = {"s": 1, "m": 60, "h": 3600, "d": 86400}


def seconds(text: str) -> float:
    """Return the seconds of a time such as 30s, 5m, 2h or 1d.

    Raises:
        typer.BadParameter: It is none.
    """
    parts = re.fullmatch(r"([1-9]\d{0,5})([smhd])", text.strip())
    if parts is None:
        raise typer.BadParameter(f"{text!r}: expected a time such as 30s, 5m, 2h or 1d.")
    return float(int(parts[1]) * UNITS[parts[2]])


def watch(
    branch: Annotated[
        str | None,
        typer.Option(help="A branch whose commits have new data: origin/main. It is fetched."),
    ] = None,
    folder: Annotated[
        Path | None,
        typer.Option(help="A folder in VOC layout where images arrive, such as data/voc."),
    ] = None,
    every: Annotated[str, typer.Option(help="Time between two looks: 30s, 5m, 2h, 1d.")] = "5m",
    settled: Annotated[
        str, typer.Option(help="--folder: time without a change after which it is complete.")
    ] = "2m",
    once: Annotated[
        bool, typer.Option("--once", help="Look once, and end with the exit status of the run.")
    ] = False,
) -> None:
    """Start a run where the data are no longer those of the champion, until stopped.

    A run of a branch works in a worktree at its commit, a run of a folder in the workspace. Data
    that the gate has decided on start no other run; data whose runs fail start three.
    """
    if (branch is None) == (folder is None):
        raise typer.BadParameter("name one of --branch and --folder.")
    interval, quiet = seconds(every), seconds(settled)
    root = checkout()
    from segops.operate import triggers

    if folder is not None:
        source: triggers.Source = triggers.Folder(folder, quiet)
    else:
        assert branch is not None
        source = triggers.Branch(branch)
    raise typer.Exit(triggers.watch(root, source, interval, once=once))
