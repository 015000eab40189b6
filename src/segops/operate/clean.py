"""Removes what no release needs: unnamed versions and runs, unused objects of DVC's cache, logs."""

from __future__ import annotations

import json
import logging
import time
from collections import Counter
from collections.abc import Callable, Collection, Iterable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

import yaml

from segops import files, paths
from segops.operate import branches, leftovers, prefect_history, runs, worktree
from segops.operate.backup import KEEP_LOCK, place_of
from segops.operate.leftovers import Piece, params_of_workspaces
from segops.operate.space import Space, Tally, taken
from segops.params.file import load_params
from segops.pipeline import cache
from segops.record import moved
from segops.record.leftovers import SECONDS_OF_AN_UPLOAD
from segops.record.lineage import tag
from segops.record.reproduce import bundle_directory
from segops.record.runs import LINEAGE_DIRECTORY
from segops.record.tracking import (
    LOCAL,
    Store,
    has_record,
    identity,
    locked,
    session,
    tracking_uri,
    without_credentials,
)
from segops.release import named, unnamed
from segops.release.ledger import of_others
from segops.release.named import Held
from segops.runtime.errors import SegopsError
from segops.voc.cached import listed

DAY = 86400.0
NEEDED_BY_VERSIONS = ("DVC's cache", "branch of a run")
"""Kinds of things that go where no version that stays needs them."""
RUNS_LOCK = paths.RUNS / ".lock"
"""Held while a run in a worktree starts or is removed."""
log = logging.getLogger("segops")


@dataclass
class Plan:
    """What a clean-up removes.

    Attributes:
        pieces: What goes, oldest first.
        young: What could go, but for its age.
        total: Bytes of record, cache and state on this machine before.
        notes: What is left alone, and why.
        refused: Bytes of versions that the gate only refused, which `rejected` adds.
        server: Address of the server whose record is cleaned; empty where none is.
    """

    pieces: list[Piece] = field(default_factory=list)
    young: list[Piece] = field(default_factory=list)
    total: int = 0
    notes: list[str] = field(default_factory=list)
    refused: int = 0
    server: str = ""

    @property
    def bytes(self) -> int:
        """Bytes that the clean-up frees on this machine."""
        return freed(one for one in self.pieces if not one.is_on_server)

    @property
    def server_bytes(self) -> int:
        """Bytes that the clean-up frees on the server."""
        return freed(one for one in self.pieces if one.is_on_server)

    @property
    def young_bytes(self) -> int:
        """Bytes on this machine that could go, but for their age."""
        return freed(self.young)


def freed(pieces: Iterable[Piece]) -> int:
    """Return the bytes that are free once pieces are removed."""
    return Tally(one.space for one in pieces).bytes


@dataclass(frozen=True)
class Wanted:
    """What a user asks for.

    Attributes:
        older_than: Age, in seconds, from which a thing may go.
        budget: Bytes that record, cache and state may take on this machine; None: all that may go
            goes.
        rejected: Whether versions of which the ledger says but that the gate refused them may go.
        server: Whether versions, runs and models of a record on a server may go.
    """

    older_than: float = 30 * DAY
    budget: int | None = None
    rejected: bool = False
    server: bool = False


def plan(root: Path, wanted: Wanted) -> Plan:
    """Return what a clean-up would remove; nothing changes.

    Raises:
        TransientError: MLflow does not answer, or another DVC process is at work.
        SegopsError: DVC cannot read a branch, a tag or a worktree.
    """
    with _planned(paths.state_home(root), wanted) as found:
        return found


def clean(root: Path, wanted: Wanted, seen: Plan) -> Plan:
    """Remove what was planned, as far as it may still go; return what was removed.

    Raises:
        SegopsError: As :func:`plan`; or a run, a stage, a backup or a reproduction is under way.
    """
    home = paths.state_home(root)
    with ExitStack() as held:
        held.enter_context(files.exclusive(home / KEEP_LOCK, "a backup or a clean-up"))
        held.enter_context(files.exclusive(home / paths.REPRODUCE_LOCK, "a reproduction"))
        worktrees = [one for one in seen.pieces if one.kind == "worktree"]
        worktrees = [one for one in worktrees if _remove(one)]
        held.enter_context(files.exclusive(home / RUNS_LOCK, "the start of a run"))
        for run in runs.every(home):
            if run.state == "running":
                raise SegopsError(f"Run {run.name} is under way. Wait for its end, or stop it.")
        for place in worktree.workspaces(home):
            held.enter_context(files.exclusive(place / paths.RUN_LOCK, "a run"))
            held.enter_context(files.exclusive(place / paths.STAGE_LOCK, "a stage"))
        held.enter_context(locked(home, "record"))
        held.enter_context(locked(home, "registry"))
        with _planned(home, wanted, {(one.kind, one.name) for one in seen.pieces}) as found:
            removed, is_known = worktrees, True
            for one in found.pieces:
                if one.kind in NEEDED_BY_VERSIONS and not is_known:
                    continue
                with _told_if_it_fails(one, removed):
                    gone = _remove(one)
                if gone:
                    removed.append(one)
                elif one.versions:  # what else it needs is not known now
                    is_known = False
            found.pieces = removed
    return found


@contextmanager
def _told_if_it_fails(piece: Piece, removed: Sequence[Piece]) -> Iterator[None]:
    try:
        yield
    except BaseException:
        kinds = Counter(one.kind for one in removed)
        before = ", ".join(f"{kind}: {number}" for kind, number in kinds.items()) or "nothing"
        log.warning(
            "The clean-up ends at %s, of which a part may be gone. Removed before it: %s.",
            f"{piece.kind} {piece.name}",
            before,
        )
        raise


def _remove(piece: Piece) -> bool:
    """Remove a thing; return False, after a warning, where git keeps it or something names it."""
    try:
        return piece.remove() is not False
    except FileNotFoundError:
        return True
    except worktree.GitError as error:
        log.warning("%s %s stays: %s", piece.kind, piece.name, error)
        return False


@contextmanager
def _planned(
    home: Path, wanted: Wanted, seen: Collection[tuple[str, str]] | None = None
) -> Iterator[Plan]:
    """Yield the plan; its pieces can be removed within the block.

    Where kinds and names are given that were `seen`, nothing else goes.
    """
    every_params = list(params_of_workspaces(home))
    logged = leftovers.log_files(every_params)
    found = Plan(total=taken(*_places(home, logged)).total)
    pieces = [
        *leftovers.copies(home),
        *leftovers.reproductions(home),
        *leftovers.ended_runs(home),
        *leftovers.logs(home, logged),
    ]
    with ExitStack() as held:
        if history := prefect_history.note():
            found.notes.append(history)
        versions: list[Held] = []
        store: Store | None = None
        is_embedded = identity(home) == LOCAL
        where = without_credentials(tracking_uri(home))
        if wanted.server and not is_embedded:
            found.server = where
        elif not is_embedded:
            found.notes.append(f"The record at {where} is a server's and stays: see --server.")
        if has_record(home):
            settings = load_params(home).registry
            store = held.enter_context(session(home, settings, create=False))
            versions = named.held(store, home)
            kept = [one for one in versions if one.names]
            refused = [one for one in kept if one.is_only_refused]
            if wanted.rejected:
                kept = [one for one in kept if not one.is_only_refused]
            scope = unnamed.Scope(
                home,
                {one.registry.experiment for _, one in every_params},
                present_weights(home),
                time.time() - max(wanted.older_than, 0 if is_embedded else SECONDS_OF_AN_UPLOAD),
            )
            present = _record(store, scope, versions, kept) if is_embedded or wanted.server else []
            pieces += present
            if is_embedded and refused and not wanted.rejected:
                others = [one for one in kept if not one.is_only_refused]
                found.refused = freed(_record(store, scope, versions, others)) - freed(present)
        _choose(found, pieces, wanted, seen)
        is_dvc = (home / ".dvc/config").is_file()
        if store is None and is_dvc:
            found.notes.append(
                "DVC's cache stays: there is no record here that says what releases need. Where it "
                "is a server's, set MLFLOW_TRACKING_URI."
            )
        if store is not None and _knows_releases(home, found.notes):
            gone = {name for one in found.pieces for name in one.versions}
            staying = [one for one in versions if unnamed.name_of(one) not in gone]
            all_branches = branches.every(home)
            left = branches.without_version(all_branches or [], versions, staying)
            idle = branches.unneeded(home, store, left, staying, rejected=wanted.rejected)
            _choose(found, [_branch(home, one) for one in idle], wanted, seen)
            if is_dvc:
                commits = None
                if all_branches is not None:
                    commits = [one.commit for one in all_branches if one not in left]
                unused = _cache(held, home, store, staying, commits, found.notes)
                _choose(found, unused, wanted, seen)
        yield found


def _knows_releases(home: Path, notes: list[str]) -> bool:
    """Whether the record that was read names all releases that this checkout knows of."""
    others = [path.name for path in of_others(home, identity(home))]
    if others:
        notes.append(
            f"DVC's cache and the branches of runs stay: {paths.LEDGER}/{', '.join(others)} name "
            f"releases of another record than the one at "
            f"{without_credentials(tracking_uri(home))}. Where that record is a server's, set "
            "MLFLOW_TRACKING_URI; where nobody needs it, move the files away."
        )
    return not others


def _choose(
    found: Plan,
    pieces: Sequence[Piece],
    wanted: Wanted,
    seen: Collection[tuple[str, str]] | None = None,
) -> None:
    limit = time.time() - wanted.older_than
    gone = Tally(one.space for one in found.pieces if not one.is_on_server)
    for one in sorted(pieces, key=lambda piece: (piece.time, piece.name)):
        if one.time > limit:
            found.young.append(one)
        elif seen is not None and (one.kind, one.name) not in seen:
            continue
        elif one.is_on_server:
            found.pieces.append(one)
        elif wanted.budget is None or found.total - gone.bytes > wanted.budget:
            found.pieces.append(one)
            gone.add(one.space)


def _record(
    store: Store, scope: unnamed.Scope, versions: Sequence[Held], kept: Sequence[Held]
) -> list[Piece]:
    embedded = store.identity == LOCAL
    names = {unnamed.name_of(one) for one in kept}
    return [
        Piece(
            "record" if embedded else "record on the server",
            one.name,
            one.time,
            taken(*one.directories) if embedded else Space(one.served),
            one.remove,
            one.versions,
        )
        for one in unnamed.find(store, scope, versions, names)
    ]


def present_weights(home: Path) -> set[str]:
    """Return the SHA-256 of the models and the pretrained encoders in the workspaces."""
    written = (paths.TRAINING, paths.PRETRAINING)
    found = {_weights(one / path) for one in worktree.workspaces(home) for path in written}
    return {one for one in found if one is not None}


def _weights(path: Path) -> str | None:
    """Return the SHA-256 of the weights that a file of a workspace names, or None."""
    try:
        tree = json.loads(path.read_text(encoding="utf-8"))
        return str(tree["weights_sha256"])
    except (OSError, ValueError, LookupError, TypeError):
        return None


def _cache(
    held: ExitStack,
    home: Path,
    store: Store,
    kept: Sequence[Held],
    commits: Sequence[str] | None,
    notes: list[str],
) -> list[Piece]:
    """Return the objects of DVC's cache that neither git nor a kept version needs."""
    cached = cache.cache_of(home)
    place = cached("0" * 32).parent.parent
    if not place.resolve().is_relative_to(home.resolve()):
        notes.append(
            f"DVC's cache {place} lies outside this checkout, and others may use it: "
            "`dvc gc --workspace --all-branches --all-tags --projects OTHER` cleans it."
        )
        return []
    needed = {md5 for one in kept for md5 in _needed(store, cached, one)}
    unused = held.enter_context(cache.unused_objects(home, worktree.others(home), needed, commits))
    pieces = []
    for path in unused:
        name = path.relative_to(place).as_posix()
        # The moment at which it came into the cache: its content may be older.
        came = path.stat().st_ctime
        pieces.append(Piece("DVC's cache", name, came, taken(path), path.unlink))
    return pieces


def _needed(store: Store, cached: Callable[[str], Path], one: Held) -> Iterator[str]:
    """Yield the MD5 of a version's data; where it is in use also of the outputs of its stages."""
    digests = {one.version.tags.get(tag("data_md5"), "")}
    if one.is_in_use:
        digests |= set(_outputs(store, one))
    for digest in digests:
        yield digest
        if digest.endswith(".dir"):
            try:
                yield from listed(cached(digest).read_bytes()).values()
            except FileNotFoundError:
                continue
            except (ValueError, LookupError, TypeError):
                raise SegopsError(
                    f"{cached(digest)}: damaged, so that the files of {unnamed.name_of(one)} are "
                    "not known, and nothing is removed. Delete it, and `dvc fetch` it again."
                ) from None


def _outputs(store: Store, one: Held) -> Iterator[str]:
    """Yield the MD5 of the outputs in a version's ``dvc.lock``."""
    run = store.client.get_run(one.version.run_id)
    place = place_of(run.info.artifact_uri)
    if place is None:
        return
    directory = bundle_directory(one.version.bundle_digest)
    try:
        text = (place / LINEAGE_DIRECTORY / directory / "dvc.lock").read_text(encoding="utf-8")
        tree: Any = yaml.safe_load(text)
        stages = (tree.get("stages") or {}).values()
        yield from (str(out["md5"]) for stage in stages for out in stage.get("outs", ()))
    except (OSError, ValueError, LookupError, TypeError, AttributeError, yaml.YAMLError):
        return  # lineage of another form: its outputs can be made again


def _branch(home: Path, one: branches.Branch) -> Piece:
    """Return the branch of a run as a piece; git frees its few kilobytes later."""
    remove = partial(worktree.remove_ref, home, one.name, one.commit)
    return Piece("branch of a run", one.name.removeprefix("refs/heads/"), one.made, Space(), remove)


def _places(home: Path, logged: Sequence[Path]) -> list[Path]:
    """Return what counts: record, DVC's cache, state, also that of projects, and logs."""
    names = (*moved.DIRECTORIES, ".dvc/cache")
    states = {one / paths.STATE for one in worktree.workspaces(home) if one.is_relative_to(home)}
    # The worktrees of runs lie in the state of the main checkout.
    outer = [one for one in states if not one.parent.is_relative_to(home / paths.STATE)]
    places = [*(home / name for name in names), *sorted(outer)]
    logs = [one for one in logged if not any(one.is_relative_to(place) for place in places)]
    return [*places, *home.glob(f"{moved.DATABASE}*"), *logs]
