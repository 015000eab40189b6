"""Writes what a release needs into one file: record, named artifacts, ledger, data on request."""

from __future__ import annotations

import logging
import shutil
from collections.abc import Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path, PurePosixPath
from urllib.parse import unquote, urlsplit

from segops import __version__, files, paths
from segops.operate import archive, worktree
from segops.operate.archive import Manifest
from segops.params.file import Params, load_params
from segops.pipeline import cache
from segops.record import moved
from segops.record.lineage import tag
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
from segops.release import earlier_ledger, named, signing
from segops.release.named import Held
from segops.runtime.errors import SegopsError
from segops.voc.cached import listed
from segops.words import counted

CACHE = "cache/md5"
"""Directory of a backup with the objects of DVC's cache."""
KEYS = paths.STATE / "keys"
"""Public keys in a main checkout, each named by its id."""
STATEMENTS = paths.STATE / "statements"
PROJECTS = paths.STATE / "projects"
"""Directory of a backup with the files of the checkout's other workspaces."""
OF_WORKSPACE = ("params.yaml", "dvc.yaml", "dvc.lock")
KEEP_LOCK = paths.STATE / "keep.lock"
log = logging.getLogger("segops")


@dataclass
class Backed:
    """What :func:`backup` wrote.

    Attributes:
        file: The backup.
        sha256: SHA-256 of its manifest, in hexadecimal.
        bytes: Size of the backup.
        versions: Registered model -> the versions in it.
        notes: What is not in it, and what keeps that.
    """

    file: Path
    sha256: str = ""
    bytes: int = 0
    versions: dict[str, tuple[str, ...]] = field(default_factory=dict)
    notes: list[str] = field(default_factory=list)


def backup(root: Path, file: Path, with_data: bool = False) -> Backed:
    """Write a backup, whole or not at all.

    In it are the embedded database; run, artifact and pretraining of every version that an alias,
    the ledger, a pin or a later training names; the ledger's copies, statements that are not
    uploaded yet, parameters and locks of all projects, and the public half of the key that signs.

    Args:
        root: A workspace.
        file: The backup; one that is there is replaced.
        with_data: Whether to add the named versions' data out of DVC's cache.

    Raises:
        SegopsError: Another process backs up or cleans; a file changed meanwhile; the key that
            signs cannot be used.
        TransientError: MLflow does not answer.
    """
    settings, home, done = load_params(root), paths.state_home(root), Backed(file)
    with files.exclusive(home / KEEP_LOCK, "a backup or a clean-up"), files.scratch() as scratch:
        sources: dict[str, Path] = {}
        kept: Sequence[Held] = ()
        if identity(root) != LOCAL:
            where = without_credentials(tracking_uri(root))
            done.notes.append(
                f"The record at {where} is a server's, and not in this backup: back up its "
                "database (`pg_dump` for PostgreSQL) and its store of artifacts there."
            )
        elif not has_record(root):
            if ledgers := sorted((home / paths.LEDGER).glob("*.log")):
                raise SegopsError(
                    f"{home / moved.DATABASE}: no record of runs and models, though "
                    f"{paths.LEDGER}/{ledgers[0].name} tells of releases. Nothing was written, and "
                    "a backup that was there stays. Put the record back (`segops restore`), set "
                    "MLFLOW_TRACKING_URI where it is a server's, or move that file away."
                )
            done.notes.append("There is no record of runs and models yet.")
        if has_record(root):
            with (
                session(root, settings.registry, create=False) as store,
                # Nobody registers or decides while database and list of files are taken.
                locked(root, "record"),
                locked(root, "registry"),
            ):
                kept = [one for one in named.held(store, root) if one.names]
                # The ledger's copies must not be newer than the database.
                sources |= _checkout(root, home, settings, scratch)
                if identity(root) == LOCAL:
                    moved.copy(home / moved.DATABASE, scratch / moved.DATABASE)
                    sources[moved.DATABASE] = scratch / moved.DATABASE
                    sources |= _artifacts(store, home, kept, done.notes)
        else:
            sources |= _checkout(root, home, settings, scratch)
        if with_data:
            sources |= _data(root, kept, done.notes)
        is_embedded = identity(root) == LOCAL
        for one in sorted(kept if is_embedded else (), key=lambda held: int(held.version.number)):
            done.versions[one.model] = (*done.versions.get(one.model, ()), one.version.number)
        manifest = Manifest(
            format=archive.FORMAT,
            segops=__version__,
            created=datetime.now(UTC).isoformat(timespec="seconds"),
            home=str(home),
            versions=done.versions,
            files={},
        )
        done.sha256 = archive.write(file, manifest, dict(sorted(sources.items())))
    done.bytes = file.stat().st_size
    return done


def _checkout(root: Path, home: Path, settings: Params, scratch: Path) -> dict[str, Path]:
    """Copy the files that lie in the checkout, which others may change; return name -> copy."""
    found = _of_workspace(root, settings)
    for project in _projects(root, home):
        below = PROJECTS / project.relative_to(home)
        try:
            own = _of_workspace(project, load_params(project))
        except SegopsError as error:
            log.warning("The data's .dvc file of a project is not in the backup: %s", error)
            own = _of_workspace(project, None)
        for name, path in own.items():
            inside = (below / name).as_posix()
            if of_project(inside) is not None:
                found[inside] = path
            elif path.exists():
                log.warning("%s is hidden, so that it is not in the backup.", path)
    found[earlier_ledger.NAME] = home / earlier_ledger.NAME
    for directory in (paths.LEDGER, STATEMENTS):
        found |= _below(home, home / directory)
    copies = {}
    with locked(root, "ledger"):
        for name, path in found.items():
            copy = scratch / "checkout" / name
            copy.parent.mkdir(parents=True, exist_ok=True)
            with suppress(FileNotFoundError):
                shutil.copyfile(path, copy)
                copies[name] = copy
    private = signing.signer()
    if private is not None:
        public = scratch / "public.pem"
        public.write_bytes(signing.public_pem(private))
        copies[f"{KEYS}/{private.public_key.keyid}.pem"] = public
    return copies


def _of_workspace(workspace: Path, settings: Params | None) -> dict[str, Path]:
    """Return the files of a workspace that a backup takes, by their names in it."""
    names = list(OF_WORKSPACE)
    if settings is not None and not Path(settings.data.path).is_absolute():
        names.append(f"{Path(settings.data.path)}.dvc")
    return {name: workspace / name for name in names}


def of_project(name: str) -> str | None:
    """Return where a file of another workspace in a backup belongs, below the main checkout.

    None where the name is not that of such a file, or has a hidden part.
    """
    place = PurePosixPath(name)
    if not place.is_relative_to(PurePosixPath(PROJECTS)):
        return None
    inner = place.relative_to(PurePosixPath(PROJECTS))
    is_visible = not any(part.startswith(".") for part in inner.parts)
    is_known = inner.name in OF_WORKSPACE or inner.suffix == ".dvc"
    return str(inner) if is_visible and is_known else None


def _projects(root: Path, home: Path) -> list[Path]:
    """Return the other workspaces of the main checkout that a workspace belongs to."""
    apart = [home / paths.STATE, *(one for one in worktree.every(home) if one != home)]
    return [
        one
        for one in worktree.workspaces(home)
        if one != root.resolve()
        and one.is_relative_to(home)
        and not any(one.is_relative_to(place) for place in apart)
    ]


def _below(home: Path, directory: Path) -> Iterator[tuple[str, Path]]:
    """Yield name below `home` and place of the ordinary files of a directory."""
    for path in sorted(directory.rglob("*")):
        if path.is_file() and not path.is_symlink() and "__pycache__" not in path.parts:
            yield path.relative_to(home).as_posix(), path


def _artifacts(
    store: Store, home: Path, kept: Sequence[Held], notes: list[str]
) -> Iterator[tuple[str, Path]]:
    """Yield the files of the runs and models of versions; note those that lie elsewhere."""
    for address, words in named.addresses(store, kept, notes).items():
        place = place_of(address)
        if place is None or not any(place.is_relative_to(home / one) for one in moved.DIRECTORIES):
            notes.append(f"{words} lies at {without_credentials(address)}, and is not in it.")
            continue
        found = list(_below(home, place))
        if not found:
            notes.append(f"{words} is LOST: there is no file at {place}, and none in this backup.")
        yield from found


def place_of(address: str) -> Path | None:
    """Return the directory that an address of MLflow's names on this machine, or None."""
    parts = urlsplit(address)
    if parts.scheme not in ("", "file"):
        return None
    return Path(unquote(parts.path) if parts.scheme else address)


def _data(root: Path, kept: Sequence[Held], notes: list[str]) -> Iterator[tuple[str, Path]]:
    """Yield the objects of DVC's cache with the data of versions; note those that lack some."""
    cached = cache.cache_of(root)
    by_digest = {one.version.tags.get(tag("data_md5"), ""): one for one in kept}
    for digest, one in by_digest.items():
        words = f"The data of {one.model} version {one.version.number}"
        if not digest.endswith(".dir"):
            notes.append(f"{words} are not known.")
            continue
        try:
            objects = {digest, *listed(cached(digest).read_bytes()).values()}
        except FileNotFoundError:
            notes.append(f"{words} are not in DVC's cache ({digest}); `dvc fetch` may bring them.")
            continue
        except (ValueError, LookupError, TypeError):
            raise SegopsError(
                f"{cached(digest)}: damaged. Delete it, and `dvc fetch` it again; or back up "
                "without --with-data."
            ) from None
        missing = 0
        for md5 in objects:
            if cached(md5).is_file():
                yield f"{CACHE}/{md5[:2]}/{md5[2:]}", cached(md5)
            else:
                missing += 1
        if missing:
            notes.append(f"{words}: DVC's cache lacks {counted(missing, 'file')} of them.")
