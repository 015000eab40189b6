"""One idempotent step that brings MLflow up to date with what lies in the workspace."""

from __future__ import annotations

import json
import tempfile
from dataclasses import dataclass
from pathlib import Path

from mlflow.entities import Run

from segops import files, paths
from segops.params.file import Params, load_params
from segops.predict.package import is_by_this_code
from segops.record import artifact, columns, lineage, reproduce, runs, stage_outputs
from segops.record.lineage import tag
from segops.record.stage_outputs import Results
from segops.record.tracking import Store, locked, session, without_credentials

MANIFEST = "files.json"
"""In the run: path -> SHA-256 of every file that :func:`record` put there."""
EVALUATED_AS = tag("evaluation_sha256")
PACKAGED_AT = tag("package_commit")
COUNTS = tag("counts_sha256")
"""SHA-256 of the counts in the run; a comparison that uses them checks it."""
CHANGED_PARAMS = tag("params_changed")


@dataclass(frozen=True)
class Recorded:
    """What :func:`record` did.

    Attributes:
        run_id: The run of the workspace's model.
        created: Whether this call made it.
        changed: What was added to or brought up to date, out of params, learning curves, metrics,
            lineage, files, model and status; empty where nothing was to do.
    """

    run_id: str
    created: bool
    changed: list[str]


def record(root: Path) -> Recorded:
    """Find the run of the workspace's model, make it where it is missing, fill in what is missing.

    The run is the one with the SHA-256 of the weights, or the one that was logged live under the
    training's fingerprint. A second call changes nothing. When the same weights were evaluated on
    other data or in another way since, the final metrics, the data's lineage and the reports move
    on to the new evaluation.

    Args:
        root: The workspace.

    Raises:
        TransientError: MLflow does not answer.
        SegopsError: There is no trained model in the workspace, or MLflow refuses.
    """
    settings = load_params(root)
    found = stage_outputs.read(root)
    with session(root, settings.registry) as store, locked(root, "record"):
        run, created = _run(store, found)
        changed = _fill(store, run, found, settings)
        finished = store.client.get_run(run.info.run_id)
        if finished.info.status != "FINISHED" or finished.info.end_time is None:
            store.client.set_terminated(run.info.run_id, "FINISHED")
            changed.append("status")
        return Recorded(run.info.run_id, created, changed)


def _run(store: Store, found: Results) -> tuple[Run, bool]:
    """The run of these weights; a live one is taken over when it tells of the same training."""
    fingerprint = str(found.training["fingerprint"])
    run = runs.find(store, found.weights_sha256)
    live = runs.find_live(store, fingerprint)
    if run is None and live is not None:
        curves = runs.read_curves(found.root / paths.LEARNING_CURVES)
        known = runs.epochs(store, live.info.run_id)
        if not runs.contradict(known, curves, complete=True):
            run, live = live, None
    if live is not None and not runs.is_training(live):
        # Either a forced training came to weights that are recorded, and its live run holds
        # nothing new, or it tells of a training that was abandoned.
        if run is not None:
            store.client.delete_run(live.info.run_id)
        else:
            runs.supersede(store, live)
    created = run is None
    if run is None:
        run = runs.create(store, fingerprint)
    # The weights first: from here on nobody takes the run for one of an unfinished training.
    runs.add_tags(store, run, {runs.WEIGHTS: found.weights_sha256}, overwrite=False)
    return store.client.get_run(run.info.run_id), created


def _fill(store: Store, run: Run, found: Results, settings: Params) -> list[str]:
    """Add what is missing, and say what was added."""
    run_id = run.info.run_id
    curves = runs.read_curves(found.root / paths.LEARNING_CURVES)
    outcome = lineage.outcome(found.training)
    added = {
        "params": runs.add_params(store, run, settings.flat()),
        "learning curves": runs.add_epochs(store, run_id, curves, runs.epochs(store, run_id)),
        "metrics": runs.add_metrics(store, run, found.metrics()),
        "lineage": [
            *runs.begin(store, run, found.root),
            *runs.add_tags(store, run, outcome.tags, overwrite=False),
            *_evaluated(store, store.client.get_run(run_id), found, settings),
            *columns.fill(store, run_id),
        ],
        "files": _files(store, run_id, found),
        "model": _model(store, run_id, found, settings),
    }
    return [name for name, parts in added.items() if parts]


def _model(store: Store, run_id: str, found: Results, settings: Params) -> list[str]:
    if artifact.find(store, run_id, found.bundle_digest) is not None:
        return []
    # The run keeps the parameters of its first bundle.
    of_bundle = store.client.get_run(run_id).data.params | runs.spelled(settings.flat())
    model = artifact.log_bundle(store, run_id, found.bundle, found.bundle_digest, of_bundle)
    return [str(model.model_id)]


def _evaluated(store: Store, run: Run, found: Results, settings: Params) -> list[str]:
    """Bring the data's lineage to the evaluation in the workspace; its digest is written last."""
    if found.evaluation is None:
        return []
    digest = files.sha256_file(found.root / paths.EVALUATION)
    known = run.data.tags
    data = lineage.data(found.root, settings.data.path, found.evaluation)
    lacking = {tag(name) for name in lineage.missing(known)} & set(data.tags)
    is_repeatable = tag("reproduce") in known or tag("code_commit") not in known
    if known.get(EVALUATED_AS) == digest and is_repeatable and not lacking:
        return []
    # Once more under the bundle's name: the run of a training that is packaged again goes on.
    kept = f"{runs.LINEAGE_DIRECTORY}/{reproduce.bundle_directory(found.bundle_digest)}"
    for name, content in data.artifacts.items():
        runs.put(store, run.info.run_id, f"{runs.LINEAGE_DIRECTORY}/{name}", content)
    if "params.yaml" in data.artifacts:
        _keep_first(store, run, data.artifacts["params.yaml"])
    packaged, tags = _packaged(store, run, found, settings)
    for name, content in (data.artifacts | packaged).items():
        runs.put(store, run.info.run_id, f"{kept}/{name}", content)
    tags |= data.tags
    if (found.root / paths.COUNTS).is_file():
        tags[COUNTS] = files.sha256_file(found.root / paths.COUNTS)
    differing = runs.changed_params(run, settings.flat())
    if differing or CHANGED_PARAMS in run.data.tags:
        # MLflow keeps a parameter as it was first logged; params.yaml among the artifacts is new.
        tags[CHANGED_PARAMS] = json.dumps(differing)
    changed = runs.add_tags(store, run, tags, overwrite=True)
    return changed + runs.add_tags(store, run, {EVALUATED_AS: digest}, overwrite=True)


def _packaged(
    store: Store, run: Run, found: Results, settings: Params
) -> tuple[dict[str, bytes], dict[str, str]]:
    """What tells where the bundle was made and how it is made again: files by name, and tags.

    A bundle whose copies of the code differ in words from the code that is here was not made here.
    Then what the run says of it already is left, and nothing is said of a bundle that is new to it.
    """
    names = [tag(name) for name in (*lineage.PACKAGE_FIELDS, "reproduce")]
    if not is_by_this_code(found.bundle):
        is_known = run.data.tags.get(tag("bundle_digest")) == found.bundle_digest
        return {}, {} if is_known else {name: "" for name in names if name in run.data.tags}
    packaging = lineage.packaging(found.root)
    script = _script(run, packaging, found, settings)
    tags = dict(packaging.tags)
    if script:
        tags[tag("reproduce")] = reproduce.reproduce_command(
            run.info.run_id, found.bundle_digest, without_credentials(store.uri)
        )
    # An empty patch takes the place of one of an earlier packaging of the same bundle.
    return {"code.patch": b""} | packaging.artifacts | script, tags


def _keep_first(store: Store, run: Run, settings: bytes) -> None:
    """Keep the params.yaml that the run's training was first recorded with."""
    path = f"{runs.LINEAGE_DIRECTORY}/{reproduce.TRAINED_WITH}"
    held = store.client.list_artifacts(run.info.run_id, runs.LINEAGE_DIRECTORY)
    if path not in {one.path for one in held}:
        runs.put(store, run.info.run_id, path, settings)


def _script(
    run: Run, packaging: lineage.Lineage, found: Results, settings: Params
) -> dict[str, bytes]:
    """The script that makes the bundle again, by its name; none where no commit is known."""
    commit, packaged_at = run.data.tags.get(tag("code_commit")), packaging.tags.get(PACKAGED_AT)
    if commit is None or packaged_at is None:
        return {}
    patch = packaging.artifacts.get("code.patch", b"")
    patched = files.sha256_bytes(patch) if patch else None
    is_same = (packaged_at, patched) == (commit, run.data.tags.get(tag(lineage.PATCH_FIELD)))
    script = reproduce.reproduce_script(
        commit,
        None if is_same else packaged_at,
        settings.data.path,
        found.weights_sha256,
        found.bundle_digest,
        reproduce.elsewhere(found.root, settings.model, settings.train, found.training),
    )
    return {"reproduce.sh": script}


def _files(store: Store, run_id: str, found: Results) -> list[str]:
    """Upload the files that the run lacks or holds with another content."""
    wanted = {name.as_posix(): files.sha256_file(found.root / name) for name in found.artifacts()}
    held = _manifest(store, run_id)
    directories = {Path(name).parent.as_posix() for name in wanted}
    present = {
        one.path for path in directories for one in store.client.list_artifacts(run_id, path)
    }
    new = [name for name in wanted if held.get(name) != wanted[name] or name not in present]
    for name in new:
        directory = Path(name).parent.as_posix()
        store.client.log_artifact(run_id, str(found.root / name), directory)
    if new:
        content = json.dumps(held | wanted, indent=2, sort_keys=True).encode()
        runs.put(store, run_id, MANIFEST, content)
    return new


def _manifest(store: Store, run_id: str) -> dict[str, str]:
    if not any(one.path == MANIFEST for one in store.client.list_artifacts(run_id)):
        return {}
    with tempfile.TemporaryDirectory() as scratch:
        local = store.client.download_artifacts(run_id, MANIFEST, scratch)
        held: dict[str, str] = files.read_json(Path(local))
        return held
