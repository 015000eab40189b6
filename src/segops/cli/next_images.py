"""`segops data next`: which unlabelled images to annotate next."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer
from rich.table import Table

from segops.cli.common import checkout, console, printable
from segops.cli.options import Device, Model
from segops.runtime.errors import SegopsError

SHOWN = 10


def next_images(
    count: Annotated[int, typer.Argument(metavar="N", min=1, help="How many images to choose.")],
    images: Annotated[
        Path, typer.Option(metavar="DIRECTORY", help="Unlabelled images; sub-directories too.")
    ],
    model: Model = None,
    output: Annotated[
        Path, typer.Option(help="Directory of the table, the page and the drafts.")
    ] = Path("next"),
    overwrite: Annotated[
        bool, typer.Option("--overwrite", help="Replace an earlier choice in the output.")
    ] = False,
    device: Device = "auto",
) -> None:
    """Choose images to annotate: the model is unsure of them, and they are unlike the others.

    Writes next.csv, next.html, and voc/ for a labelling tool: the images with the model's masks as
    drafts. Images of the data set, and near-duplicates, are left out.

    Images that cannot be read are named, the others are ranked, and the exit status is 1.
    """
    from segops.annotate.drafts import FOLDER, PAGE, TABLE
    from segops.annotate.next_images import choose_next
    from segops.params.file import load_params
    from segops.predict.bundle import load_bundle
    from segops.release.resolve import resolved
    from segops.voc.layout import open_layout
    from segops.words import counted

    root = checkout()
    settings = load_params(root)
    layout = open_layout(root / settings.data.path, settings.data.reading)
    with resolved(model, root) as bundle:
        found = choose_next(
            images, layout, load_bundle(bundle, device), count, output,
            overwrite=overwrite, pictures=settings.report.pictures, model=model or "the champion",
        )  # fmt: skip
    table = Table("rank", "image", "uncertainty", "distance", title="Next", title_justify="left")
    for rank, one in enumerate(found.images[:SHOWN], 1):
        table.add_row(str(rank), one.name, f"{one.uncertainty:.3f}", f"{one.distance:.3f}")
    console.print(table)
    of = found.unlabelled
    console.say(
        f"{counted(len(found.images), 'image')} of {of.total} chosen; left out: {of.known} in the "
        f"data set, {of.repeated} that repeat another.\nLook at {output / PAGE}; all is in "
        f"{output / TABLE}. Give {output / FOLDER} to a labelling tool."
    )
    if found.failed:
        listed = "\n  ".join(printable(failure, lines=False) for failure in found.failed)
        raise SegopsError(f"{counted(len(found.failed), 'image')} could not be read:\n  {listed}")
