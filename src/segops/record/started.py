"""Keeps from which code and software a training started, until the training is recorded.

A checkout may move on to another commit while the training runs, and MLflow may be told of it much
later.
"""

from __future__ import annotations

import json
import logging
from contextlib import suppress
from pathlib import Path

from segops import files, paths
from segops.record import lineage
from segops.record.lineage import PATCH_FIELD, Lineage, tag

FILE = paths.STATE / "started.json"
PATCH = paths.STATE / "started.patch"
ENVIRONMENT = "environment.txt"
log = logging.getLogger("segops")


def keep(root: Path, fingerprint: str, *, goes_on: bool) -> None:
    """Write down the origin of a training that starts now; a failure is a warning.

    Args:
        root: The workspace.
        fingerprint: The training's.
        goes_on: Whether it continues an interrupted training, whose origin stays.
    """
    if goes_on and _kept(root, fingerprint) is not None:
        return
    try:
        found = lineage.origin(root)
        (root / FILE).unlink(missing_ok=True)
        files.write_bytes(root / PATCH, found.artifacts.get("code.patch", b""))
        kept = {
            "fingerprint": fingerprint,
            "tags": found.tags,
            ENVIRONMENT: found.artifacts[ENVIRONMENT].decode(),
        }
        files.write_json(root / FILE, kept)  # last: it vouches for the patch
    except OSError as error:
        log.warning(
            "%s was not written: %s. Record this training before the checkout has another commit.",
            root / FILE,
            error.strerror or error,
        )


def origin(root: Path, fingerprint: str) -> Lineage:
    """Return the origin of a training: that of its start where it is kept, else that of now."""
    return _kept(root, fingerprint) or lineage.origin(root)


def _kept(root: Path, fingerprint: str) -> Lineage | None:
    with suppress(OSError, ValueError, LookupError, TypeError, AttributeError):
        kept = json.loads((root / FILE).read_text(encoding="utf-8"))
        patch = (root / PATCH).read_bytes()
        tags = {str(name): str(value) for name, value in kept["tags"].items()}
        artifacts = {ENVIRONMENT: kept[ENVIRONMENT].encode()}
        if patch:
            artifacts["code.patch"] = patch
        digest = files.sha256_bytes(patch) if patch else None
        if (kept["fingerprint"], tags.get(tag(PATCH_FIELD))) == (fingerprint, digest):
            return Lineage(tags, artifacts)
    return None
