"""`segops compare`: compares runs, versions or bundles in a table and on a page."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.table import Table

from segops.cli.common import checkout, console
from segops.cli.metrics import metrics_table
from segops.report.figures import level
from segops.words import counted

if TYPE_CHECKING:
    from segops.report.page_inputs import Opponent


def compare(
    models: Annotated[
        list[str],
        typer.Argument(
            metavar="RUN RUN...",
            help="Run ids (or how they begin), run names, models:/NAME/VERSION, "
            "models:/NAME@ALIAS, bundle directories, or `workspace`.",
            show_default=False,
        ),
    ],
    output: Annotated[
        Path | None,
        typer.Option(
            help="The page; left out: reports/comparison.html of this checkout.",
            show_default=False,
        ),
    ] = None,
) -> None:
    """Score models on this checkout's val and compare the first with each of the others.

    Every model is loaded from its artifact and scored on the images that none of them was trained
    on.
    """
    root = checkout()
    from segops.release.compare_models import PAGE
    from segops.release.compare_models import compare as compare_models

    page = root / PAGE if output is None else output
    compared = compare_models(models, root, page)
    images = f"{counted(compared.images, 'image')} of val"
    if compared.excluded:
        images += f", without {compared.excluded} that a model was trained on"
    table = Table(title=f"On {images}", title_justify="left")
    table.add_column("model", overflow="fold")
    table.add_column("mIoU", justify="right")
    table.add_column("interval", justify="right", no_wrap=True)
    table.add_column("mIoU of the\nfirst minus this", justify="right", no_wrap=True)
    differences = ["", *(_difference(opponent) for opponent in compared.opponents)]
    for name, tree, difference in zip(
        compared.names, compared.evaluations, differences, strict=True
    ):
        table.add_row(
            name,
            _figure(tree["miou"]),
            _interval(tree["miou_low"], tree["miou_high"]),
            difference,
        )
    console.print(table)
    console.print(metrics_table(compared.names, compared.evaluations))
    if compared.speeds:
        console.print(_speed_table(compared.speeds))
    at = level(compared.opponents[0].confidence)
    console.say(f"Intervals: bootstrap over images at {at}; differences use the same resamples.")
    console.say(f"Page: {compared.page}")


def _speed_table(speeds: Sequence[Mapping[str, Any]]) -> Table:
    """A row a model: time of an image, memory, parameters, size."""
    table = Table(title="Speed and memory", title_justify="left")
    table.add_column("model", overflow="fold")
    for heading in ("p50, ms", "p95, ms", "peak MiB", "parameters", "bundle,\nMiB"):
        table.add_column(heading, justify="right", no_wrap=True)
    for one in speeds:
        peak, parameters = one["peak_mib"], one["parameters"]
        table.add_row(
            one["name"],
            f"{one['milliseconds_p50']:.1f}",
            f"{one['milliseconds_p95']:.1f}",
            "" if peak is None else f"{peak:.0f}",
            "" if parameters is None else f"{parameters:,}",
            f"{one['mib']:.1f}",
        )
    return table


def _difference(opponent: Opponent) -> str:
    miou = opponent.miou
    if math.isnan(miou.low):
        return f"{miou.difference:+.3f}"
    return f"{miou.difference:+.3f}\n{miou.low:+.3f} to {miou.high:+.3f}"


def _interval(low: float | None, high: float | None) -> str:
    return "" if low is None or high is None else f"{low:.3f} to {high:.3f}"


def _figure(value: float | None) -> str:
    return "" if value is None else f"{value:.3f}"
