"""The commands of a model's life: run, stage, record, promote, rollback."""

from __future__ import annotations

import importlib
import os
from collections.abc import Mapping
from contextlib import nullcontext
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from segops.cli.common import checkout, console, flow_module
from segops.cli.runs import Isolated, Name, Overrides, Project, Revision, Wait, run_options
from segops.cli.summary import show_decision, show_smoke, show_summary
from segops.cli.tune import put_recipe
from segops.runtime.errors import SegopsError

if TYPE_CHECKING:
    from segops.release.gate import Decision
    from segops.release.smoke import Smoke

REJECTED = 3
"""Exit status of `run` and `promote` when the gate does not promote, or the smoke test takes the
champion back; 1 is an error."""


def run(
    force: Annotated[bool, typer.Option(help="Run every stage again, changed or not.")] = False,
    recipe: Annotated[
        str | None,
        typer.Option(help="Write this recipe into params.yaml first; `segops recipes` lists them."),
    ] = None,
    check: Annotated[
        bool, typer.Option("--check", help="With --recipe: only show what would change.")
    ] = False,
    isolated: Isolated = False,
    revision: Revision = None,
    overrides: Overrides = None,
    name: Name = None,
    wait: Wait = True,
    project: Project = None,
) -> None:
    """Run the whole pipeline: stages, record, register, gate, promote."""
    root = checkout(project)
    options = run_options(root, isolated, revision, overrides, name, recipe) | {"wait": wait}
    if recipe is not None:
        put_recipe(root, recipe, check)
    elif check:
        raise SegopsError("--check belongs to --recipe; `segops status` shows what would run.")
    if check:
        return
    from segops.release import signing

    signing.signer()  # a key that cannot be used is named before anything runs
    summary = flow_module(root, "once").run(root, force=force, **options)
    show_summary(root, summary)
    _exit_unless_promoted(summary.decision, summary.smoke)


def stage(
    name: Annotated[str, typer.Argument(help="The stage, as dvc.yaml names it.")],
    fresh: Annotated[
        bool, typer.Option(help="train: do not continue an interrupted training.")
    ] = False,
) -> None:
    """Run one stage in this process; DVC calls this, see dvc.yaml."""
    from segops import failure

    with failure.handed_over():
        _run_stage(name, fresh)


def _run_stage(name: str, fresh: bool) -> None:
    from segops import logs, pipeline
    from segops.code import stage_names
    from segops.operate import ranks, turns
    from segops.params.constant import constant_params
    from segops.params.file import load_params
    from segops.train.launch import launch, takes_lock

    root = checkout()
    names = ["code", *stage_names()]
    if name not in names:
        raise SegopsError(f"no stage is called {name}; expected one of {', '.join(names)}.")
    if fresh:
        os.environ["SEGOPS_FRESH"] = "1"
    logs.about["stage"] = name
    if name != "code":
        load_params(root)  # checks all sections; the stage reads only its own
    # Of the processes of a distributed training, one holds the locks.
    holds = takes_lock(root, name)
    with (
        pipeline.running_stage(root, name) if holds else nullcontext(),
        turns.cards(root) if holds and name == "train" else nullcontext(),
    ):
        if holds and name == "train":
            ranks.announce(root)
        with constant_params(root, name) if holds else nullcontext():
            if name != "train" or not launch(root):
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
    _decide(checkout())


def _decide(root: Path) -> None:
    """Record and register the workspace's model, decide on it, and exit as `promote` does."""
    from segops import files, paths
    from segops.operate import results
    from segops.record.update import record as record_run
    from segops.release import champion_evaluation, promotion, signing
    from segops.release.register import register
    from segops.release.smoke import smoke

    signing.signer()  # as in `run`

    registered = register(root, record_run(root))
    decision = promotion.promote(root, promotion.gate(root))
    show_decision(decision, registered.version)
    tested = smoke(root)
    champion_evaluation.refresh(root)
    results.mark(root, str(registered.version), in_place=True)
    show_smoke(tested)
    written = root / paths.EVALUATION
    _tell(
        root, decision, tested, evaluation=files.read_json(written) if written.is_file() else None
    )
    _exit_unless_promoted(decision, tested)


def _tell(
    root: Path,
    decision: Decision,
    tested: Smoke | None,
    *lines: str,
    evaluation: Mapping[str, Any] | None = None,
) -> None:
    """Tell people, where `notify.by_hand` wants it."""
    from segops.operate import messages, notify

    links = [*lines, *messages.version_page(root, decision.model, decision.version)]
    message = messages.decided(decision, evaluation=evaluation, smoke=tested, links=links)
    if message is not None:
        notify.tell(root, message, by_hand=True)


def _exit_unless_promoted(decision: Decision, tested: Smoke | None) -> None:
    is_refused = decision.verdict in ("rejected", "inconclusive")
    if is_refused or (tested is not None and not tested.passed):
        raise typer.Exit(REJECTED)


def rollback(
    reason: Annotated[str, typer.Option(help="Why; written into the ledger.")],
    to: Annotated[
        str | None,
        typer.Option(help="The version to restore; without it, the release before the champion."),
    ] = None,
    champion: Annotated[
        str | None,
        typer.Option(
            help="The version to withdraw, where it became champion since you last looked."
        ),
    ] = None,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Check everything and change nothing.")
    ] = False,
) -> None:
    """Withdraw the champion and restore an earlier champion."""
    root = checkout()
    from segops.release import champion_evaluation
    from segops.release.rollback import rollback as roll_back

    result = roll_back(root, reason, to=to, champion=champion, dry_run=dry_run)
    if dry_run:
        withdraw = f"withdraw version {result.withdrawn} and " if result.withdrawn else ""
        then = f"make version {result.champion} champion again" if result.champion else "set none"
        console.say(f"A rollback would {withdraw}{then}. Nothing was changed.")
        return
    champion_evaluation.refresh(root)
    before = "An interrupted rollback was completed: " if result.completed else ""
    withdrawn = f"version {result.withdrawn} is withdrawn; " if result.withdrawn else ""
    after = (
        f"version {result.champion} is champion again"
        if result.champion
        else "there is no champion"
    )
    sentence = f"{before}{withdrawn}{after}."
    sentence = sentence[0].upper() + sentence[1:]
    console.say(sentence)
    from segops.operate import messages, notify

    notify.tell(root, messages.Message("withdrawn", "A rollback", (sentence, reason)), by_hand=True)


def adopt(
    version: Annotated[str, typer.Argument(help="The version with the alias champion.")],
    reason: Annotated[str, typer.Option(help="Why it is trusted; written into the ledger.")],
) -> None:
    """Take in a champion whose alias segops did not set."""
    root = checkout()
    from segops.release import champion_evaluation
    from segops.release.rollback import adopt as take_in

    take_in(root, version, reason)
    champion_evaluation.refresh(root)
    console.say(f"Version {version} is taken in as champion.")


def reinstate(
    version: Annotated[str, typer.Argument(help="The version that a rollback withdrew.")],
    reason: Annotated[str, typer.Option(help="Why it may come back; written into the ledger.")],
) -> None:
    """Undo the withdrawal of a version, and let the gate decide on it anew.

    The exit status is 3 when the gate rejects it or cannot decide.
    """
    root = checkout()
    from segops.release.reinstate import reinstate as undo_withdrawal

    is_here = undo_withdrawal(root, version, reason)
    console.say(f"Version {version} is no longer withdrawn.")
    if not is_here:
        console.say(
            "The gate decides on the workspace's model, and this workspace holds another one. "
            f"`git checkout` the commit of version {version}, then `dvc checkout` or `dvc repro`, "
            "then `segops promote`."
        )
        return
    _decide(root)


def approve(
    version: Annotated[str, typer.Argument(help="The candidate's version.")],
    reason: Annotated[str, typer.Option(help="Why; written into the ledger.")],
) -> None:
    """Check the evidence on a candidate again, and promote it.

    The exit status is 3 when the smoke test takes the champion back.
    """
    root = checkout()
    from segops.operate import results
    from segops.release import champion_evaluation
    from segops.release.approval import approve as approve_candidate
    from segops.release.smoke import smoke

    approved = approve_candidate(root, version, reason)
    console.say(f"Version {version} is approved by {approved.by} and is champion.")
    tested = smoke(root)
    champion_evaluation.refresh(root)
    results.mark(root, version)
    show_smoke(tested)
    _tell(root, approved.decision, tested, f"Approved by {approved.by}.")
    _exit_unless_promoted(approved.decision, tested)
