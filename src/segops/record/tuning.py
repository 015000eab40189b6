"""Records a study of `segops tune search` in MLflow: a run, with a nested run for each trial.

The study's own database is the source. A second call changes nothing, so a tracking server that was
away loses no trial.
"""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from mlflow.entities import Run
from mlflow.utils.mlflow_tags import MLFLOW_PARENT_RUN_ID, MLFLOW_RUN_NAME, MLFLOW_USER

from segops.params.file import Params
from segops.record import columns, runs
from segops.record.lineage import started_by, tag
from segops.record.tracking import Store, locked, session

STUDY = tag("study")
TRIAL = tag("trial")
OUTCOME = tag("trial_outcome")
MESSAGE = tag("trial_message")
BEST = tag("best_trial")
SCORE = "selection_miou_best"
_STATUS = {"complete": "FINISHED", "pruned": "KILLED", "failed": "FAILED", "lost": "KILLED"}


@dataclass(frozen=True)
class Trial:
    """A trial of a study.

    Attributes:
        number: From 0, in the order of their start.
        outcome: `complete`, `pruned` (stopped early), `failed`, or `lost` (its process died; the
            same values were tried again).
        values: The tried parameter values, by dotted key.
        score: Best mIoU on the selection split, if there is one.
        rows: Learning curves, one mapping per epoch.
        message: Why it failed.
    """

    number: int
    outcome: str
    values: Mapping[str, Any]
    score: float | None
    rows: Sequence[Mapping[str, Any]]
    message: str | None = None


def record_study(
    root: Path,
    settings: Params,
    name: str,
    trials: Sequence[Trial],
    *,
    best: Trial | None = None,
    pictures: Mapping[str, bytes] | None = None,
) -> str:
    """Bring MLflow up to date with a study, and return the id of its run.

    Args:
        root: The workspace.
        settings: Its parameters.
        name: The study's name, unique for its data, parameters and ranges.
        trials: The trials that have ended.
        best: The best of them, once the study has ended.
        pictures: Artifacts of the study's run by path, once it has ended.

    Raises:
        SegopsError: MLflow does not answer, or refuses.
    """
    with session(root, settings.registry) as store, locked(root, "record"):
        parent = _parent(store, root, settings, name)
        run_id = str(parent.info.run_id)
        present = _children(store, run_id)
        for trial in trials:
            if trial.number not in present:
                _add(store, run_id, name, trial)
        if best is None:
            return run_id
        runs.add_tags(store, parent, {BEST: str(best.number)}, overwrite=True)
        runs.add_metrics(store, parent, {} if best.score is None else {SCORE: best.score})
        for path, content in (pictures or {}).items():
            runs.put(store, run_id, path, content)
        store.client.set_terminated(run_id, "FINISHED")
        return run_id


def _parent(store: Store, root: Path, settings: Params, name: str) -> Run:
    found = runs.tagged(store, STUDY, name)
    if found:
        store.client.update_run(found[0].info.run_id, status="RUNNING")
        return found[0]
    tags = {STUDY: name, MLFLOW_RUN_NAME: name, MLFLOW_USER: started_by()}
    run = store.client.create_run(store.experiment_id, tags=tags)
    runs.begin(store, run, root)
    columns.fill(store, run.info.run_id, columns.SEARCH)
    runs.add_params(store, run, settings.flat())
    return run


def _children(store: Store, parent: str) -> set[int]:
    """Return the numbers of completely recorded trials; delete the runs of the others."""
    whole = set()
    for run in runs.tagged(store, MLFLOW_PARENT_RUN_ID, parent):
        if OUTCOME in run.data.tags:
            whole.add(int(run.data.tags[TRIAL]))
        else:
            store.client.delete_run(run.info.run_id)
    return whole


def _add(store: Store, parent: str, name: str, trial: Trial) -> None:
    tags = {
        MLFLOW_PARENT_RUN_ID: parent,
        MLFLOW_RUN_NAME: f"{name}-{trial.number}",
        MLFLOW_USER: started_by(),
        TRIAL: str(trial.number),
        **columns.source(columns.SEARCH),
    }
    if trial.message:
        tags[MESSAGE] = trial.message[: runs.LONGEST_TAG]
    run = store.client.create_run(store.experiment_id, tags=tags)
    runs.add_params(store, run, trial.values)
    runs.add_epochs(store, run.info.run_id, trial.rows, {name: {} for name in runs.EPOCH_METRICS})
    runs.add_metrics(store, run, {} if trial.score is None else {SCORE: trial.score})
    # Set last: a run with this tag is complete.
    store.client.set_tag(run.info.run_id, OUTCOME, trial.outcome)
    store.client.set_terminated(
        run.info.run_id, _STATUS[trial.outcome], end_time=int(time.time() * 1000)
    )
