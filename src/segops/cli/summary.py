"""Prints the results of `run` and `promote`."""

from __future__ import annotations

import sys
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rich.markup import escape

from segops.cli.common import console
from segops.report.figures import sentence

if TYPE_CHECKING:
    from segops.release.check import Outcome
    from segops.release.gate import Decision, Verdict
    from segops.release.smoke import Smoke

VERDICTS: Mapping[Verdict, str] = {
    "promoted": "green",
    "candidate": "yellow",
    "rejected": "red",
    "inconclusive": "yellow",
    "unchanged": "cyan",
}
OUTCOMES: Mapping[Outcome, str] = {"passed": "green", "failed": "red", "undecided": "yellow"}


def show_decision(decision: Decision, version: int | str) -> None:
    """Print the gate's verdict on a version, and each of its checks."""
    colour = VERDICTS[decision.verdict]
    console.say(f"Gate on version {version}: [bold {colour}]{decision.verdict}[/]", markup=True)
    for check in decision.checks:
        # Padded to the width of "undecided", so that the sentences are aligned.
        mark = f"[{OUTCOMES[check.outcome]}]{check.outcome:<9}[/]"
        console.say(f"  {mark}  {escape(check.sentence)}", markup=True)
    if decision.verdict == "candidate":
        console.say(f"It waits for approval: segops approve {version} --reason WHY")


def show_smoke(tested: Smoke | None) -> None:
    """Print the result of the smoke test, if one was made."""
    if tested is not None:
        colour, mark = ("green", "passed") if tested.passed else ("red", "failed")
        console.say(f"Smoke test: [bold {colour}]{mark}[/]", markup=True)
        console.say(f"  {tested.sentence}")


def show_summary(root: Path, summary: Any) -> None:
    """Print what a run of the flow did, and where its results are.

    Args:
        root: The workspace.
        summary: A ``flows.retrain.Summary``.
    """
    from segops import paths
    from segops.release.status import status as registry_status

    console.rule("segops run", align="left")
    ran = [name for name, outcome in summary.outcomes.items() if outcome == "ran"]
    restored = [name for name, outcome in summary.outcomes.items() if outcome == "restored"]
    if ran:
        console.say(f"Stages run: {', '.join(ran)}.")
    elif restored:
        console.say(f"Stages restored from the cache: {', '.join(restored)}.")
    else:
        console.say("Nothing changed: no stage was run again.")
    console.say(f"[bold]{escape(sentence(summary.evaluation))}[/]", markup=True)
    if not summary.created:
        console.say(
            f"No new version: {summary.model} version {summary.version} holds these weights."
        )
    show_decision(summary.decision, summary.version)
    show_smoke(summary.smoke)
    versions = registry_status(root).versions
    names = [one.alias for one in versions if str(one.version) == summary.version]
    aliases = ", ".join(names) or "none"
    console.say(
        f"{escape(summary.model)} version {summary.version}, aliases: [bold]{escape(aliases)}[/]",
        markup=True,
    )
    console.say("\nLook at:")
    if summary.run is not None:
        console.say(f"  {_program()} runs show {summary.run}")
    else:
        for path in (paths.VALIDATION_PAGE, paths.AUGMENTATION_SHEET, paths.EVALUATION_PAGE):
            console.say(f"  {path}")
    console.say("\nOpen the pages (Ctrl-C ends them):")
    for command, what in (
        ("ui mlflow", "runs, metrics, the model and its versions"),
        ("ui prefect", "flow runs, their logs and artifacts"),
    ):
        console.say(f"  {_program()} {command:<12} {what}")


def _program() -> str:
    """Return a command that starts this program from the working directory, whatever PATH is."""
    beside, here = Path(sys.executable).with_name("segops"), Path.cwd()
    if not beside.is_file():
        return f"{sys.executable} -m segops"
    return str(beside.relative_to(here) if beside.is_relative_to(here) else beside)
