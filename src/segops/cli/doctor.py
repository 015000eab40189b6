"""The command doctor."""

from __future__ import annotations

import json
from dataclasses import asdict
from typing import Annotated

import typer
from rich.table import Table
from rich.text import Text

from segops.cli.common import checkout, console
from segops.words import counted

COLOURS = {"ok": "green", "warning": "yellow", "fault": "bold red"}


def doctor(
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
) -> None:
    """Show what is installed, reachable, writable, configured and safe, and what to do.

    The exit status is 1 when there is a fault.
    """
    root = checkout()
    from segops.operate.doctor import diagnose

    findings = diagnose(root)
    faults = [one for one in findings if one.state == "fault"]
    if as_json:
        console.out(json.dumps([asdict(one) for one in findings], indent=2))
    else:
        table = Table("", "what", "state", "found")
        groups: set[str] = set()
        for one in findings:
            group = "" if one.group in groups else one.group
            groups.add(one.group)
            table.add_row(group, one.name, Text(one.state, COLOURS[one.state]), one.words)
        console.print(table)
        warnings = sum(one.state == "warning" for one in findings)
        console.say(f"{counted(len(faults), 'fault')}, {counted(warnings, 'warning')}.")
    if faults:
        raise typer.Exit(1)
