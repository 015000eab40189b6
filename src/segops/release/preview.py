"""What the gate would decide on the workspace's model; nothing is written."""

from __future__ import annotations

from pathlib import Path

from segops.params.file import load_params
from segops.record import stage_outputs
from segops.record.tracking import session
from segops.release import releases, versions
from segops.release.changes import open_registry
from segops.release.gate import Decision, decide
from segops.release.gather import gather
from segops.runtime.errors import SegopsError


def preview(root: Path) -> Decision:
    """Return the decision that the gate would make now.

    Raises:
        SegopsError: There is no record, or the workspace's model is no version of it.
        TransientError: MLflow does not answer.
        TamperedError: The ledger was tampered with.
    """
    settings = load_params(root)
    digest = stage_outputs.read(root).bundle_digest
    with session(root, settings.registry, create=False) as store:
        if versions.find(store, settings.registry.model, digest) is None:
            raise SegopsError(
                f"{settings.registry.model} has no version with this workspace's model. "
                "`segops promote` registers it."
            )
        registry = open_registry(root, store, settings.registry.model)
        history = releases.read(registry.ledger.entries())
        return decide(gather(root, settings, store, history).evidence, settings.gate)
