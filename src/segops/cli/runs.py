"""Runs in worktrees of their own: the options of `segops run`, and `segops runs`."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.table import Table

from segops.cli.common import checkout, console
from segops.runtime.errors import SegopsError
from segops.words import first_line

if TYPE_CHECKING:
    from segops.operate.runs import Run

app = typer.Typer(
    help="Runs in git worktrees of their own: those of `run --isolated` and of deployments.",
    no_args_is_help=True,
)
Isolated = Annotated[
    bool,
    typer.Option(
        "--isolated", help="Run what is committed, in a git worktree; this checkout stays free."
    ),
]
Revision = Annotated[
    str | None, typer.Option(help="With --isolated: the commit to run; without it, HEAD.")
]
Overrides = Annotated[
    list[str] | None,
    typer.Option(
        "--set", metavar="KEY=VALUE", help="With --isolated: another parameter; may be repeated."
    ),
]
Name = Annotated[
    str | None,
    typer.Option(help="With --isolated: the run's name, and its branch runs/NAME."),
]
Project = Annotated[
    Path | None,
    typer.Option(
        metavar="DIR", help="Run the workspace in DIR, a project of this checkout: another model."
    ),
]
Wait = Annotated[
    bool,
    typer.Option(help="Wait while another run is under way here; else that is an error."),
]


def run_options(
    root: Path,
    isolated: bool,
    revision: str | None,
    overrides: Sequence[str] | None,
    name: str | None,
    recipe: str | None,
) -> dict[str, Any]:
    """Return the parameters of the flow for the options of `segops run`.

    Raises:
        SegopsError: The options do not fit together, or one of them is not usable.
    """
    if not isolated:
        given = {"--revision": revision, "--set": overrides, "--name": name}
        if found := [option for option, value in given.items() if value]:
            raise SegopsError(f"{', '.join(found)}: this belongs to --isolated.")
        return {}
    if recipe is not None:
        raise SegopsError(
            "--recipe writes into this checkout's params.yaml, and --isolated runs what is "
            "committed. Commit the recipe's parameters, or name them with --set."
        )
    from segops.operate import runs, worktree

    worktree.commit_of(root, revision or "HEAD")
    if name is not None:
        runs.require_name(root, name)
    values = parsed(overrides or [])
    return {"isolated": True, "revision": revision, "overrides": values, "name": name}


def parsed(overrides: Sequence[str]) -> dict[str, Any]:
    """Return parameters by dotted key from texts `KEY=VALUE`; the values are YAML.

    Raises:
        SegopsError: A text is not of this form.
    """
    import yaml

    from segops.params import yaml_guard

    values: dict[str, Any] = {}
    for text in overrides:
        key, equals, value = text.partition("=")
        if not equals or not key.strip():
            raise SegopsError(f"--set {text}: expected KEY=VALUE, such as train.lr=0.01.")
        try:
            values[key.strip()] = yaml_guard.load(value)
        except (yaml.YAMLError, ValueError) as error:
            raise SegopsError(
                f"--set {text}: the value is no YAML: {first_line(error)}. Quote it."
            ) from None
    return values


@app.command("list")
def list_runs() -> None:
    """List the runs in worktrees, the newest first."""
    from segops.operate.runs import every

    found = every(checkout())
    if not found:
        console.say("No runs. `segops run --isolated` makes one; so does a schedule.")
        return
    table = Table("run", "commit", "state", "version", "started", "by")
    for run in found:
        table.add_row(*map(str, (
            run.name, run.commit[:12], _state(run), run.version, run.started, run.started_by,
        )))  # fmt: skip
    console.print(table)


def _state(run: Run) -> str:
    return run.verdict if run.state == "finished" and run.verdict else run.state


@app.command()
def show(name: Annotated[str, typer.Argument(help="The run.")]) -> None:
    """Show what is known of a run."""
    from segops.operate import runs

    run, folder = runs.find(checkout(), name)
    tree, log = folder / runs.TREE, folder / runs.LOG
    overrides = ", ".join(f"{key}={value}" for key, value in run.overrides.items())
    for title, value in (
        ("run", run.name),
        ("state", _state(run)),
        ("revision", run.revision),
        ("commit", run.commit),
        ("parameters", overrides),
        ("started", f"{run.started} by {run.started_by}"),
        ("ended", run.ended),
        ("version", f"{run.model} {run.version}".strip()),
        ("result", f"{run.result} (branch runs/{run.name})" if run.result else ""),
        ("why", run.message),
        ("log", str(log) if log.is_file() else ""),
        ("worktree", str(tree) if tree.is_dir() else ""),
    ):
        if value:
            console.say(f"{title + ':':<12}{value}")


@app.command("log")
def show_log(name: Annotated[str, typer.Argument(help="The run.")]) -> None:
    """Print the log of a run."""
    from segops.operate import runs

    _, folder = runs.find(checkout(), name)
    try:
        text = (folder / runs.LOG).read_text(encoding="utf-8", errors="replace")
    except FileNotFoundError:
        raise SegopsError(f"{folder / runs.LOG}: no such file. The run logged nothing.") from None
    console.say(text.rstrip("\n"))


@app.command()
def clean(
    name: Annotated[str | None, typer.Argument(help="The run.")] = None,
    all_finished: Annotated[
        bool, typer.Option("--all-finished", help="All runs that are not under way.")
    ] = False,
) -> None:
    """Remove the worktree and the log of runs that have ended; their branches stay."""
    from segops.operate import runs

    if (name is None) != all_finished:
        raise SegopsError("Name a run, or give --all-finished.")
    removed = runs.clean(checkout(), name)
    console.say(f"Removed: {', '.join(removed)}." if removed else "Nothing to remove.")
