"""The command `card`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from segops.cli.common import checkout, console


def card(
    version: Annotated[str, typer.Argument(help="Its number, or an alias.")] = "champion",
    output: Annotated[
        Path | None,
        typer.Option(help="Write README.md and its pictures into this directory, print nothing."),
    ] = None,
    update: Annotated[
        bool, typer.Option("--update", help="Bring the card in MLflow up to date as well.")
    ] = False,
) -> None:
    """Print the model card of a version."""
    root = checkout()
    from segops import files
    from segops.params.file import load_params
    from segops.record.tracking import session
    from segops.release import publish_card
    from segops.release.ledger import Ledger
    from segops.release.resolve import numbered

    settings = load_params(root).registry
    with session(root, settings, create=False) as store:
        ledger = Ledger(store, root, settings.model)
        found = numbered(store, settings.model, version)
        made = publish_card.make(ledger, found, settings.card)
        if update:
            publish_card.publish(ledger, found, settings.card)
    if output is None:
        console.print(made.page, soft_wrap=True)
        return
    for name, content in made.files.items():
        files.write_bytes(output / name, content)
    console.say(f"{output / publish_card.FILE} is written.")
