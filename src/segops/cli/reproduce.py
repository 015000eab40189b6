"""The command `reproduce`."""

from __future__ import annotations

from typing import Annotated

import typer

from segops.cli.common import checkout, console


def reproduce(
    version: Annotated[str, typer.Argument(help="Its number, or an alias such as champion.")],
    tolerance: Annotated[
        float, typer.Option(min=0, max=1, help="Largest difference of mIoU.")
    ] = 0.01,
    keep: Annotated[
        bool, typer.Option("--keep", help="Keep the worktree in which it was made.")
    ] = False,
    trust_tags: Annotated[
        bool,
        typer.Option(
            "--trust-tags", help="Run what the version's tags name where no statement does."
        ),
    ] = False,
) -> None:
    """Make a registered version again from its lineage, and compare weights, bundle and mIoU.

    The outcome is written into the ledger. The exit status is 0 for the same bits and for mIoU
    within the tolerance, else 1.
    """
    root = checkout()
    from segops.operate.reproduce import reproduce as make_again

    result = make_again(root, version, tolerance, console.say, keep, trust_tags)
    for one in result.differs:
        console.say(f"Differs: {one}")
    if result.kept is not None:
        console.say(f"The worktree is kept: {result.kept}")
    if not result.confirmed:
        raise typer.Exit(1)
