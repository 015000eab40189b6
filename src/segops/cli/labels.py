"""`segops data labels`: the label audit."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal

import typer
from rich.table import Table

from segops.cli.common import checkout, console

SHOWN = 10


def labels(
    model: Annotated[
        str | None,
        typer.Option(
            help="A model that judges: models:/NAME/VERSION, models:/NAME@ALIAS, a bundle."
        ),
    ] = None,
    split: Annotated[
        Literal["train", "val", "both"], typer.Option(help="What is judged.")
    ] = "both",
    folds: Annotated[int, typer.Option(min=2, max=20, help="Trainings, without --model.")] = 3,
    epochs: Annotated[
        int | None, typer.Option(min=1, help="Length of each training; default: as in params.yaml.")
    ] = None,
    most: Annotated[
        int | None, typer.Option(min=1, help="Number of suspects; default: a twentieth.")
    ] = None,
    out: Annotated[Path | None, typer.Option(help="Directory of the results.")] = None,
    device: Annotated[str, typer.Option(help="Where to predict: auto, cpu, cuda.")] = "auto",
) -> None:
    """Rank images by how likely their labels are wrong, by models that did not see them.

    Without --model each image is judged by a model that is trained on the images of other folds.
    """
    from segops.label_check.audit import PAGE, SUSPECTS, TABLE, audit_labels
    from segops.params.file import load_params
    from segops.words import counted

    root = checkout()
    splits = ("train", "val") if split == "both" else (split,)
    found = audit_labels(
        root, load_params(root), splits, out or root / "reports",
        model=model, folds=folds, epochs=epochs, most=most, device=device,
    )  # fmt: skip
    table = Table("rank", "image", "split", "score", "segments", title="Suspects")
    for rank, row in enumerate(found.rows[: min(SHOWN, len(found.suspects))], 1):
        score = "" if row.score is None else f"{row.score:.3f}"
        table.add_row(str(rank), row.image_id, row.split, score, str(len(row.segments)))
    console.print(table)
    if found.left_out:
        console.say(
            f"{counted(len(found.left_out), 'image')} left out: the model was trained on them."
        )
    console.say(
        f"{counted(len(found.rows), 'image')} judged. Look at {found.directory / PAGE}; all is in "
        f"{found.directory / TABLE}.\n{found.directory / SUSPECTS} lists the suspects, "
        f"{counted(len(found.suspects), 'image')}: `segops data use PATH --without FILE` leaves "
        "them out."
    )
    if "val" in splits:
        console.say(
            "`dvc repro --force --single-item evaluate` sets the suspects of val apart on the "
            "evaluation page."
        )
