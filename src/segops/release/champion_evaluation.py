"""Keeps the champion's evaluation beside the checkout's state, for the evaluation page.

It is a view of the registry: whoever changes or reads the registry brings it up to date, and
nothing is decided by it; see :mod:`segops.evaluate.kept_champion`, which reads it without MLflow.
"""

from __future__ import annotations

import json
import logging
import shutil
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pandas as pd

from segops import files, paths
from segops.data.store import PackedStore
from segops.evaluate import kept_champion as kept_reference
from segops.evaluate.kept_champion import Reference
from segops.evaluate.metrics_file import evaluation_from_counts
from segops.params.file import Params, load_params
from segops.predict.bundle import bundle_digest
from segops.record import artifact
from segops.record.tracking import Store, has_record, locked, session
from segops.record.update import EVALUATED_AS
from segops.release import paired_counts, versions
from segops.release.versions import Version
from segops.runtime import opener
from segops.runtime.errors import SegopsError
from segops.voc.layout import VAL

log = logging.getLogger("segops")


@dataclass(frozen=True)
class _Case:
    """What the champion's evaluation is looked for with."""

    root: Path
    settings: Params
    store: Store
    champion: Version
    val_hash: str


def refresh(root: Path) -> None:
    """Bring the kept evaluation to the champion of now, on this workspace's val.

    It is the workspace's own evaluation where the champion is the workspace's model, else the one
    in the champion's run, else one made from the counts of a champion that the gate scored anew.
    Where there is none of this val, nothing is kept. A registry that does not answer changes
    nothing and fails nobody: the log has one line of it.

    Args:
        root: The workspace.
    """
    try:
        settings = load_params(root)
        if not has_record(root):
            _forget(root)
            return
        with session(root, settings.registry) as store, locked(root, "reference"):
            _refresh(root, settings, store)
    except (SegopsError, OSError) as error:
        log.warning("The champion on the evaluation page stays as last known: %s", error)


def warn_of_other_classes(root: Path, class_names: Sequence[str]) -> None:
    """Say before a training that the gate cannot compare its model with the champion.

    Args:
        root: The workspace.
        class_names: The names in id order that the training will use.
    """
    champion = kept_reference.read(root)
    if champion is not None and champion.class_names != tuple(class_names):
        log.warning(
            "The %s knows the classes %s, data.classes in params.yaml are %s: the new model will "
            "not be promoted over it. %s",
            champion.name,
            ", ".join(champion.class_names),
            ", ".join(class_names),
            paired_counts.OWN_NAME,
        )


def _refresh(root: Path, settings: Params, store: Store) -> None:
    model = settings.registry.model
    number = versions.aliases(store, model).get(versions.CHAMPION)
    val_hash = _val_hash(root)
    if number is None or val_hash is None:
        _forget(root)
        return
    case = _Case(root, settings, store, versions.get(store, model, number), val_hash)
    kept = kept_reference.read(root)
    if kept is not None and not _is_of(case, kept):
        kept = None
    found = _own(case, kept) or _recorded(case, kept) or kept or _judged(case)
    if found is None:
        log.info("Version %s, the champion, was not scored on this val.", number)
        _forget(root)
    elif found is not kept:
        kept_reference.write(root, found)


def _val_hash(root: Path) -> str | None:
    """Hash of the val of the workspace's packed store; None where no data are packed."""
    if not (root / paths.PACKED).is_dir():
        return None
    return PackedStore(root / paths.PACKED).split_hash(VAL)


def _is_of(case: _Case, kept: Reference) -> bool:
    known = (kept.model, kept.version, kept.bundle_digest, kept.val_hash)
    champion = case.champion
    now = (case.settings.registry.model, champion.number, champion.bundle_digest, case.val_hash)
    return known == now


def _own(case: _Case, kept: Reference | None) -> Reference | None:
    """The workspace's evaluation, where its model is the champion."""
    evaluation, counts = case.root / paths.EVALUATION, case.root / paths.COUNTS
    bundle = case.root / paths.SEGMENTER
    if not (evaluation.is_file() and counts.is_file() and bundle.is_dir()):
        return None
    tree = files.read_json(evaluation)
    of = (tree.get("bundle_digest"), tree.get("val_hash"))
    if of != (case.champion.bundle_digest, case.val_hash):
        return None
    if bundle_digest(bundle) != case.champion.bundle_digest:
        return None
    if kept is not None and kept.evaluation == tree:
        return kept
    return _reference(case, bundle, tree, pd.read_parquet(counts))


def _recorded(case: _Case, kept: Reference | None) -> Reference | None:
    """The evaluation and the counts in the champion's run, where they are of this val."""
    counts = paired_counts.recorded_counts(case.store, case.champion, case.val_hash)
    if counts is None:
        return None
    run = case.store.client.get_run(case.champion.run_id)
    path = paths.EVALUATION.as_posix()
    held = case.store.client.list_artifacts(run.info.run_id, paths.EVALUATION.parent.as_posix())
    if path not in {one.path for one in held}:
        return None
    with tempfile.TemporaryDirectory() as scratch:
        local = Path(case.store.client.download_artifacts(run.info.run_id, path, scratch))
        content = local.read_bytes()
        if files.sha256_bytes(content) != run.data.tags.get(EVALUATED_AS):
            log.warning("Version %s: the evaluation in its run was altered.", case.champion.number)
            return None
        tree: dict[str, Any] = json.loads(content)
        of = (tree.get("bundle_digest"), tree.get("val_hash"))
        if of != (case.champion.bundle_digest, case.val_hash):
            return None  # another evaluation was recorded meanwhile
        if kept is not None and kept.evaluation == tree:
            return kept
        bundle = artifact.checked_bundle(
            case.store,
            case.settings.registry.model,
            case.champion.number,
            case.champion.bundle_digest,
            Path(scratch) / "bundle",
        )
        return _reference(case, bundle, tree, counts)


def _judged(case: _Case) -> Reference | None:
    """What the counts tell, where the gate scored the champion anew on this val."""
    path = paired_counts.kept_counts(case.root, case.champion.bundle_digest, case.val_hash)
    if not path.is_file():
        return None
    counts = pd.read_parquet(path)
    with tempfile.TemporaryDirectory() as scratch:
        bundle = artifact.checked_bundle(
            case.store,
            case.settings.registry.model,
            case.champion.number,
            case.champion.bundle_digest,
            Path(scratch),
        )
        names = files.read_json(bundle / opener.MODEL)["class_names"]
        tree = evaluation_from_counts(counts, names, case.settings.evaluate)
        tree |= {"val_hash": case.val_hash, "bundle_digest": case.champion.bundle_digest}
        return _reference(case, bundle, tree, counts)


def _reference(
    case: _Case, bundle: Path, evaluation: dict[str, Any], counts: pd.DataFrame
) -> Reference:
    described = files.read_json(bundle / opener.MODEL)
    return Reference(
        model=case.settings.registry.model,
        version=case.champion.number,
        bundle_digest=case.champion.bundle_digest,
        class_names=tuple(described["class_names"]),
        trained_on=frozenset(described["training_images"].values()),
        val_hash=case.val_hash,
        evaluation=evaluation,
        counts=counts,
    )


def _forget(root: Path) -> None:
    kept = kept_reference.directory(root)
    if kept.exists():
        shutil.rmtree(kept)
