"""The commands of a model's life: run, schedule, stage, record, promote, rollback."""

from __future__ import annotations

import importlib
import os
from contextlib import nullcontext
from typing import TYPE_CHECKING, Annotated

import typer

from segops.cli.common import checkout, console, flow_module
from segops.cli.summary import show_decision, show_summary
from segops.cli.tune import put_recipe
from segops.runtime.errors import SegopsError

if TYPE_CHECKING:
    from segops.release.gate import Decision

REJECTED = 3
"""Exit status of `run` and `promote` when the gate does not promote; 1 is an error."""


def run(
    force: Annotated[bool, typer.Option(help="Run every stage again, changed or not.")] = False,
    recipe: Annotated[
        str | None,
        typer.Option(help="Write this recipe into params.yaml first; `segops recipes` lists them."),
    ] = None,
    check: Annotated[
        bool, typer.Option("--check", help="With --recipe: only show what would change.")
    ] = False,
) -> None:
    """Run the whole pipeline: stages, record, register, gate, promote."""
    root = checkout()
    if recipe is not None:
        put_recipe(root, recipe, check)
    elif check:
        raise SegopsError("--check belongs to --recipe; `segops status` shows what would run.")
    if check:
        return
    summary = flow_module(root, "once").run(root, force=force)
    show_summary(root, summary)
    _exit_unless_promoted(summary.decision)


def schedule(
    cron: Annotated[str, typer.Option(help='When, as a cron expression: "0 3 * * 1".')],
    timezone: Annotated[str, typer.Option(help="Time zone of the expression.")] = "UTC",
) -> None:
    """Serve the retraining flow on a schedule until stopped."""
    root = checkout()
    os.chdir(root)
    flow_module(root, "retrain").serve(cron, timezone)


def stage(
    name: Annotated[str, typer.Argument(help="The stage, as dvc.yaml names it.")],
    fresh: Annotated[
        bool, typer.Option(help="train: do not continue an interrupted training.")
    ] = False,
) -> None:
    """Run one stage in this process; DVC calls this, see dvc.yaml."""
    from segops import pipeline
    from segops.code import stage_names
    from segops.params.file import load_params
    from segops.train.launch import launch, takes_lock

    root = checkout()
    names = ["code", *stage_names()]
    if name not in names:
        raise SegopsError(f"no stage is called {name}; expected one of {', '.join(names)}.")
    if fresh:
        os.environ["SEGOPS_FRESH"] = "1"
    if name != "code":
        load_params(root)  # checks all sections; the stage reads only its own
    # Of the processes of a distributed training, one holds the lock.
    with pipeline.running_stage(root, name) if takes_lock(root, name) else nullcontext():
        if name == "train" and launch(root):
            return
        importlib.import_module(f"segops.stages.{name}").run(root)


def record(
    follow: Annotated[
        int | None,
        typer.Option(
            metavar="PID", help="Log a training live to MLflow until the process PID ends."
        ),
    ] = None,
) -> None:
    """Bring MLflow up to date with the workspace; a second call changes nothing."""
    root = checkout()
    if follow is not None:
        from segops.record.follow import follow as follow_training

        raise typer.Exit(follow_training(root, follow))
    from segops.record.update import record as record_run
    from segops.release import champion_evaluation

    recorded = record_run(root)
    champion_evaluation.refresh(root)
    state = "created" if recorded.created else "found"
    changed = ", ".join(recorded.changed) if recorded.changed else "nothing to add"
    console.say(f"MLflow run {recorded.run_id} {state}: {changed}.")


def promote() -> None:
    """Register the workspace's model, let the gate decide, and promote the model if it passes.

    The exit status is 3 when the gate rejects it or cannot decide.
    """
    root = checkout()
    from segops.record.update import record as record_run
    from segops.release import champion_evaluation, promotion
    from segops.release.register import register

    registered = register(root, record_run(root))
    decision = promotion.gate(root)
    promotion.promote(root, decision)
    champion_evaluation.refresh(root)
    show_decision(decision, registered.version)
    _exit_unless_promoted(decision)


def _exit_unless_promoted(decision: Decision) -> None:
    if decision.verdict in ("rejected", "inconclusive"):
        raise typer.Exit(REJECTED)


def rollback(
    reason: Annotated[str, typer.Option(help="Why; written into the ledger.")],
) -> None:
    """Withdraw the champion and restore the previous champion."""
    root = checkout()
    from segops.release import champion_evaluation, promotion

    result = promotion.rollback(root, reason)
    champion_evaluation.refresh(root)
    console.say(
        f"Version {result.withdrawn} is withdrawn; version {result.champion} is champion again."
    )
