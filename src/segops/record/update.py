"""Brings MLflow up to date with the workspace, in a step that can be repeated."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path

from mlflow.entities import Run

import segops
from segops import files, paths
from segops.params.file import Params, load_params
from segops.predict.package import is_by_this_code
from segops.record import (
    artifact,
    columns,
    exports,
    leftovers,
    lineage,
    reproduce,
    runs,
    stage_outputs,
    weights,
)
from segops.record.lineage import tag
from segops.record.stage_outputs import Results
from segops.record.tracking import Store, address_for_people, locked, session

MANIFEST = "files.json"
"""File in the run: path -> SHA-256 of every file that :func:`record` uploaded."""
EVALUATED_AS = tag("evaluation_sha256")
PACKAGED_AT = tag("package_commit")
COUNTS = tag("counts_sha256")
"""SHA-256 of the counts in the run; a comparison checks it before it uses the counts."""
CHANGED_PARAMS = tag("params_changed")


@dataclass(frozen=True)
class Recorded:
    """What :func:`record` did.

    Attributes:
        run_id: The run of the workspace's model.
        created: Whether this call created it.
        changed: The parts that changed, such as params, metrics or files.
    """

    run_id: str
    created: bool
    changed: list[str]


def record(root: Path) -> Recorded:
    """Find or create the run of the workspace's model and add what is missing.

    The run is found by the SHA-256 of the weights, else by the fingerprint of the training that
    logged live. A second call changes nothing. A new evaluation of the same weights, on other data
    or with other settings, replaces the final metrics, the lineage of the data and the reports.

    Raises:
        TransientError: MLflow does not answer.
        SegopsError: There is no trained model in the workspace, or MLflow refuses.
    """
    settings = load_params(root)
    results = stage_outputs.read(root)
    with session(root, settings.registry) as store, locked(root, "record"):
        run, created = _run(store, results)
        leftovers.remove(store, root, run.info.run_id)
        changed = _fill(store, run, results, settings)
        finished = store.client.get_run(run.info.run_id)
        if finished.info.status != "FINISHED" or finished.info.end_time is None:
            store.client.set_terminated(run.info.run_id, "FINISHED")
            changed.append("status")
        return Recorded(run.info.run_id, created, changed)


def _run(store: Store, results: Results) -> tuple[Run, bool]:
    """Return the run of these weights and whether it is new.

    A live run with the same epochs belongs to this training and becomes its run.
    """
    fingerprint = str(results.training["fingerprint"])
    run = next(iter(runs.tagged(store, runs.WEIGHTS, results.weights_sha256)), None)
    live = runs.find_live(store, fingerprint)
    if run is None and live is not None:
        curves = runs.read_curves(results.root / paths.LEARNING_CURVES)
        known = runs.epochs(store, live.info.run_id)
        if not runs.differ(known, curves, complete=True):
            run, live = live, None
    if live is not None and not runs.is_training(live):
        # With a recorded run the live run is a repeat of it (`--force` gave the same weights).
        # Without, the live run is that of an abandoned training.
        if run is not None:
            store.client.delete_run(live.info.run_id)
        else:
            runs.supersede(store, live)
    created = run is None
    if run is None:
        run = runs.create(store, fingerprint)
    # First, so that no other process takes this run for that of an unfinished training.
    runs.add_tags(store, run, {runs.WEIGHTS: results.weights_sha256}, overwrite=False)
    return store.client.get_run(run.info.run_id), created


def _fill(store: Store, run: Run, results: Results, settings: Params) -> list[str]:
    """Add what is missing; return the names of the parts that changed."""
    run_id = run.info.run_id
    curves = runs.read_curves(results.root / paths.LEARNING_CURVES)
    outcome = lineage.outcome(results.training)
    added = {
        "params": runs.add_params(store, run, settings.flat()),
        "learning curves": runs.add_epochs(store, run_id, curves),
        "metrics": runs.add_metrics(store, run, results.metrics()),
        "lineage": [
            *runs.begin(store, run, results.root, str(results.training["fingerprint"])),
            *runs.add_tags(store, run, outcome.tags, overwrite=False),
            *_licence(store, run, results, settings),
            *_evaluated(store, store.client.get_run(run_id), results, settings),
            *columns.fill(store, run_id),
        ],
        "files": _files(store, run_id, results),
        "exports": exports.keep(store, store.client.get_run(run_id), results),
    }
    changed = [name for name, parts in added.items() if parts]
    if artifact.find(store, run_id, results.bundle_digest) is None:
        # The run keeps the parameters of its first bundle.
        params = store.client.get_run(run_id).data.params | runs.spelled(settings.flat())
        artifact.log_bundle(store, run_id, results.bundle, results.bundle_digest, params)
        changed.append("model")
    return changed


def _licence(store: Store, run: Run, results: Results, settings: Params) -> list[str]:
    if weights.LICENCE in run.data.tags:
        return []
    _, name = weights.licence(store, results.root, results.training, settings)
    return runs.add_tags(store, run, {weights.LICENCE: name}, overwrite=False)


def _evaluated(store: Store, run: Run, results: Results, settings: Params) -> list[str]:
    """Record the lineage of the workspace's evaluation; the evaluation's digest is set last."""
    if results.evaluation is None:
        return []
    digest = files.sha256_file(results.root / paths.EVALUATION)
    known = run.data.tags
    data = lineage.data(results.root, settings.data.path, results.evaluation)
    lacking = {tag(name) for name in lineage.missing(known)} & set(data.tags)
    is_repeatable = tag("reproduce") in known or tag("code_commit") not in known
    if known.get(EVALUATED_AS) == digest and is_repeatable and not lacking:
        return []
    # A second copy under the bundle's name stays when these weights are packaged again.
    directory = f"{runs.LINEAGE_DIRECTORY}/{reproduce.bundle_directory(results.bundle_digest)}"
    for name, content in data.artifacts.items():
        runs.put(store, run.info.run_id, f"{runs.LINEAGE_DIRECTORY}/{name}", content)
    first = f"{runs.LINEAGE_DIRECTORY}/{reproduce.TRAINED_WITH}"
    held = store.client.list_artifacts(run.info.run_id, runs.LINEAGE_DIRECTORY)
    changed = []
    if "params.yaml" in data.artifacts and first not in {file.path for file in held}:
        digest_of_first = {tag(lineage.FIRST_PARAMS_FIELD): data.tags[tag("params")]}
        changed = runs.add_tags(store, run, digest_of_first, overwrite=True)
        runs.put(store, run.info.run_id, first, data.artifacts["params.yaml"])
    packaged, tags = _packaged(store, run, results, settings)
    for name, content in (data.artifacts | packaged).items():
        runs.put(store, run.info.run_id, f"{directory}/{name}", content)
    tags |= data.tags
    if (results.root / paths.COUNTS).is_file():
        tags[COUNTS] = files.sha256_file(results.root / paths.COUNTS)
    differing = runs.changed_params(run, settings.flat())
    if differing or CHANGED_PARAMS in run.data.tags:
        # MLflow keeps the first value of a parameter; the run's params.yaml has the current values.
        tags[CHANGED_PARAMS] = json.dumps(differing)
    changed += runs.add_tags(store, run, tags, overwrite=True)
    return changed + runs.add_tags(store, run, {EVALUATED_AS: digest}, overwrite=True)


def _packaged(
    store: Store, run: Run, results: Results, settings: Params
) -> tuple[dict[str, bytes], dict[str, str]]:
    """Return the files (by name) and the tags that say how the bundle was made.

    A bundle that holds other copies of the code, even in comments only, was not made by this
    checkout. Then the run's tags stay if they describe this bundle; if not, they are emptied.
    """
    names = [tag(name) for name in (*lineage.PACKAGE_FIELDS, "reproduce")]
    # In a worktree the stages run its code, and this process that of the main checkout.
    own = paths.checkout(results.root) / "src" / segops.__name__
    if not (is_by_this_code(results.bundle) or is_by_this_code(results.bundle, own)):
        is_known = run.data.tags.get(tag("bundle_digest")) == results.bundle_digest
        return {}, {} if is_known else {name: "" for name in names if name in run.data.tags}
    packaging = lineage.packaging(results.root)
    script = _script(run, packaging, results, settings)
    tags = dict(packaging.tags)
    if script:
        tags[tag("reproduce")] = reproduce.reproduce_command(
            run.info.run_id, results.bundle_digest, address_for_people(store)
        )
    # An empty patch replaces that of an earlier packaging of the same bundle.
    return {"code.patch": b""} | packaging.artifacts | script, tags


def _script(
    run: Run, packaging: lineage.Lineage, results: Results, settings: Params
) -> dict[str, bytes]:
    """Return the script that reproduces the bundle, by its name; empty without a known commit."""
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
        results.weights_sha256,
        results.bundle_digest,
        reproduce.worktree_params(results.root, settings.model, settings.train, results.training),
        lineage.project_of(results.root),
        reproduce.encoder_start(results.root, settings.model, results.training),
    )
    return {"reproduce.sh": script}


def _files(store: Store, run_id: str, results: Results) -> list[str]:
    """Upload the files that are missing from the run or differ from it."""
    wanted = {
        name.as_posix(): files.sha256_file(results.root / name) for name in results.artifacts()
    }
    held = _manifest(store, run_id)
    same = [name for name in wanted if held.get(name) == wanted[name]]
    directories = {Path(name).parent.as_posix() for name in same}
    present = {
        file.path for path in directories for file in store.client.list_artifacts(run_id, path)
    }
    new = [name for name in wanted if name not in same or name not in present]
    for name in new:
        directory = Path(name).parent.as_posix()
        store.client.log_artifact(run_id, str(results.root / name), directory)
    if new:
        content = json.dumps(held | wanted, indent=2, sort_keys=True).encode()
        runs.put(store, run_id, MANIFEST, content)
    return new


def _manifest(store: Store, run_id: str) -> dict[str, str]:
    if not any(file.path == MANIFEST for file in store.client.list_artifacts(run_id)):
        return {}
    with files.scratch() as scratch:
        local = store.client.download_artifacts(run_id, MANIFEST, str(scratch))
        held: dict[str, str] = files.read_json(Path(local))
        return held
