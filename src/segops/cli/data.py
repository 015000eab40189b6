"""`segops data`: downloads or replaces the data set."""

from __future__ import annotations

import logging
import shlex
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import typer

from segops.cli import diff, labels, next_images
from segops.cli.common import checkout, console
from segops.importers.formats import FORMATS

if TYPE_CHECKING:
    from segops.params.data import DataParams

app = typer.Typer(help="Download or replace the data set.", no_args_is_help=True)
app.command("labels")(labels.labels)
app.command("diff")(diff.diff)
app.command("next")(next_images.next_images)
Without = Annotated[
    Path | None,
    typer.Option(help="A file of image ids to leave out, such as suspects.txt."),
]
log = logging.getLogger("segops")


@app.command("fetch")
def data_fetch(
    name: Annotated[Literal["voc2012", "voc2007", "sbd"], typer.Argument(help="The data set.")],
    mirror: Annotated[
        str | None, typer.Option(help="Address of a directory that holds the same archives.")
    ] = None,
) -> None:
    """Download VOC 2012, VOC 2007 or SBD (the 10,582-image trainaug list) and track it."""
    from segops import paths
    from segops.importers.by_params import require_images_alone
    from segops.pipeline import tracked
    from segops.voc.fetch import DATASETS, fetch

    root, data = _placed()
    target = Path(data.path)
    require_images_alone(data, f"segops data fetch {name}")
    tracked.require_tracked(root, target)
    fetch(DATASETS[name], root / target, root / paths.STATE / "downloads", mirror)
    _track(root, target, data)


@app.command("use")
def data_use(
    path: Annotated[Path, typer.Argument(help="A data set in VOC layout.")],
    without: Without = None,
    strip: Annotated[
        bool,
        typer.Option(
            "--strip", help="Take the ids out of list lines such as 'JPEGImages/a.jpg 1'."
        ),
    ] = False,
) -> None:
    """Copy your own data set in VOC layout into place and track it."""
    from segops.importers.by_params import use_by_params
    from segops.pipeline import tracked

    root, data = _placed()
    target = Path(data.path)
    if without is not None or strip or path.resolve() != (root / target).resolve():
        tracked.require_tracked(root, target)
    use_by_params(data, path, root / target, _read_ids(without), strip)
    _track(root, target, data)


@app.command("import")
def data_import(
    form: Annotated[str, typer.Argument(metavar="FORMAT", help=f"{', '.join(FORMATS)}.")],
    source: Annotated[Path, typer.Argument(help="Its directory or file.")],
    images: Annotated[
        str | None,
        typer.Option(
            help="Photographs: a directory, here or below the source; for `folder` also a pattern."
        ),
    ] = None,
    masks: Annotated[
        str | None, typer.Option(help="folder: masks, a directory or a pattern such as '*/gt/*'.")
    ] = None,
    values: Annotated[
        str | None, typer.Option(help="folder: classes of values: 0=background,255=crack.")
    ] = None,
    colors: Annotated[
        Path | None,
        typer.Option(help="folder: a table of class names and colours; or voc: VOC's."),
    ] = None,
    threshold: Annotated[
        int | None,
        typer.Option(min=1, max=255, help="folder: grey values from this one on are class 1."),
    ] = None,
    classes: Annotated[
        str | None,
        typer.Option(help="All class names in id order: a,b,c; or voc: VOC's."),
    ] = None,
    merge: Annotated[
        list[str] | None, typer.Option(help="NAME=A,B: classes A and B become class NAME.")
    ] = None,
    ignore: Annotated[
        str | None, typer.Option(help="Labels that become void, separated by commas.")
    ] = None,
    lists: Annotated[
        Path | None,
        typer.Option(
            help="A directory of train.txt, val.txt, test.txt, one of them, or a YAML file."
        ),
    ] = None,
    share: Annotated[
        str | None, typer.Option(help="Shares of other splits than train: val=0.2,test=0.1.")
    ] = None,
    group: Annotated[
        str | None,
        typer.Option(help="Pattern; images whose ids match alike stay together: 'scene_(\\d+)'."),
    ] = None,
    stratify: Annotated[
        bool, typer.Option("--stratify", help="Spread each class evenly over the splits.")
    ] = False,
    without: Without = None,
) -> None:
    """Bring a data set of another format into VOC layout, put it into place and track it.

    Photographs keep their bytes. data.classes in params.yaml is set to the imported classes.
    """
    from segops.importers.by_params import require_images_alone
    from segops.importers.command import Options, run
    from segops.pipeline import tracked

    root, data = _placed()
    target = Path(data.path)
    require_images_alone(data, f"segops data import {form}")
    tracked.require_tracked(root, target)
    options = Options(
        images=images, masks=masks, values=values, colors=colors, threshold=threshold,
        classes=_listed(classes), merge=tuple(merge or ()), ignore=_listed(ignore), lists=lists,
        share=share, group=group, stratify=stratify, without=_read_ids(without),
    )  # fmt: skip
    imported, edit = run(form, source, root, root / target, options)
    for note in imported.notes:
        console.say(note)
    for change in edit.changes:
        console.say(f"params.yaml: {change.key} is {change.new}; it was {change.old}.")
    _track(root, target, data)


def _read_ids(path: Path | None) -> tuple[str, ...]:
    from segops.voc.layout import read_list

    return () if path is None else read_list(path)


def _listed(text: str | None) -> tuple[str, ...]:
    return tuple(filter(None, (part.strip() for part in (text or "").split(","))))


def _placed() -> tuple[Path, DataParams]:
    """The checkout and where its data set lies, which is no link."""
    from segops.params.file import load_params
    from segops.pipeline import tracked

    root = checkout()
    data = load_params(root).data
    tracked.require_no_link(root, Path(data.path))
    return root, data


def _track(root: Path, target: Path, data: DataParams) -> None:
    from segops.pipeline import tracked
    from segops.voc.layout import open_layout

    digest = tracked.track_data(root, target, log.debug)
    layout = open_layout(root / target, unlabelled=data.unlabelled)
    lists = layout.splits()
    if data.unlabelled is not None:
        lists[data.unlabelled] = layout.unlabelled_ids()
    counts = ", ".join(f"{len(ids)} {name}" for name, ids in lists.items())
    console.say(
        f"{target} holds {counts} images; DVC tracks it as {digest}.\n"
        f"Next: `git add {shlex.quote(f'{target}.dvc')}`, check data.classes and "
        "validate.required_classes in params.yaml, then `segops run`."
    )
