"""What fills the columns of MLflow's own pages: a run's source and its data set.

Both repeat what the lineage says, in the words that MLflow looks for.
"""

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
"""Split, which is the data set's context in MLflow -> tag of the run that holds its hash."""
DIGITS = 12
"""So many digits of a hash are shown, here as elsewhere."""


def source(command: str) -> dict[str, str]:
    """The tags that say which command made a run."""
    return {MLFLOW_SOURCE_NAME: command, MLFLOW_SOURCE_TYPE: "LOCAL"}


def fill(store: Store, run_id: str, command: str = TRAINING) -> list[str]:
    """Add source and data set to a run, as far as its tags tell them; what is there stays.

    Args:
        store: The record.
        run_id: The run.
        command: What made it.

    Returns:
        Names of what was added.
    """
    run = store.client.get_run(run_id)
    tags = source(command)
    commit = run.data.tags.get(tag("code_commit"))
    if commit is not None:
        tags[MLFLOW_GIT_COMMIT] = commit
    changed = runs.add_tags(store, run, tags, overwrite=False)
    path = run.data.params.get("data.path", "")
    held = run.inputs.dataset_inputs if run.inputs else []
    known = {(one.dataset.name, one.dataset.digest) for one in held}
    new = []
    for split, name in SPLITS.items():
        digest = run.data.tags.get(name, "")[:DIGITS]
        key = (PurePosixPath(path).name or "data", digest)
        if digest and key not in known:
            dataset = Dataset(*key, source_type="local", source=json.dumps({"uri": path}))
            new.append(DatasetInput(dataset, [InputTag(MLFLOW_DATASET_CONTEXT, split)]))
    if new:
        store.client.log_inputs(run.info.run_id, new)
    return changed + [one.dataset.digest for one in new]
