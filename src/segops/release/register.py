"""Registers the workspace's bundle as a version of the registered model, once per bundle."""

from __future__ import annotations

import math
from dataclasses import dataclass
from pathlib import Path

from mlflow.exceptions import MlflowException

from segops.params.file import load_params
from segops.record import artifact, lineage, runs, stage_outputs, weights
from segops.record.lineage import tag
from segops.record.tracking import Store, locked, session
from segops.record.update import EVALUATED_AS, Recorded
from segops.release import publish_card, versions
from segops.release.ledger import Ledger
from segops.runtime.errors import SegopsError

DESCRIPTION = "Segmentation models in PASCAL VOC format. Aliases are moved by segops' gate alone."


@dataclass(frozen=True)
class Registered:
    """What :func:`register` did.

    Attributes:
        version: The version that holds the workspace's bundle.
        created: Whether this call created it.
    """

    version: str
    created: bool


def register(root: Path, recorded: Recorded) -> Registered:
    """Register the workspace's bundle and give the version the alias `challenger`.

    A bundle that is registered already keeps its version. The version's tags hold lineage and
    scores and are updated from the run. The champion does not become challenger.

    Args:
        root: The workspace.
        recorded: What :func:`segops.record.update.record` returned.

    Raises:
        TransientError: MLflow does not answer.
        SegopsError: The run lacks the model, or MLflow refuses.
    """
    settings = load_params(root).registry
    digest = stage_outputs.read(root).bundle_digest
    with session(root, settings) as store, locked(root, "registry"):
        version = versions.find(store, settings.model, digest)
        created = version is None
        tags = _tags(store, recorded.run_id, digest)
        if version is None:
            number = _create(store, settings.model, recorded.run_id, digest, tags)
            version = versions.get(store, settings.model, number)
        versions.set_tags(store, settings.model, version, tags)
        if versions.aliases(store, settings.model).get(versions.CHAMPION) != version.number:
            versions.set_alias(store, settings.model, versions.CHALLENGER, version.number)
        version = versions.get(store, settings.model, version.number)
        publish_card.publish(Ledger(store, root, settings.model), version, settings.card)
        return Registered(version.number, created)


def _create(store: Store, name: str, run_id: str, digest: str, tags: dict[str, str]) -> str:
    logged = artifact.find(store, run_id, digest)
    if logged is None:
        raise SegopsError(
            f"MLflow run {run_id} holds no model with the digest {digest[:12]}. "
            "`segops record` logs it."
        )
    try:
        store.client.create_registered_model(name, description=DESCRIPTION)
    except MlflowException as error:
        if error.error_code != "RESOURCE_ALREADY_EXISTS":
            raise
    made = store.client.create_model_version(
        name,
        source=logged.artifact_location,
        run_id=run_id,
        model_id=logged.model_id,
        # Versions are found by the tag of their digest, so tags are set in the same call.
        tags=tags,
    )
    return str(made.version)


def _tags(store: Store, run_id: str, digest: str) -> dict[str, str]:
    """Return the lineage and the scores of a run, as tags of its version."""
    run = store.client.get_run(run_id)
    names = {tag(name) for name in (*lineage.LINEAGE_FIELDS, lineage.PATCH_FIELD)}
    names |= {tag(name) for name in (*lineage.PACKAGE_FIELDS, *lineage.MACHINE_FIELDS)}
    names |= {EVALUATED_AS, runs.FINGERPRINT, weights.LICENCE}
    names |= {tag(lineage.FIRST_PARAMS_FIELD), tag(lineage.PROJECT_FIELD)}
    names |= {tag(name) for name in lineage.MADE_FROM_FIELDS}
    is_evaluated = run.data.tags.get(tag("bundle_digest")) == digest
    if not is_evaluated:  # the run's evaluation tags describe a different bundle
        names -= {tag(name) for name in (*lineage.DATA_FIELDS, *lineage.PACKAGE_FIELDS)}
        names.discard(EVALUATED_AS)
    tags = {name: value for name, value in run.data.tags.items() if name in names}
    tags[tag("bundle_digest")] = digest
    for name in ("miou", "miou_low", "miou_high"):
        if is_evaluated and name in run.data.metrics:
            value = run.data.metrics[name]
            tags[tag(name)] = versions.NO_VALUE if math.isnan(value) else f"{value:.6f}"
    return tags
