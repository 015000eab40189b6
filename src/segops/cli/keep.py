"""The commands that keep a record: backup and restore."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from segops.cli.common import checkout, console
from segops.words import counted


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
    console.say(f"{file}: {done.bytes / 1e6:.1f} MB, read again and found as it was written.")
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
