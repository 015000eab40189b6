"""Finds the MLflow run of a training and adds what is missing to it, nothing twice."""

from __future__ import annotations

import csv
import json
import math
import socket
import time
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import psutil
from mlflow.entities import Metric, Param, Run, RunTag
from mlflow.utils.mlflow_tags import MLFLOW_RUN_NAME, MLFLOW_USER

from segops import files
from segops.params import semi_supervised
from segops.record import lineage, started
from segops.record.lineage import started_by, tag
from segops.record.tracking import Store

FINGERPRINT = tag("fingerprint")
WEIGHTS = tag("weights_sha256")
SUPERSEDED = tag("superseded")
TRAINING_PROCESS = tag("training_process")
LINEAGE_DIRECTORY = "lineage"
EPOCH_METRICS = ("train_loss", "selection_miou", "lr", *semi_supervised.CURVES)
"""Metrics of every epoch; the step is the epoch's number."""
AT_ONCE = 100
"""MLflow's limit of parameters or tags per call."""
LONGEST_PARAM = 6000
LONGEST_TAG = 8000
LONGEST_KEY = 250


def tagged(store: Store, tag_name: str, value: str, experiment_id: str | None = None) -> list[Run]:
    """Return the runs with a tag of this value, oldest first; None: of the store's experiment."""
    return list(
        store.client.search_runs(
            [experiment_id or store.experiment_id],
            f"tags.`{tag_name}` = '{value}'",
            max_results=50_000,
            order_by=["attributes.start_time ASC"],
        )
    )


def find_live(store: Store, fingerprint: str) -> Run | None:
    """Return the first run of a training with this fingerprint that has no weights yet."""
    ended = {WEIGHTS, SUPERSEDED}
    runs = tagged(store, FINGERPRINT, fingerprint)
    return next((run for run in runs if not ended & run.data.tags.keys()), None)


def create(store: Store, fingerprint: str) -> Run:
    """Create a run for a training."""
    return store.client.create_run(
        store.experiment_id,
        tags={
            FINGERPRINT: fingerprint,
            MLFLOW_RUN_NAME: f"train-{fingerprint[:8]}",
            MLFLOW_USER: started_by(),
        },
    )


def supersede(store: Store, run: Run) -> None:
    """Mark the run of an abandoned training, so that no later training continues it."""
    store.client.set_tag(run.info.run_id, SUPERSEDED, "true")
    store.client.set_terminated(run.info.run_id, "KILLED")


def is_training(run: Run) -> bool:
    """Whether the training of a live run still runs.

    The process is looked up on this host; on any other host the run's status decides.
    """
    host, _, pid = run.data.tags.get(TRAINING_PROCESS, "").rpartition(":")
    if host != socket.gethostname():
        return bool(host) and run.info.status == "RUNNING"
    return pid.isdecimal() and is_alive(int(pid))


def is_alive(pid: int) -> bool:
    """Whether a process runs; a zombie does not."""
    try:
        return bool(psutil.Process(pid).status() != psutil.STATUS_ZOMBIE)
    except psutil.NoSuchProcess:
        return False


def put(store: Store, run_id: str, path: str, content: bytes) -> None:
    """Write `content` as the artifact `path` of a run."""
    directory, _, name = path.rpartition("/")
    with files.scratch() as scratch:
        local = scratch / name
        local.write_bytes(content)
        store.client.log_artifact(run_id, str(local), directory or None)


def begin(store: Store, run: Run, root: Path, fingerprint: str = "") -> list[str]:
    """Record code, software and person in a run that does not have them yet.

    They are those of the start of the training with this fingerprint where they were kept, else
    those of now. Values that are set stay. The names of the tags that were set are returned.
    """
    if not any(name in lineage.ORIGIN_FIELDS for name in lineage.missing(run.data.tags)):
        return []
    origin = started.origin(root, fingerprint)
    new = {name: value for name, value in origin.tags.items() if name not in run.data.tags}
    sources = {"environment.txt": "environment", "code.patch": lineage.PATCH_FIELD}
    for name, content in origin.artifacts.items():
        if tag(sources[name]) in new:
            put(store, run.info.run_id, f"{LINEAGE_DIRECTORY}/{name}", content)
    return add_tags(store, run, new, overwrite=False)


def add_tags(store: Store, run: Run, tags: Mapping[str, str], *, overwrite: bool) -> list[str]:
    """Set tags that are missing, and with `overwrite` those that differ; return their names."""
    now = run.data.tags
    wanted = {name: value[:LONGEST_TAG] for name, value in tags.items()}
    changed = [
        name
        for name, value in wanted.items()
        if (now.get(name) != value if overwrite else name not in now)
    ]
    _log(store, run.info.run_id, tags=[RunTag(name, wanted[name]) for name in changed])
    return changed


def add_params(store: Store, run: Run, flat: Mapping[str, Any]) -> list[str]:
    """Log parameters that are missing, and return their names.

    MLflow never changes a logged parameter.
    """
    wanted = spelled(flat)
    added = [name for name in wanted if name not in run.data.params]
    _log(store, run.info.run_id, params=[Param(name, wanted[name]) for name in added])
    return added


def spelled(flat: Mapping[str, Any]) -> dict[str, str]:
    """Return parameters as MLflow stores them."""
    return {key(name): _spelled(value) for name, value in flat.items()}


def changed_params(run: Run, flat: Mapping[str, Any]) -> dict[str, Any]:
    """Return the parameters whose value differs from the first one that the run logged."""
    return {
        name: value
        for name, value in flat.items()
        if run.data.params.get(key(name), _spelled(value)) != _spelled(value)
    }


def add_metrics(store: Store, run: Run, finals: Mapping[str, float]) -> list[str]:
    """Log final metrics that are missing or have another value, and return their names.

    NaN replaces a logged metric that has no value any more, such as the IoU of a class that is not
    in a new val split. A metric that is NaN and was never logged is left out.
    """
    now = run.data.metrics
    stamp = int(time.time() * 1000)
    new = [
        Metric(key(name), float(value), stamp, 0)
        for name, value in finals.items()
        if (key(name) in now or not math.isnan(value)) and not _same(now.get(key(name)), value)
    ]
    _log(store, run.info.run_id, metrics=new)
    return [metric.key for metric in new]


def epochs(store: Store, run_id: str) -> dict[str, dict[int, float]]:
    """Return the logged epochs: metric -> epoch -> value."""
    logged = store.client.get_run(run_id).data.metrics
    return {
        name: {
            metric.step: metric.value for metric in store.client.get_metric_history(run_id, name)
        }
        if name in logged
        else {}
        for name in EPOCH_METRICS
    }


def add_epochs(
    store: Store,
    run_id: str,
    rows: Iterable[Mapping[str, Any]],
    known: Mapping[str, Mapping[int, float]] | None = None,
) -> list[str]:
    """Log the epochs that are missing; return the names of the metrics that got new values.

    Args:
        store: The record.
        run_id: The run.
        rows: One mapping per epoch, with `epoch` and some of `EPOCH_METRICS`.
        known: What is logged, as :func:`epochs` returns it; None: MLflow is asked.
    """
    known = epochs(store, run_id) if known is None else known
    stamp = int(time.time() * 1000)
    new = [
        Metric(name, value, stamp, epoch)
        for epoch, values in map(_values, rows)
        for name, value in values.items()
        if epoch not in known[name]
    ]
    _log(store, run_id, metrics=new)
    return sorted({metric.key for metric in new})


def differ(
    known: Mapping[str, Mapping[int, float]],
    rows: Iterable[Mapping[str, Any]],
    *,
    complete: bool,
) -> bool:
    """Whether the logged epochs, as :func:`epochs` returns them, belong to another training.

    `rows` has one mapping per epoch. Unless they are `complete`, logged epochs that are missing
    from them are ignored.
    """
    truth = dict(map(_values, rows))
    return any(
        not _same(truth[epoch].get(name), value) if epoch in truth else complete
        for name, values in known.items()
        for epoch, value in values.items()
    )


def are_logged(known: Mapping[str, Mapping[int, float]], rows: Iterable[Mapping[str, Any]]) -> bool:
    """Whether every value of these rows is logged."""
    return all(
        _same(known[name].get(epoch), value)
        for epoch, values in map(_values, rows)
        for name, value in values.items()
    )


def read_curves(path: Path) -> list[dict[str, Any]]:
    """Return the rows of ``plots/learning.csv``; an empty list where the file is missing."""
    if not path.is_file():
        return []
    with path.open(newline="", encoding="utf-8") as file:
        return list(csv.DictReader(file))


def key(name: str) -> str:
    r"""Return a name that MLflow accepts: letters, digits, and `_ - . : /`.

    Other characters become their code point, and a name of more than 250 characters ends in a hash:
    class names are the user's own, and `c+` and `c#` must not become the same metric.
    """
    safe = "".join(
        character if character.isalnum() or character in "_-.:/ " else f"_x{ord(character):x}_"
        for character in name
    )
    accepted = "/".join(part if part.strip(".") else f"_{part}_" for part in safe.split("/"))
    if len(accepted) > LONGEST_KEY:
        accepted = f"{accepted[: LONGEST_KEY - 17]}_{files.sha256_bytes(name.encode())[:16]}"
    return accepted


def _log(
    store: Store,
    run_id: str,
    *,
    metrics: Sequence[Metric] = (),
    params: Sequence[Param] = (),
    tags: Sequence[RunTag] = (),
) -> None:
    """Log entries of one kind, as many per call as MLflow accepts."""
    for start in range(0, len(metrics) + len(params) + len(tags), AT_ONCE):
        part = slice(start, start + AT_ONCE)
        store.client.log_batch(run_id, metrics[part], params[part], tags[part])


def _values(row: Mapping[str, Any]) -> tuple[int, dict[str, float]]:
    values = {}
    for name in EPOCH_METRICS:
        if row.get(name) not in (None, ""):
            number = float(row[name])
            if not math.isnan(number):
                values[name] = number
    return int(float(row["epoch"])), values


def _same(left: float | None, right: float | None) -> bool:
    """Whether two values are equal up to the rounding of a CSV file; NaN equals NaN."""
    if left is None or right is None:
        return left is right
    is_close = math.isclose(left, right, rel_tol=1e-6, abs_tol=1e-9)
    return is_close or (math.isnan(left) and math.isnan(right))


def _spelled(value: Any) -> str:
    text = value if isinstance(value, str) else json.dumps(value)
    return text[:LONGEST_PARAM]
