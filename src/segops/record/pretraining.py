"""Records a pretraining in MLflow; a second call changes nothing."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from mlflow.utils.mlflow_tags import MLFLOW_RUN_NAME, MLFLOW_USER

from segops import paths
from segops.params.file import load_params
from segops.record import columns, runs
from segops.record.lineage import started_by, tag
from segops.record.tracking import locked, session

PRETRAINING = tag("pretraining")
ENCODER = tag("encoder_sha256")
"""SHA-256 of the weights' file; a training that starts from it has it as its start."""
COMMAND = "segops pretrain"


def record_pretraining(root: Path, result: Mapping[str, Any]) -> str:
    """Bring MLflow up to date with a pretraining, and return the id of its run.

    The run holds the weights too: the next pretraining overwrites them in the workspace, and models
    that started from them cannot be made again without.

    Args:
        root: The workspace, whose ``models/pretrained`` is that of `result`.
        result: Content of ``pretraining.json``.

    Raises:
        SegopsError: MLflow does not answer, or refuses.
    """
    settings = load_params(root)
    name = result["fingerprint"]
    with session(root, settings.registry) as store, locked(root, "record"):
        found = runs.tagged(store, PRETRAINING, name)
        # The same fingerprint gives other weights where operations are not deterministic.
        by_weights = {one.data.tags.get(ENCODER): one for one in found}
        if (done := by_weights.get(result["weights_sha256"])) is not None:
            return str(done.info.run_id)
        tags = {
            PRETRAINING: name,
            MLFLOW_RUN_NAME: f"pretrain-{name[:8]}",
            MLFLOW_USER: started_by(),
        }
        run = by_weights.get(None) or store.client.create_run(store.experiment_id, tags=tags)
        run_id = str(run.info.run_id)
        runs.begin(store, run, root, name)
        columns.fill(store, run_id, COMMAND)
        runs.add_params(store, run, settings.flat())
        runs.add_epochs(store, run_id, result["epochs"])
        parts = {tag(f"pretraining_{part}"): value for part, value in result["parts"].items()}
        parts[tag("pretraining_images")] = str(result["images"])
        runs.add_tags(store, run, parts, overwrite=True)
        store.client.log_artifacts(run_id, str(root / paths.PRETRAINED))
        # Last, since it says that all the rest is there.
        runs.add_tags(store, run, {ENCODER: result["weights_sha256"]}, overwrite=True)
        store.client.set_terminated(run_id, "FINISHED")
        return run_id
