"""The scores on the test split, each written down with who and when.

The score of a registered version is an entry of its ledger; that of any other model is a line of a
file in the main checkout. Nothing decides by them.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from mlflow.exceptions import MlflowException

from segops import paths
from segops.params.file import load_params
from segops.record.lineage import started_by
from segops.record.tracking import NoRecordError, Store, is_missing, locked, session
from segops.release import changes, versions
from segops.release.chain import Entry, finite
from segops.release.ledger import append_lines
from segops.release.resolve import find_version, parsed
from segops.release.versions import Version
from segops.report.figures import sentence
from segops.runtime.errors import SegopsError

KEPT = ("miou", "miou_low", "miou_high", "confidence", "images", "bundle_digest")
"""What is written down of an evaluation."""


@dataclass(frozen=True)
class Look:
    """A score on a test split.

    Attributes:
        time: UTC, ISO 8601.
        by: Who or what scored it.
        model: The model in words.
        test_hash: Hash of the split.
        result: MIoU and its interval, a sentence.
    """

    time: str
    by: str
    model: str
    test_hash: str
    result: str

    def __str__(self) -> str:
        """Return it as words in one line."""
        at = self.time[:16].replace("T", " ")
        return f"{at} UTC by {self.by}: {self.model}, {self.result}"


def earlier(root: Path, reference: str | None, test_hash: str) -> list[Look]:
    """Return the scores on a test split that are known here, oldest first.

    Args:
        root: The workspace.
        reference: The model as the user named it; its ledger is read.
        test_hash: Hash of the split.

    Raises:
        TransientError: MLflow does not answer.
        TamperedError: The ledger was tampered with.
        SegopsError: The file of the checkout is damaged.
    """
    try:
        with session(root, load_params(root).registry, create=False) as store:
            name = _model(root, reference)
            entries = changes.open_registry(root, store, name).ledger.entries()
    except NoRecordError:
        entries = []
    looks = [_of_entry(one) for one in entries if one.kind == "tested"] + _kept(_file(root))
    return sorted((one for one in looks if one.test_hash == test_hash), key=lambda look: look.time)


def write_down(
    root: Path,
    reference: str | None,
    evaluation: Mapping[str, Any],
    test_hash: str,
    excluded: int,
    before: int,
) -> str:
    """Write a score on the test split down; the caller shows it afterwards.

    Args:
        root: The workspace.
        reference: The model as the user named it.
        evaluation: Its :func:`segops.evaluate.metrics_file.evaluation` on the split.
        test_hash: Hash of the split.
        excluded: Images of the split left out, because the model was trained on them.
        before: Number of earlier scores on the split.

    Returns:
        Where it stands.

    Raises:
        TransientError: MLflow does not answer.
        TamperedError: The ledger was tampered with.
        BusyError: Another process of this main checkout changes the registry.
        OSError: The file of the checkout cannot be written.
    """
    details = {key: evaluation[key] for key in KEPT}
    details |= {"test_hash": test_hash, "excluded": excluded, "before": before}
    try:
        with session(root, load_params(root).registry, create=False) as store:
            name = _model(root, reference)
            version = _registered(store, name, reference, evaluation["bundle_digest"])
            if version is not None:
                registry = changes.open_registry(root, store, name)
                with changes.prepared(registry):
                    entry = registry.ledger.append(
                        "tested",
                        verdict="scored",
                        reason=f"{sentence(evaluation)}.",
                        by=started_by(),
                        version=version.number,
                        run_id=version.run_id,
                        details=details,
                        again=True,
                    )
                    changes.publish(registry, version.run_id)
                return f"entry {entry.sequence} of the {registry.ledger.where}"
    except NoRecordError:
        pass
    bundle = f"bundle {evaluation['bundle_digest'][:12]}"
    now = datetime.now(UTC).isoformat(timespec="seconds")
    look = Look(now, started_by(), bundle, test_hash, sentence(evaluation))
    line = json.dumps(asdict(look) | {"details": finite(details)}, ensure_ascii=False)
    path = _file(root)
    with locked(root, "ledger"):
        _kept(path)  # a damaged file is not written on
        path.parent.mkdir(parents=True, exist_ok=True)
        append_lines(path, [line])
    return str(paths.TEST_SCORES)


def _model(root: Path, reference: str | None) -> str:
    """Return the name of the registered model whose ledger counts."""
    if reference is not None and reference.startswith("models:"):
        return parsed(reference)["name"]
    return load_params(root).registry.model


def _registered(store: Store, name: str, reference: str | None, digest: str) -> Version | None:
    """Return the version that was scored, or None for a model that is no version."""
    if reference is not None and reference.startswith("models:"):
        return find_version(store, reference)[1]
    try:
        return versions.find(store, name, digest)
    except MlflowException as error:
        if is_missing(error):
            return None
        raise


def _of_entry(entry: Entry) -> Look:
    return Look(
        entry.time,
        entry.by,
        f"version {entry.version}",
        str(entry.details.get("test_hash")),
        entry.reason.removesuffix("."),
    )


def _file(root: Path) -> Path:
    return paths.state_home(root) / paths.TEST_SCORES


def _kept(path: Path) -> list[Look]:
    """Return the lines of the checkout's file; a last line without its end is left out.

    Raises:
        SegopsError: The file is damaged.
    """
    if not path.is_file():
        return []
    looks = []
    for number, line in enumerate(
        path.read_text(encoding="utf-8", errors="replace").split("\n")[:-1], 1
    ):
        try:
            tree = json.loads(line)
            looks.append(Look(**{name: str(tree[name]) for name in Look.__dataclass_fields__}))
        except (ValueError, KeyError, TypeError):
            raise SegopsError(
                f"{path}: line {number} is no score on a test split; the file was changed. "
                "Correct the line, or move the file away: then its scores count no longer."
            ) from None
    return looks


def listed(looks: Sequence[Look], most: int = 5) -> str:
    """Say how often a test split was scored before, and name the last scores."""
    if not looks:
        return "This test split was not scored before, as far as this checkout knows."
    times = "once" if len(looks) == 1 else f"{len(looks)} times"
    lines = "\n".join(f"  {look}" for look in looks[-most:])
    return f"This test split was scored {times} before:\n{lines}"
