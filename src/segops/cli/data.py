"""`segops data`: downloads or replaces the data set."""

from __future__ import annotations

import logging
from pathlib import Path
from typing import Annotated, Literal

import typer

from segops.cli.common import checkout, console

app = typer.Typer(help="Download or replace the data set.", no_args_is_help=True)
log = logging.getLogger("segops")


@app.command("fetch")
def data_fetch(
    name: Annotated[Literal["voc2012", "voc2007", "sbd"], typer.Argument(help="The data set.")],
    mirror: Annotated[
        str | None, typer.Option(help="Address of a directory that holds the same archives.")
    ] = None,
) -> None:
    """Download VOC 2012, VOC 2007 or SBD (the 10,582-image trainaug list) and track it."""
    from segops import paths, pipeline
    from segops.voc.fetch import DATASETS, fetch

    root, target = _data_target()
    pipeline.require_tracked(root, target)
    fetch(DATASETS[name], root / target, root / paths.STATE / "downloads", mirror)
    _track(root, target)


@app.command("use")
def data_use(
    path: Annotated[Path, typer.Argument(help="A data set in VOC layout.")],
) -> None:
    """Copy your own data set in VOC layout into place and track it."""
    from segops import pipeline
    from segops.voc.use import use

    root, target = _data_target()
    if path.resolve() != (root / target).resolve():
        pipeline.require_tracked(root, target)
    use(path, root / target)
    _track(root, target)


def _data_target() -> tuple[Path, Path]:
    from segops.params.file import load_params

    root = checkout()
    return root, Path(load_params(root).data.path)


def _track(root: Path, target: Path) -> None:
    from segops import pipeline
    from segops.voc.layout import open_layout

    digest = pipeline.track_data(root, target, log.debug)
    counts = ", ".join(
        f"{len(ids)} {split}" for split, ids in open_layout(root / target).splits().items()
    )
    console.say(
        f"{target} holds {counts} images; DVC tracks it as {digest}.\n"
        f"Next: `git add {target}.dvc`, check data.classes and validate.required_classes in "
        "params.yaml, then `segops run`."
    )
