"""The weights that a training started from, and their licence."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import yaml
from mlflow.exceptions import MlflowException

from segops import paths
from segops.models.licences import NONE_NEEDED, UNKNOWN, published
from segops.params.file import Params
from segops.params.model import ModelParams
from segops.record.lineage import tag
from segops.record.tracking import Store, is_missing

LICENCE = tag("weights_licence")
"""Tag of a run and of a version: the licence's name, `unknown`, or `none needed`."""


def licence(
    store: Store,
    root: Path,
    training: Mapping[str, Any],
    settings: Params,
    decided: Mapping[str, str] | None = None,
) -> tuple[str, str]:
    """Return the weights that the workspace's training started from, and their licence.

    A model that started from a registered version inherits that version's licence. The parameters
    are those of ``dvc.lock`` where DVC ran this training, and those of ``params.yaml`` where DVC
    never ran one. Where it ran another, none are known, and nor is the licence.

    Args:
        store: The record.
        root: The workspace.
        training: Content of ``metrics/training.json``.
        settings: Parameters of the workspace.
        decided: Licence by version of the registered model, as the gate decided on it; it precedes
            the version's tag.

    Returns:
        `ENCODER/NAME` of published weights, the path of a file, the address of a model, an empty
        text for a random start, or ``metrics/training.json`` with words where it is not known; and
        the licence's name in lower case, `unknown` or `none needed`.

    Raises:
        MlflowException: MLflow does not answer.
    """
    model = _trained_with(root, settings)
    start = training.get("start_model") or (model and model["start_from"])
    if start is not None:
        return str(start), _inherited(store, settings, training, decided or {})
    if model is None:
        return f"{paths.TRAINING} (dvc.lock names another)", UNKNOWN
    encoder, weights = str(model["encoder"]), model["encoder_weights"]
    if weights is None:
        return "", NONE_NEEDED
    if (root / Path(weights).expanduser()).is_file():
        return str(weights), UNKNOWN
    name = weights if "/" in weights else f"{encoder}/{weights}"
    return str(name), published(encoder, weights)


def _trained_with(root: Path, settings: Params) -> dict[str, Any] | None:
    """Return the section `model` that the workspace's weights were trained with, if it is known."""
    now = settings.model.model_dump(mode="json")
    lock, training = root / "dvc.lock", root / paths.TRAINING
    if not lock.is_file():
        return now
    stages = (yaml.safe_load(lock.read_text(encoding="utf-8")) or {}).get("stages") or {}
    stage = stages.get("train")
    if stage is None:
        return now
    digest = hashlib.md5(training.read_bytes(), usedforsecurity=False).hexdigest()
    outputs = {out["path"]: out.get("md5") for out in stage.get("outs") or ()}
    if outputs.get(paths.TRAINING.as_posix()) != digest:
        return None
    locked = stage.get("params", {}).get("params.yaml", {}).get("model") or {}
    return {**ModelParams().model_dump(mode="json"), **locked}


def _inherited(
    store: Store, settings: Params, training: Mapping[str, Any], decided: Mapping[str, str]
) -> str:
    """Return the one licence of the versions with the weights that the training started from."""
    weights = training.get("start_sha256")
    if not weights:
        return UNKNOWN
    try:
        found = store.client.search_model_versions(f"tags.`{tag('weights_sha256')}` = '{weights}'")
    except MlflowException as error:
        if is_missing(error):
            return UNKNOWN
        raise
    names = {
        (decided.get(str(one.version)) if one.name == settings.registry.model else None)
        or one.tags.get(LICENCE, UNKNOWN)
        for one in found
    }
    return str(names.pop()) if len(names) == 1 else UNKNOWN
