"""The command `ledger verify`."""

from __future__ import annotations

import typer

from segops.cli.common import checkout, console

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
