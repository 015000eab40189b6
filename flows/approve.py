"""The approval flow: promotes a candidate that a person approves, then tests the champion."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

from prefect import flow
from prefect.client.schemas.objects import State
from prefect.runtime import deployment
from prefect.states import Completed, Failed

from flows.failures import failed
from flows.retrain import call, guarded, smoke, step
from flows.telling import tell
from segops.operate import deployed, results
from segops.runtime.errors import SegopsError

if TYPE_CHECKING:
    from segops.release.approval import Approved


@step(task_run_name="approve")
def promote_candidate(root: Path, version: str, reason: str) -> Approved | State[Any]:
    """Check the evidence on a candidate again, and promote it."""
    from segops.release.approval import approve as approve_candidate

    # The credentials of this process are those of the server that runs it, not of the person.
    return guarded(lambda: approve_candidate(root, version, reason, use_login=False))


@flow(
    name="approve",
    persist_result=False,
    on_completion=[tell],
    on_failure=[tell],
    on_crashed=[tell],
)
def approve(version: str, reason: str) -> State[Any]:
    """Promote a candidate.

    The workspace is that of the process's working directory, as in :mod:`flows.retrain`. Who
    approves is known by the operating system's user of the process, or by the key that
    ``SEGOPS_SIGNING_KEY`` names there.

    Args:
        version: The version.
        reason: Why; written into the ledger.
    """
    from segops.release import champion_evaluation

    try:
        root = deployed.of_run(deployment.id is not None)
        approved = call(promote_candidate, root, version, reason)
        tested = call(smoke, root)
        champion_evaluation.refresh(root)
        results.mark(root, version)
    except SegopsError as error:
        return failed(error)
    words = f"Version {version} is approved by {approved.by}."
    if tested is None or tested.passed:
        return Completed(name="Promoted", message=words, data=approved)
    return Failed(name="Withdrawn", message=f"{words} {tested.sentence}")
