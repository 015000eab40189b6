"""The branches ``runs/NAME``, each with the result of a run: which of them something needs."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from segops.operate import results, worktree
from segops.record import lineage
from segops.record.lineage import tag
from segops.record.tracking import Store
from segops.release import named
from segops.release.named import Held


@dataclass(frozen=True)
class Branch:
    """A branch of a repository.

    Attributes:
        name: Its full name.
        commit: The commit at its top.
        made: When that was committed, in seconds since 1970.
        is_checked_out: Whether a worktree works on it.
        version: Model and number of the version whose result it holds; None: it holds none.
    """

    name: str
    commit: str
    made: float
    is_checked_out: bool
    version: tuple[str, str] | None


def every(home: Path) -> list[Branch] | None:
    """Return the branches of a repository; None outside git."""
    fields = "objectname", "refname", "committerdate:unix", "worktreepath", "contents:subject"
    form = "%00".join(f"%({field})" for field in fields)
    try:
        lines = worktree.git(home, "for-each-ref", f"--format={form}", "refs/heads").split("\n")
    except worktree.GitError:
        return None
    found = []
    for line in filter(None, lines):
        commit, name, made, place, subject = line.split("\0", 4)
        version = results.version_of(name, subject)
        found.append(Branch(name, commit, float(made), bool(place), version))
    return found


def without_version(
    branches: Sequence[Branch], versions: Sequence[Held], staying: Sequence[Held]
) -> list[Branch]:
    """Return the branches with the result of a version that is gone, or goes now.

    A later version of the model shows that the record had it.

    Args:
        branches: Of the repository.
        versions: All versions of the record.
        staying: Those of them that stay.
    """
    names = {(one.model, one.version.number) for one in staying}
    newest: dict[str, int] = {}
    for one in versions:
        newest[one.model] = max(newest.get(one.model, 0), int(one.version.number))
    return [
        one
        for one in branches
        if one.version is not None
        and one.version not in names
        and one.version[0] in newest
        and int(one.version[1]) <= newest[one.version[0]]
    ]


def unneeded(
    home: Path,
    store: Store,
    left: Sequence[Branch],
    staying: Sequence[Held],
    *,
    rejected: bool,
) -> Iterator[Branch]:
    """Yield those of the branches without a version that no tag, ledger or version names.

    Args:
        home: The main checkout.
        store: The record.
        left: The branches, as :func:`without_version` returns them.
        staying: The versions that stay.
        rejected: Whether a version that the ledger says no more of than that the gate refused it
            counts as one that the ledger does not name.
    """
    kept = _tagged(home) | {one.version.tags.get(tag(lineage.RESULT_FIELD)) for one in staying}
    models = {one.version[0] for one in left if one.version is not None}
    ledgers = {model: named.by_ledger(store, home, model) for model in models}
    free: set[str | None] = {None, named.REFUSED} if rejected else {None}
    for one in left:
        assert one.version is not None
        model, number = one.version
        words = ledgers[model]
        is_named = words is None or words.get(number) not in free
        has_tag = worktree.has_ref(home, results.tag_of(model, number))
        if not (is_named or has_tag or one.commit in kept or one.is_checked_out):
            yield one


def _tagged(home: Path) -> set[str | None]:
    """Return the commits that a tag names."""
    form = "--format=%(objectname) %(*objectname)"
    return {*worktree.git(home, "for-each-ref", form, "refs/tags").split()}
