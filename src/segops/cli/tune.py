"""The commands that propose changes of ``params.yaml``: recipes and `segops tune`."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.markup import escape
from rich.syntax import Syntax
from rich.table import Table

from segops.cli.common import checkout, console

if TYPE_CHECKING:
    from segops.edit import Edit

app = typer.Typer(
    help="Find a learning rate, a batch size or other parameter values by measuring.",
    no_args_is_help=True,
)
UNCHANGED = "params.yaml already has these values."
SUGGESTION = "the suggestion"
"""What error messages call a value that segops suggests."""
Apply = Annotated[bool, typer.Option("--apply", help="Write the suggestion into params.yaml.")]


def list_recipes() -> None:
    """List the recipes that `segops run --recipe` takes."""
    from segops.recipes import every

    table = Table("recipe", "network", "mIoU aimed at")
    for recipe in every(checkout()):
        aim = recipe.about.aim
        figure = "none published" if aim.miou is None else f"{aim.miou:.1f} %"
        table.add_row(recipe.name, recipe.about.title, figure)
    console.print(table)
    console.say(
        "The files in recipes/ name the sources of the figures and the differences from them."
    )


def put_recipe(root: Path, name: str, check: bool) -> None:
    """Show the changes that a recipe, by its name or path, makes; write them unless `check`."""
    from segops.recipes import doubts, find, put_over

    recipe = find(root, name)
    edit = put_over(root, recipe)
    about = recipe.about
    figure = "no published figure" if about.aim.miou is None else f"mIoU {about.aim.miou:.1f} %"
    console.say(
        f"Recipe [bold]{escape(recipe.name)}[/]: {escape(about.title)}. Aim: {figure} after "
        f"{about.aim.iterations:,} iterations.",
        markup=True,
    )
    table = Table("parameter", "is", "becomes")
    for change in edit.changes:
        table.add_row(change.key, _cell(change.old), _cell(change.new))
    if edit.changes:
        console.print(table)
    else:
        console.say(UNCHANGED)
    for sentence in doubts(root, recipe, edit.settings):
        console.say(f"[yellow]warning:[/] {escape(sentence)}", markup=True)
    if check:
        console.say("The recipe is usable. Nothing was written.")
        return
    edit.write()
    if edit.changes:
        console.say("params.yaml is changed; `git diff params.yaml` shows it.")


@app.command("lr")
def tune_lr(
    low: Annotated[float, typer.Option(help="First learning rate.")] = 1e-6,
    high: Annotated[float, typer.Option(help="Last learning rate.")] = 1.0,
    steps: Annotated[int, typer.Option(min=10, help="Optimiser steps of the sweep.")] = 100,
    apply: Apply = False,
) -> None:
    """Raise the learning rate step by step and show where the loss falls and where it diverges."""
    from segops.edit import plan
    from segops.params.file import load_params
    from segops.runtime.errors import SegopsError
    from segops.tune.rate import range_test

    root = checkout()
    found, picture = range_test(root, load_params(root), low, high, steps)
    table = Table("learning rate", "", title="Learning-rate range test", title_justify="left")
    for rate, what in (
        (found.steepest, "the loss falls fastest"),
        (found.cautious, "a factor of 10 below divergence"),
        (found.divergence, "the loss diverges"),
    ):
        table.add_row("none" if rate is None else f"{rate:.1e}", what)
    console.print(table)
    console.say(f"The curve: {picture}")
    if found.suggestion is None:
        raise SegopsError(
            f"The loss never fell between {low:g} and {high:g}: no suggestion. Try more --steps, "
            "or a higher --high."
        )
    _finish(plan(root, {"train.lr": found.suggestion}, SUGGESTION), apply)


@app.command("batch")
def tune_batch(
    most: Annotated[int, typer.Option(min=1, help="Largest batch of a device.")] = 1024,
    memory: Annotated[
        float | None,
        typer.Option(min=0, help="GiB that a batch may take (CPU); default: 90 % of free memory."),
    ] = None,
    apply: Apply = False,
) -> None:
    """Find the largest batch that fits into memory, and the smallest that is about as fast."""
    from segops.edit import plan
    from segops.params.file import load_params
    from segops.tune.batch import find_batch_size

    root = checkout()
    found = find_batch_size(
        root, load_params(root), most, None if memory is None else int(memory * 2**30)
    )
    table = Table(
        "batch size", "images/s", "memory", title="Batch sizes of a device", title_justify="left"
    )
    for size, measured in found.attempts.items():
        if measured is None:
            table.add_row(str(size), "", "does not fit")
        else:
            gigabytes = f"{measured.memory / 2**30:.2f} GiB"
            table.add_row(str(size), f"{measured.images_per_second:.1f}", gigabytes)
    console.print(table)
    whole = "" if found.devices == 1 else f" over {found.devices} devices"
    console.say(
        f"Largest batch{whole}: {found.largest}. Smallest batch that is about as fast as any: "
        f"{found.suggestion} (training steps alone, without loading of samples).\n"
        "With another batch size, choose the learning rate again: `segops tune lr`."
    )
    _finish(plan(root, {"train.batch_size": found.suggestion}, SUGGESTION), apply)


@app.command("search")
def tune_search(
    trials: Annotated[
        int | None, typer.Option(min=1, help="Trials in all, in place of tune.trials.")
    ] = None,
    apply: Apply = False,
) -> None:
    """Search the ranges under `tune` in params.yaml; an interrupted search continues."""
    from segops.params.file import load_params
    from segops.tune.search import PICTURE, search

    root = checkout()
    found = search(root, load_params(root), trials)
    keys = list(found.best.values)
    table = Table(
        "trial", "outcome", "selection mIoU", *keys, title=found.study, title_justify="left"
    )
    for trial in found.trials:
        score = "" if trial.score is None else f"{trial.score:.4f}"
        cells = [_cell(trial.values.get(key)) for key in keys]
        style = "bold" if trial.number == found.best.number else None
        table.add_row(str(trial.number), trial.outcome, score, *cells, style=style)
    console.print(table)
    console.say(f"The plot: {PICTURE}")
    if found.mlflow_run is not None:
        console.say(f"MLflow run {found.mlflow_run}, with a nested run per trial.")
    console.say(
        f"Best: trial {found.best.number}. Chosen by selection mIoU; `segops run` measures it on "
        "val."
    )
    _finish(found.edit, apply)


def _finish(edit: Edit, apply: bool) -> None:
    if not edit.changes:
        console.say(UNCHANGED)
        return
    if console.is_terminal:
        console.print(Syntax(edit.diff(), "diff", background_color="default"))
    else:
        console.say(edit.diff())
    if apply:
        edit.write()
        console.say("Written into params.yaml.")
    else:
        console.say("--apply writes this into params.yaml.")


def _cell(value: object) -> str:
    import json

    if isinstance(value, float):
        return f"{value:.6g}"
    return value if isinstance(value, str) else json.dumps(value)
