"""Keeps a copy of the champion's evaluation in the workspace, for the evaluation page.

Commands that read or change the registry update the copy; no decision depends on it.
:mod:`segops.evaluate.kept_champion` reads it without MLflow.
"""

from __future__ import annotations

import json
import logging
import shutil
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pandas as pd

from segops import files, paths
from segops.data.store import PackedStore
from segops.evaluate import kept_champion
from segops.evaluate.kept_champion import ChampionEvaluation
from segops.evaluate.metrics_file import evaluation_from_counts
from segops.params.file import Params, load_params
from segops.predict.bundle import read_bundle
from segops.record import artifact
from segops.record.tracking import Store, has_record, locked, session
from segops.record.update import EVALUATED_AS
from segops.release import paired_counts, pairing, versions
from segops.release.versions import Version
from segops.runtime import opener
from segops.runtime.errors import SegopsError
from segops.voc.layout import VAL

log = logging.getLogger("segops")


@dataclass(frozen=True)
class _Champion:
    """The champion, and where to look for its evaluation."""

    root: Path
    settings: Params
    store: Store
    champion: Version
    val_hash: str


def refresh(root: Path) -> None:
    """Update the kept evaluation to the present champion, on this workspace's val.

    Source, in this order: the workspace's evaluation if its model is the champion; the evaluation
    in the champion's run; an evaluation from the counts that the gate made of the champion. Without
    an evaluation on this val the copy is removed. If the registry does not answer, the copy stays
    and the log gets a warning.

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
        log.warning("The evaluation page shows the champion that was last known: %s", error)


def warn_of_other_classes(root: Path, class_names: Sequence[str]) -> None:
    """Warn before a training if the gate will not be able to compare its model with the champion.

    Args:
        root: The workspace.
        class_names: The class names of the training, in id order.
    """
    champion = kept_champion.read(root)
    if champion is not None and champion.class_names != tuple(class_names):
        log.warning(
            "The %s has the classes %s, data.classes in params.yaml are %s: the new model will "
            "not be promoted over it. %s",
            champion.name,
            ", ".join(champion.class_names),
            ", ".join(class_names),
            pairing.OWN_NAME,
        )


def _refresh(root: Path, settings: Params, store: Store) -> None:
    model = settings.registry.model
    number = versions.aliases(store, model).get(versions.CHAMPION)
    val_hash = _val_hash(root)
    if number is None or val_hash is None:
        _forget(root)
        return
    case = _Champion(root, settings, store, versions.get(store, model, number), val_hash)
    kept = kept_champion.read(root)
    if kept is not None and not _is_of(case, kept):
        kept = None
    champion = (
        _from_workspace(case, kept) or _from_run(case, kept) or kept or _from_gate_counts(case)
    )
    if champion is None:
        log.info("Version %s, the champion, was not scored on this val.", number)
        _forget(root)
    elif champion is not kept:
        kept_champion.write(root, champion)


def _val_hash(root: Path) -> str | None:
    """Return the hash of val in the workspace's packed store; None without a packed store."""
    if not (root / paths.PACKED).is_dir():
        return None
    return PackedStore(root / paths.PACKED).split_hash(VAL)


def _is_of(case: _Champion, kept: ChampionEvaluation) -> bool:
    known = (kept.model, kept.version, kept.bundle_digest, kept.val_hash)
    champion = case.champion
    now = (case.settings.registry.model, champion.number, champion.bundle_digest, case.val_hash)
    return known == now


def _from_workspace(case: _Champion, kept: ChampionEvaluation | None) -> ChampionEvaluation | None:
    """Return the workspace's evaluation if its model is the champion."""
    evaluation, counts = case.root / paths.EVALUATION, case.root / paths.COUNTS
    bundle = case.root / paths.SEGMENTER
    if not (evaluation.is_file() and counts.is_file() and bundle.is_dir()):
        return None
    tree = files.read_json(evaluation)
    if not _is_on_champion(case, tree):
        return None
    held = read_bundle(bundle)
    if held.digest != case.champion.bundle_digest:
        return None
    if kept is not None and kept.evaluation == tree:
        return kept
    return _reference(case, held, tree, pd.read_parquet(counts))


def _is_on_champion(case: _Champion, evaluation: Mapping[str, Any]) -> bool:
    """Whether an evaluation is of the champion's bundle on this val."""
    digests = (evaluation.get("bundle_digest"), evaluation.get("val_hash"))
    return digests == (case.champion.bundle_digest, case.val_hash)


def _from_run(case: _Champion, kept: ChampionEvaluation | None) -> ChampionEvaluation | None:
    """Return the evaluation and the counts in the champion's run if they are on this val."""
    counts = paired_counts.recorded_counts(case.store, case.champion, case.val_hash)
    if counts is None:
        return None
    run = case.store.client.get_run(case.champion.run_id)
    path = paths.EVALUATION.as_posix()
    held = case.store.client.list_artifacts(run.info.run_id, paths.EVALUATION.parent.as_posix())
    if path not in {file.path for file in held}:
        return None
    with files.scratch() as scratch:
        local = Path(case.store.client.download_artifacts(run.info.run_id, path, str(scratch)))
        content = local.read_bytes()
        if files.sha256_bytes(content) != run.data.tags.get(EVALUATED_AS):
            log.warning("Version %s: the evaluation in its run was altered.", case.champion.number)
            return None
        tree: dict[str, Any] = json.loads(content)
        if not _is_on_champion(case, tree):
            return None  # another evaluation was recorded in between
        if kept is not None and kept.evaluation == tree:
            return kept
        bundle = _champion_bundle(case, scratch / "bundle")
        return _reference(case, bundle, tree, counts)


def _from_gate_counts(case: _Champion) -> ChampionEvaluation | None:
    """Return the evaluation from the counts of the champion, if the gate scored it on this val."""
    path = paired_counts.kept_counts(case.root, case.champion.bundle_digest, case.val_hash)
    if not path.is_file():
        return None
    counts = pd.read_parquet(path)
    with files.scratch() as scratch:
        bundle = _champion_bundle(case, scratch)
        names = bundle.model["class_names"]
        tree = evaluation_from_counts(counts, names, case.settings.evaluate)
        tree |= {"val_hash": case.val_hash, "bundle_digest": case.champion.bundle_digest}
        return _reference(case, bundle, tree, counts)


def _champion_bundle(case: _Champion, target: Path) -> opener.Bundle:
    champion = case.champion
    return read_bundle(
        artifact.checked_bundle(
            case.store, case.settings.registry.model, champion.number, champion.bundle_digest,
            target,
        )
    )  # fmt: skip


def _reference(
    case: _Champion, bundle: opener.Bundle, evaluation: dict[str, Any], counts: pd.DataFrame
) -> ChampionEvaluation:
    described = bundle.model
    return ChampionEvaluation(
        model=case.settings.registry.model,
        version=case.champion.number,
        bundle_digest=case.champion.bundle_digest,
        class_names=tuple(described["class_names"]),
        trained_on=paired_counts.trained_on(case.root, described, case.val_hash),
        val_hash=case.val_hash,
        evaluation=evaluation,
        counts=counts,
    )


def _forget(root: Path) -> None:
    kept = kept_champion.directory(root)
    if kept.exists():
        shutil.rmtree(kept)
