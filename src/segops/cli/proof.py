"""The commands that prove a release: verify."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from segops.cli.common import console
from segops.cli.summary import show_decision


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
    console.say("The counts give every figure, every check and the verdict as stated.")
    if verified.key is None:
        console.say("Not signed: anybody may have written it.")
    elif verified.is_vouched:
        console.say(f"Signed with the key given, {verified.key}.")
    else:
        console.say(
            f"The signature fits the key in the archive, {verified.key}. Nobody vouches for that "
            "key: --key names the public key of somebody whom you trust."
        )
