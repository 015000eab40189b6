"""The commands that keep a record: backup, restore and clean."""

from __future__ import annotations

import re
import sys
from itertools import groupby
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.table import Table

from segops.cli.common import checkout, console
from segops.runtime.errors import SegopsError
from segops.words import counted, shown_size

if TYPE_CHECKING:
    from segops.operate.clean import Plan, Wanted

SECONDS = {"h": 3600, "d": 86400, "w": 7 * 86400}
BYTES = {"KB": 10**3, "MB": 10**6, "GB": 10**9, "TB": 10**12}
MOST_NAMED = 20
"""Most versions, runs and worktrees that a clean-up names one by one."""


def backup(
    file: Annotated[Path, typer.Argument(help="The backup; one that is there is replaced.")],
    with_data: Annotated[
        bool, typer.Option("--with-data", help="Add the versions' data out of DVC's cache.")
    ] = False,
) -> None:
    """Write record, named versions, ledger and parameters into one file, whole or not at all.

    Named is what an alias, the ledger, a pin or a later training names. Private keys are in no
    backup.
    """
    root = checkout()
    from segops.operate.backup import backup as write

    done = write(root, file.absolute(), with_data)
    for note in done.notes:
        console.say(note)
    for model, numbers in done.versions.items():
        console.say(f"{model}: {counted(len(numbers), 'version')} ({', '.join(numbers)}).")
    console.say(f"{file}: {shown_size(done.bytes)}, read again and found as it was written.")
    console.say(f"SHA-256 of its manifest: {done.sha256}")


def restore(
    file: Annotated[Path, typer.Argument(help="A file that `segops backup` wrote.")],
    into: Annotated[
        Path | None,
        typer.Option(help="A checkout without a record, or an empty directory."),
    ] = None,
) -> None:
    """Restore a backup into a checkout that has no record; check all of it before.

    Files of the checkout that are there stay as they are.
    """
    root = checkout() if into is None else into.absolute()
    from segops.operate.restore import restore as read

    done = read(root, file)
    console.say(f"SHA-256 of the manifest: {done.sha256}, made {done.manifest.created}.")
    for name in done.kept:
        console.say(f"{name}: stays as it is here; the backup's is another.")
    for model, numbers in done.manifest.versions.items():
        console.say(
            f"{model}: {counted(len(numbers), 'version')} ({', '.join(numbers)}); "
            f"{done.entries.get(model, 0)} entries of its ledger verified."
        )
    console.say(f"{done.home} has the record now. `segops audit champion` looks at all of it.")


def clean(
    yes: Annotated[bool, typer.Option("--yes", help="Remove without asking.")] = False,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Only show what would be removed.")
    ] = False,
    older_than: Annotated[
        str, typer.Option(metavar="AGE", help="Only what is older: 30d, 12h, 2w.")
    ] = "30d",
    budget: Annotated[
        str | None,
        typer.Option(
            metavar="SIZE",
            help="Remove the oldest first, until all on this machine takes no more: 20GB, 500MB.",
        ),
    ] = None,
    rejected: Annotated[
        bool, typer.Option("--rejected", help="Also versions that the gate only ever refused.")
    ] = False,
    server: Annotated[
        bool, typer.Option("--server", help="Also what lies on MLflow's server, whoever made it.")
    ] = False,
) -> None:
    """Remove what no release needs: unnamed versions, runs and branches, unused data, old logs.

    The exit status is 1 where --budget cannot be kept.
    """
    root = checkout()
    wanted = _wanted(older_than, budget, rejected, server)
    from segops.operate import clean as module

    found = module.plan(root, wanted)
    _show(found)
    if found.pieces and not dry_run:
        if not yes and not _agreed():
            console.say("Nothing was removed. `segops clean --yes` removes it.")
            return
        found = module.clean(root, wanted, found)
        console.say(f"{shown_size(found.bytes)} removed{_on_server(found)}.")
    left = found.total - found.bytes
    if wanted.budget is not None and left > wanted.budget:
        raise SegopsError(
            f"{shown_size(left)} remain, more than the budget of {shown_size(wanted.budget)}: "
            f"releases or branches need them, or they are younger than {older_than} "
            f"({shown_size(found.young_bytes)})."
            + (f" --rejected frees up to {shown_size(found.refused)}." if found.refused > 0 else "")
        )


def _wanted(older_than: str, budget: str | None, rejected: bool, server: bool) -> Wanted:
    from segops.operate.clean import Wanted

    age = re.fullmatch(r"(\d+(?:\.\d+)?)([hdw])", older_than)
    if age is None:
        raise SegopsError(f"--older-than {older_than}: expected an age such as 30d, 12h or 2w.")
    size = re.fullmatch(r"(\d+(?:\.\d+)?)([KMGT]B)", budget) if budget is not None else None
    if budget is not None and size is None:
        raise SegopsError(f"--budget {budget}: expected a size such as 20GB or 500MB.")
    return Wanted(
        older_than=float(age[1]) * SECONDS[age[2]],
        budget=None if size is None else int(float(size[1]) * BYTES[size[2]]),
        rejected=rejected,
        server=server,
    )


def _show(found: Plan) -> None:
    """Print what a clean-up would remove, and what it leaves."""
    from segops.operate.clean import freed

    pieces = sorted(found.pieces, key=lambda piece: piece.kind)
    if pieces:
        table = Table("what", "number", "size", title="May go", title_justify="left")
        for kind, group in groupby(pieces, key=lambda piece: piece.kind):
            each = list(group)
            table.add_row(kind, str(len(each)), shown_size(freed(each)))
        console.print(table)
    shown = [piece for piece in pieces if piece.kind != "DVC's cache"]
    for piece in shown[:MOST_NAMED]:
        console.say(f"{piece.kind}: {piece.name}, {shown_size(piece.space.total)}")
    if len(shown) > MOST_NAMED:
        console.say(f"and {len(shown) - MOST_NAMED} more")
    for note in found.notes:
        console.say(note)
    if found.refused > 0:
        console.say(
            f"Versions that the gate only refused take {shown_size(found.refused)}: --rejected."
        )
    console.say(
        f"{shown_size(found.bytes)} of {shown_size(found.total)} would go{_on_server(found)}."
    )


def _on_server(found: Plan) -> str:
    return f", and {shown_size(found.server_bytes)} at {found.server}" if found.server else ""


def _agreed() -> bool:
    return sys.stdin.isatty() and typer.confirm("Remove it?")
