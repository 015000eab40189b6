"""The commands that prove a release: verify and audit."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.table import Table
from rich.text import Text

from segops.cli.common import checkout, console
from segops.cli.summary import show_decision

if TYPE_CHECKING:
    from segops.release.audit import Outcome

STYLES: dict[Outcome, str] = {"verified": "green", "broken": "red", "not to be had": "yellow"}


def verify(
    statement: Annotated[
        Path, typer.Argument(help="The statement: decisions/NNNN.statement.zip of a run.")
    ],
    key: Annotated[
        Path | None, typer.Option(help="PEM file with the public key that must have signed it.")
    ] = None,
) -> None:
    """Verify the statement of a decision: decide again from its counts, check its signature.

    Needs no checkout and no network. The exit status is 1 where anything differs.
    """
    from segops.release.verify import verify as verify_statement

    verified = verify_statement(statement, key)
    stated = verified.stated
    console.say(
        f"{statement}: decision {stated.ledger.entry} of {stated.ledger.name} at {stated.registry} "
        f"on version {stated.version}, bundle {stated.bundle_digest}."
    )
    show_decision(verified.decision, stated.version)
    console.say(
        "The counts give mIoU, the IoU of each class and the comparisons as stated; these, with "
        "the rest of the evidence, give every check and the verdict."
    )
    console.say(
        "Only stated, not made again: which version was champion or best, or that none was; the "
        "validation of the data, the lineage, looks, licence, size and speed, boundary IoU and "
        "calibration error."
    )
    if verified.key is None:
        console.say("Not signed: anybody may have written it.")
    elif verified.is_vouched:
        console.say(f"Signed with the key given, {verified.key}.")
    else:
        console.say(
            f"The signature fits the key in the archive, {verified.key}. Nobody vouches for that "
            "key: --key names the public key of somebody whom you trust."
        )


def audit(
    version: Annotated[str, typer.Argument(help="The version's number, or an alias.")],
    key: Annotated[
        Path | None,
        typer.Option(help="PEM file with the public key that must have signed its statement."),
    ] = None,
) -> None:
    """Compute every link of a version's lineage again, from the registry to the data.

    The exit status is 1 where a link is broken. A link that is not to be had here is shown and
    counted, and breaks nothing.
    """
    root = checkout()
    from segops.release.audit import audit as audit_version

    found = audit_version(root, version, key)
    table = Table(title=f"{found.model} version {found.version}", title_justify="left")
    table.add_column("link", no_wrap=True)
    table.add_column("result", no_wrap=True)
    table.add_column("what", overflow="fold")
    for link in found.links:
        table.add_row(link.name, Text(link.outcome, STYLES[link.outcome]), link.sentence)
    console.print(table)
    broken, missing = found.names("broken"), found.names("not to be had")
    console.say(
        f"{len(found.names('verified'))} links verified, {len(broken)} broken, {len(missing)} not "
        "to be had."
    )
    if broken:
        raise typer.Exit(1)
