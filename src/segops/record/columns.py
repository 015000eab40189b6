"""Fills the columns Source and Dataset of MLflow's pages from a run's lineage tags."""

from __future__ import annotations

import json
from pathlib import PurePosixPath

from mlflow.entities import Dataset, DatasetInput, InputTag
from mlflow.utils.mlflow_tags import (
    MLFLOW_DATASET_CONTEXT,
    MLFLOW_GIT_COMMIT,
    MLFLOW_SOURCE_NAME,
    MLFLOW_SOURCE_TYPE,
)

from segops.record import runs
from segops.record.lineage import tag
from segops.record.tracking import Store

TRAINING = "segops stage train"
SEARCH = "segops tune search"
SPLITS = {"train": tag("train_hash"), "val": tag("val_hash")}
"""Split (the data set's context in MLflow) -> the run's tag with the split's hash."""
DIGITS = 12
"""Number of hash digits that are shown."""


def source(command: str) -> dict[str, str]:
    """Return the tags that name the command that made a run."""
    return {MLFLOW_SOURCE_NAME: command, MLFLOW_SOURCE_TYPE: "LOCAL"}


def fill(store: Store, run_id: str, command: str = TRAINING) -> list[str]:
    """Add source and data set to a run where its tags name them; existing values stay.

    Returns:
        Names of the tags and data sets that were added.
    """
    run = store.client.get_run(run_id)
    tags = source(command)
    commit = run.data.tags.get(tag("code_commit"))
    if commit is not None:
        tags[MLFLOW_GIT_COMMIT] = commit
    changed = runs.add_tags(store, run, tags, overwrite=False)
    path = run.data.params.get("data.path", "")
    inputs = run.inputs.dataset_inputs if run.inputs else []
    known = {(entry.dataset.name, entry.dataset.digest) for entry in inputs}
    new = []
    for split, name in SPLITS.items():
        digest = run.data.tags.get(name, "")[:DIGITS]
        key = (PurePosixPath(path).name or "data", digest)
        if digest and key not in known:
            dataset = Dataset(*key, source_type="local", source=json.dumps({"uri": path}))
            new.append(DatasetInput(dataset, [InputTag(MLFLOW_DATASET_CONTEXT, split)]))
    if new:
        store.client.log_inputs(run.info.run_id, new)
    return changed + [entry.dataset.digest for entry in new]
