"""The monitoring flow: compares what `monitor.path` names with the data of the champion."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

from prefect import flow
from prefect.artifacts import create_markdown_artifact
from prefect.client.schemas.objects import State
from prefect.runtime import deployment
from prefect.states import Completed

from flows.failures import failed
from flows.retrain import guarded, step
from flows.telling import tell
from segops.operate import deployed
from segops.report.markdown import escaped
from segops.runtime.errors import SegopsError

if TYPE_CHECKING:
    from segops.operate.drift import Monitored

TOO_FEW = "Too few images"
"""Name of the state of a run that had nothing to compare; nobody is told."""
SHOWN = 10
"""Most unusual images, and most statistics of a test, of the artifact."""


@step(task_run_name="compare")
def compare(root: Path) -> Monitored | State[Any]:
    """Compare what `monitor.path` names with the data of the champion."""
    from segops.operate.drift import TooFewError, monitor_watched

    def look() -> Monitored | State[Any]:
        try:
            return monitor_watched(root)
        except TooFewError as error:  # they are still to come
            return Completed(name=TOO_FEW, message=str(error))

    return guarded(look)


@flow(
    name="monitor",
    persist_result=False,
    on_completion=[tell],
    on_failure=[tell],
    on_crashed=[tell],
)
def monitor() -> State[Any]:
    """Compare new images, or a prediction log, with the data of the champion.

    The workspace is that of the process's working directory, and what is compared is what its
    ``params.yaml`` names, as in :mod:`flows.retrain`.
    """
    try:
        root = deployed.of_run(deployment.id is not None)
        run_compare: Any = compare
        compared: State[Any] = run_compare(root, return_state=True)
        found: Monitored = compared.result()
    except SegopsError as error:
        return failed(error)
    if compared.name == TOO_FEW:
        return Completed(name=TOO_FEW, message=compared.message)
    create_markdown_artifact(
        key="drift", markdown=drift_page(found), description="New images against the champion's"
    )
    name = "Drift" if found.drift.drifted else "No drift"
    return Completed(name=name, message=found.sentence, data=found)


def drift_page(found: Monitored) -> str:
    """Return what was found, in Markdown."""
    drift = found.drift
    rows = [
        f"| {test.name} | {'**drift**' if test.drifted else 'no drift'} | {test.corrected:.4f} "
        f"| {escaped(', '.join(found.changes(test, SHOWN)))} |"
        for test in drift.tests
    ]
    unusual = [
        f"- {escaped(one.name)}: {escaped(', '.join(one.reasons) or 'by its features')}"
        for one in drift.unusual[:SHOWN]
    ]
    return "\n".join(
        [
            f"# {escaped(found.sentence)}\n",
            f"Compared with the data of {escaped(found.model)}. Page: {escaped(str(found.page))}\n",
            *(f"{escaped(note)}\n" for note in found.notes),
            "| test | found | p, corrected | what changed |",
            "| --- | --- | --- | --- |",
            *rows,
            "\n## Most unusual images\n",
            *unusual,
        ]
    )
