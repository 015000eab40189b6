"""Keeps the result of a run in git: a commit over the code's commit, and the tag of a release.

Figures and tables are copies below ``results/``: DVC refuses outputs that git tracks in their own
place.
"""

from __future__ import annotations

import logging
import re
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from segops import faults, paths
from segops.operate import worktree
from segops.params.file import Params, load_params
from segops.record import lineage
from segops.record.lineage import tag
from segops.record.tracking import Store, session
from segops.release import versions
from segops.runtime.errors import SegopsError
from segops.words import shown_size

DIRECTORY = Path("results")
COPIED = (
    paths.TRAINING, paths.EVALUATION, paths.LEARNING_CURVES, paths.CONFUSION_PLOT,
    paths.CLASS_PLOT, paths.EXPORT_PARITY, paths.VALIDATION_JSON,
)  # fmt: skip
LARGEST = 2**20
"""Bytes of a file that is committed."""
CODE = ("package_commit", "code_commit")
"""Lineage of the commit of a version's code; that of its packaging where it was another."""
DIFFERS = ("package_code_differs", "code_differs")
log = logging.getLogger("segops")


@contextmanager
def as_warning(lost: str) -> Iterator[None]:
    """Make a warning of what hinders the keeping of a result: the verdict stands.

    Args:
        lost: What is not done then, for the message.
    """
    try:
        with faults.named():
            yield
    except SegopsError as error:
        log.warning("%s: %s", lost, error)


def branch_of(name: str) -> str:
    """Return the full name of the branch that holds a run's result."""
    return f"refs/heads/runs/{name}"


def tag_of(model: str, version: str) -> str:
    """Return the full name of a release's tag."""
    return f"refs/tags/model/{model}/v{version}"


def message(run: str, model: str, version: str, verdict: str) -> str:
    """Return the message of the commit that holds a run's result."""
    return f"Results of run {run}: {model} version {version}, {verdict}\n"


def version_of(branch: str, subject: str) -> tuple[str, str] | None:
    """Return model and version whose result a branch holds, or None.

    Args:
        branch: Full name of the branch.
        subject: First line of the message of the commit at its top.
    """
    found = re.fullmatch(r"Results of run (\S+): (.+) version (\d+), \S+", subject)
    return (found[2], found[3]) if found and branch == branch_of(found[1]) else None


def commit(root: Path, parent: str, message: str) -> str:
    """Commit ``dvc.lock``, parameters, metrics, plots' tables and reports over a commit.

    A file of more than :data:`LARGEST` bytes is left out, which is said in the log.

    Args:
        root: The workspace.
        parent: The commit of its code.
        message: The message.

    Raises:
        SegopsError: Git refuses.
    """
    data = load_params(root).data.path
    held = {name: root / name for name in ("params.yaml", "dvc.lock", f"{data}.dvc")}
    held |= {(DIRECTORY / path).as_posix(): root / path for path in COPIED}
    held[(DIRECTORY / paths.DECISION.name).as_posix()] = root / paths.DECISION
    sizes = {name: path.stat().st_size for name, path in held.items() if path.is_file()}
    for name, size in sizes.items():
        if size > LARGEST:
            log.warning(
                "%s: %s, not committed with the result: a file may have %s.",
                held[name], shown_size(size), shown_size(LARGEST),
            )  # fmt: skip
    present = {name: held[name] for name, size in sizes.items() if size <= LARGEST}
    return worktree.commit_files(root, parent, present, message)


def note(root: Path, number: str, result: str) -> None:
    """Write the result's commit into the lineage of a version that has none yet.

    Args:
        root: The workspace that holds the version's model.
        number: The version.
        result: The commit.

    Raises:
        TransientError: MLflow does not answer.
    """
    settings = load_params(root).registry
    with session(root, settings) as store:
        version = versions.get(store, settings.model, number)
        field = tag(lineage.RESULT_FIELD)
        if field not in version.tags:
            versions.set_tags(store, settings.model, version, {field: result})


def mark(root: Path, number: str, *, in_place: bool = False) -> None:
    """Tag the champion `model/NAME/vN` in git, unless it is tagged; outside git do nothing.

    The tag names the commit of its result; with `in_place` the present workspace holds the result,
    which is committed over the commit of the version's code if git holds all of that code. Without
    a result's commit, the tag names the commit of the code. What hinders is a warning: the release
    stands.
    """
    if worktree.head(root) is None:
        return
    with as_warning(f"Version {number} gets no tag in git"):
        settings = load_params(root)
        ref = tag_of(settings.registry.model, number)
        if worktree.has_ref(root, ref):
            return
        with session(root, settings.registry, create=False) as store:
            commit_id = _commit_of(root, settings, store, number, in_place)
        if commit_id is not None and worktree.set_ref(root, ref, commit_id):
            log.info("Git tag %s names %s.", ref.removeprefix("refs/tags/"), commit_id[:12])


def _commit_of(
    root: Path, settings: Params, store: Store, number: str, in_place: bool
) -> str | None:
    model = settings.registry.model
    if versions.aliases(store, model).get(versions.CHAMPION) != number:
        return None
    version = versions.get(store, model, number)
    known = version.tags.get(tag(lineage.RESULT_FIELD))
    made_by = next(filter(None, (version.tags.get(tag(one)) for one in CODE)), None)
    named = made_by if known is None else known
    if named is None or not worktree.has_commit(root, named):
        return None
    is_in_git = "true" not in {version.tags.get(tag(one)) for one in DIFFERS}
    if known is None and in_place and is_in_git:
        named = commit(root, named, f"Results of {model} version {number}\n")
        versions.set_tags(store, model, version, {tag(lineage.RESULT_FIELD): named})
    return named
