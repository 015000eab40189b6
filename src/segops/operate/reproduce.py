"""Makes a registered version again in a worktree, and writes the outcome into the ledger."""

from __future__ import annotations

import logging
import platform
import shlex
import socket
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from segops import files, paths
from segops.operate import worktree
from segops.pipeline import run_tied
from segops.record import kept_lineage, lineage, machine
from segops.record.kept_lineage import KeptLineage
from segops.record.lineage import MACHINE_FIELDS, started_by, tag
from segops.record.reproduce import (
    NO_DATA,
    TRAINED_WITH,
    WORKTREE,
    bundle_directory,
    making_script,
)
from segops.record.runs import LINEAGE_DIRECTORY
from segops.release import releases, reproductions, vouched
from segops.release.changes import Registry, changing, looking, publish
from segops.release.reproductions import MOST, REPRODUCED, Model, Outcome
from segops.release.resolve import numbered
from segops.release.versions import Version
from segops.runtime.errors import SegopsError

log = logging.getLogger("segops")


@dataclass(frozen=True)
class Reproduced:
    """The outcome of a reproduction.

    Attributes:
        version: The version.
        outcome: Its outcome.
        reason: The reason in words.
        differs: What differs between the machine that trained and this one.
        kept: The worktree, where it was kept.
    """

    version: str
    outcome: Outcome
    reason: str
    differs: tuple[str, ...]
    kept: Path | None

    @property
    def confirmed(self) -> bool:
        """Whether the version was made again: the same bits, or mIoU within the tolerance."""
        return self.outcome in REPRODUCED


def reproduce(
    root: Path,
    wanted: str,
    tolerance: float,
    on_line: Callable[[str], None],
    keep: bool = False,
    trust_tags: bool = False,
) -> Reproduced:
    """Train, package and evaluate a version again from its lineage, and compare.

    The worktree lies in the main checkout under ``.segops``. It is removed at the end, unless the
    outcome is `differs` or `failed`, or `keep` is set. The next reproduction of the version
    replaces what was kept.

    Args:
        root: A workspace.
        wanted: The version's number or an alias.
        tolerance: Largest difference of mIoU.
        on_line: Called with every line that the stages print, and with the outcome before it is
            written into the ledger.
        keep: Whether to keep the worktree.
        trust_tags: Whether to run what the version's tags name without a statement that names the
            same.

    Raises:
        SegopsError: There is no such version, its lineage is incomplete or was changed, its commit
            is not in this repository, no statement vouches for its tags, or its data are not to be
            had; nothing was changed.
        TransientError: MLflow does not answer.
    """
    home = paths.state_home(root)
    with files.exclusive(home / paths.REPRODUCE_LOCK, "a reproduction"):
        with looking(root) as registry:
            version = numbered(registry.store, registry.model, wanted)
            name = f"{registry.model} version {version.number}"
            expected = Model.of_version(version)
            _require_digest(registry, version, name)
            kept = kept_lineage.fetch(registry.store, name, version.run_id, version.tags, home)
            for commit in filter(None, (kept.commit, kept.packaged_at)):
                _require_commit(home, name, commit)
            _require_vouched(registry, version, kept, name, trust_tags)
        folder = home / paths.STATE / f"reproduce-{version.bundle_digest[:8]}"
        tree = folder / WORKTREE
        worktree.remove(home, folder)
        stays, differs = keep, tuple[str, ...]()
        try:
            status, said = _make(home, folder, version, kept, on_line)
            if status == NO_DATA:
                raise SegopsError(
                    f"{name}: its data ({version.tags[tag('data_md5')]}) are neither in DVC's "
                    f"cache nor in a remote: {said} Put the data back "
                    f"(`dvc add {shlex.quote(kept.data_path)}`, or a remote that has them), and "
                    "repeat the command."
                )
            made = None if status else _made(tree / kept.project)
            if made is None:
                outcome: Outcome = "failed"
                reason = f"its stages ended with status {status}"
            else:
                outcome, reason = reproductions.compare(expected, made.model, tolerance)
                differs = tuple(
                    reproductions.differences(
                        version.tags, kept.training, kept.environment, made.here,
                        lineage.installed(),
                    )
                )  # fmt: skip
            stays = keep or outcome not in REPRODUCED
            on_line(f"{name}: {outcome}: {reason}.")
            _write_down(root, version, outcome, reason, differs, made, tolerance)
        finally:
            if not stays:
                worktree.put_away(home, folder)
        return Reproduced(version.number, outcome, reason, differs, tree if stays else None)


@dataclass(frozen=True)
class _Made:
    """The model that was made again.

    Attributes:
        model: What is compared of it.
        here: Its ``metrics/training.json`` and this machine's parts.
    """

    model: Model
    here: Mapping[str, Any]


def _make(
    home: Path,
    folder: Path,
    version: Version,
    kept: KeptLineage,
    on_line: Callable[[str], None],
) -> tuple[int, str]:
    """Write lineage and script into a new folder, run the script, return status and last line.

    The script is written here from what was checked; one that lies in the registry is not run.
    """
    held = folder / LINEAGE_DIRECTORY
    for path, content in kept.artifacts.items():
        files.write_bytes(held / path, content)
    script = held / bundle_directory(version.bundle_digest) / "reproduce.sh"
    text = making_script(
        kept.commit, kept.packaged_at, kept.data_path, kept.replaced, kept.project, kept.encoder
    )
    files.write_text(script, text)
    status, lines = run_tied(home, ["segops.operate.shell", str(script)], on_line)
    return status, lines[-1].strip()


def _made(tree: Path) -> _Made:
    training = files.read_json(tree / paths.TRAINING)
    package = files.read_json(tree / paths.PACKAGE)
    evaluation = files.read_json(tree / paths.EVALUATION)
    model = Model(
        str(training["weights_sha256"]),
        str(package["bundle_digest"]),
        str(evaluation["val_hash"]),
        evaluation["miou"],
    )
    return _Made(model, {**training, "python": platform.python_version(), **machine.parts()})


def _write_down(
    root: Path,
    version: Version,
    outcome: Outcome,
    reason: str,
    differs: Sequence[str],
    made: _Made | None,
    tolerance: float,
) -> None:
    here = machine.parts() if made is None else made.here
    names = ("device", "precision", "threads", "python", *MACHINE_FIELDS)
    details: dict[str, Any] = {
        "machine": socket.gethostname(),
        **{name: here[name] for name in names if here.get(name) is not None},
        "tolerance": tolerance,
        "registered": asdict(Model.of_version(version)),
        "made": None if made is None else asdict(made.model),
        "differs": list(differs[:MOST]),
        "differences": len(differs),
    }
    with changing(root) as registry:
        registry.ledger.append(
            "reproduced",
            verdict=outcome,
            reason=f"On {details['machine']}: {reason}.",
            by=started_by(),
            version=version.number,
            run_id=version.run_id,
            details=details,
            again=True,
        )
        publish(registry, version.run_id)


def _require_digest(registry: Registry, version: Version, name: str) -> None:
    """Require that the ledger decided on, and released, the bundle that a version's tag names."""
    entries = registry.ledger.entries()
    decided = releases.last_decision(entries, version.number)
    digest = None if decided is None else decided.details.get("bundle_digest")
    for known, what in (
        (digest, "decided on"),
        (releases.read(entries).digests.get(version.number), "released"),
    ):
        if known is not None and known != version.bundle_digest:
            raise SegopsError(
                f"{name}: its tag says that its artifact is "
                f"{version.bundle_digest[:12] or '(none)'}, the ledger {what} {str(known)[:12]}. "
                "The tag was changed; set it back."
            )


def _require_vouched(
    registry: Registry, version: Version, kept: KeptLineage, name: str, trust_tags: bool
) -> None:
    """Require that the statement of the decision names what the version's tags name."""
    why = vouched.why_not(registry.ledger, version)
    is_named = tag(lineage.FIRST_PARAMS_FIELD) in version.tags
    if why is None and TRAINED_WITH in kept.artifacts and not is_named:
        why = f"no tag holds the digest of its {TRAINED_WITH}"
    if why is None:
        return
    told = f"{name}: {why}. Whoever can edit its tags chooses the code that a reproduction runs."
    if not trust_tags:
        raise SegopsError(
            f"{told} Look at them in MLflow; `segops reproduce {version.number} --trust-tags` runs "
            "what they name."
        )
    log.warning("%s It runs: --trust-tags.", told)


def _require_commit(home: Path, name: str, commit: str) -> None:
    if not worktree.has_commit(home, commit):
        raise SegopsError(
            f"{name}: its commit {commit[:12]} is not in the repository {home}. `git fetch` the "
            "branch that has it, and repeat the command."
        )
