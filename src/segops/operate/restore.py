"""Puts a backup into a checkout that has no record yet."""

from __future__ import annotations

import errno
import hashlib
import logging
import re
import shutil
import sqlite3
from contextlib import closing
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath

from segops import files, paths
from segops.operate import archive
from segops.operate.archive import Archive, Manifest
from segops.operate.backup import CACHE, KEEP_LOCK, KEYS, OF_WORKSPACE, STATEMENTS, of_project
from segops.params.file import load_params
from segops.pipeline import cache
from segops.record import moved
from segops.record.tracking import LOCAL, identity, locked, session
from segops.release import earlier_ledger
from segops.release.ledger import Ledger
from segops.runtime.errors import SegopsError
from segops.words import shown_size

STAGING = paths.STATE / "restore"
UNDER_WAY = paths.STATE / "restore.json"
"""Says that a restore moves files into place; what lies there without a database is its own."""
RECORD = (*moved.DIRECTORIES, str(paths.LEDGER), str(STATEMENTS), str(KEYS))
"""Directories that a restore puts into place."""
OBJECT = re.compile(rf"{CACHE}/[0-9a-f]{{2}}/[0-9a-f]{{30}}(\.dir)?")
CHECKOUT = (*OF_WORKSPACE, earlier_ledger.NAME)
log = logging.getLogger("segops")


@dataclass
class Restored:
    """What :func:`restore` did.

    Attributes:
        manifest: The backup's manifest.
        sha256: SHA-256 of the manifest, in hexadecimal.
        home: The main checkout that has the record now.
        entries: Registered model -> entries of its ledger, all verified.
        kept: Files of the checkout that differ from the backup's, and stayed.
    """

    manifest: Manifest
    sha256: str
    home: Path
    entries: dict[str, int] = field(default_factory=dict)
    kept: list[str] = field(default_factory=list)


def restore(root: Path, file: Path) -> Restored:
    """Restore a backup; the record appears whole or not at all.

    Every member is checked before anything is written. The ledgers are verified at the end.

    Args:
        root: A checkout without a record, or an empty directory.
        file: The backup.

    Raises:
        SegopsError: The backup is damaged; there is a record already; the disk is too small; the
            record is a server's.
        TamperedError: The restored ledger was tampered with before it was backed up.
    """
    _require_own(root)
    with archive.opened(file) as held:
        _require_known(held)
        held.verify()
        root.mkdir(parents=True, exist_ok=True)
        home = paths.state_home(root)
        done = Restored(held.manifest, held.sha256, home)
        if identity(root) != LOCAL:
            raise SegopsError(
                "MLFLOW_TRACKING_URI names another record: a backup is restored into a checkout's "
                "own. Unset it, and repeat the command."
            )
        with (
            files.exclusive(home / KEEP_LOCK, "a backup or a clean-up"),
            locked(root, "mlflow"),
        ):
            _restore(root, home, held, done)
    if moved.DATABASE in done.manifest.files:
        settings = load_params(root).registry
        with session(root, settings, create=False) as store:
            for model in done.manifest.versions:
                done.entries[model] = len(Ledger(store, root, model).verify().entries)
    return done


def _restore(root: Path, home: Path, held: Archive, done: Restored) -> None:
    _remove_unfinished(home)
    _require_no_record(home)
    staging = home / STAGING
    shutil.rmtree(staging, ignore_errors=True)
    staging.mkdir(parents=True)
    try:
        needed = sum(one.bytes for one in held.manifest.files.values())
        free = shutil.disk_usage(staging).free
        if needed > free:
            raise SegopsError(
                f"{home}: its disk has {shown_size(free)} free; the backup needs "
                f"{shown_size(needed)}. Free space, or restore elsewhere with --into DIR."
            )
        held.extract(staging)
        database = staging / moved.DATABASE
        if database.is_file():
            _rewrite(database, Path(held.manifest.home), home, held)
        _place_cache(root, staging / CACHE)
        done.kept += _place_checkout(root, home, staging, held.manifest)
        listed = {name: one.sha256 for name, one in held.manifest.files.items()}
        own = {name: sha256 for name, sha256 in listed.items() if _is_below(name, *RECORD)}
        files.write_json(home / UNDER_WAY, {"manifest": held.sha256, "files": own})
        for name in RECORD:
            _place(staging / name, home / name)
        for end in ("-wal", "-shm", "-journal"):
            (home / f"{moved.DATABASE}{end}").unlink(missing_ok=True)
        # The database comes last: with it the record exists.
        _place(database, home / moved.DATABASE)
        (home / UNDER_WAY).unlink()
    finally:
        shutil.rmtree(staging, ignore_errors=True)


def _require_own(root: Path) -> None:
    """Require that no checkout above a directory would get the record in its place."""
    above = paths.checkout(root)
    if above != root.resolve() and not (root / "dvc.yaml").is_file():
        raise SegopsError(
            f"{root}: lies in the checkout {above}, which would get the record. Choose a directory "
            "outside of it; or restore into that checkout: `segops restore FILE` there."
        )


def _require_known(held: Archive) -> None:
    """Require that a backup writes where backups write, and nowhere else."""
    for name in held.manifest.files:
        is_known = _is_below(name, *RECORD) or name == moved.DATABASE
        if not (is_known or _is_checkout(name) or of_project(name) or OBJECT.fullmatch(name)):
            raise held.damaged(f"{name!r} belongs into no backup")


def _is_below(name: str, *directories: str) -> bool:
    return any(PurePosixPath(name).is_relative_to(one) and name != one for one in directories)


def _is_checkout(name: str) -> bool:
    """Whether a name is that of a file of the checkout: of the pipeline, or of tracked data."""
    if _is_below(name, *RECORD, CACHE):
        return False
    is_hidden = any(part.startswith(".") for part in PurePosixPath(name).parts)
    return name in CHECKOUT or (name.endswith(".dvc") and not is_hidden)


def _remove_unfinished(home: Path) -> None:
    """Remove what a restore that was killed had moved into place, and nothing else."""
    if not (home / UNDER_WAY).is_file():
        return
    if not (home / moved.DATABASE).exists():
        for name, sha256 in files.read_json(home / UNDER_WAY).get("files", {}).items():
            path = home / name
            if path.is_file() and files.sha256_file(path) == sha256:
                path.unlink()
    (home / UNDER_WAY).unlink()


def _require_no_record(home: Path) -> None:
    for name in RECORD:
        if (home / name).is_symlink() or (home / name).is_file():
            raise SegopsError(
                f"{home / name}: expected a directory or nothing; a restore replaces no file and "
                "no link. Move it away, and repeat the command."
            )
    found = [name for name in RECORD if any(one.is_file() for one in (home / name).rglob("*"))]
    if (home / moved.DATABASE).exists() and not _is_empty(home / moved.DATABASE):
        found.insert(0, moved.DATABASE)
    if found:
        raise SegopsError(
            f"{home}: there is a record already ({', '.join(found)}), and a restore overwrites "
            "none. Restore into another checkout with --into DIR, or move these away."
        )


def _is_empty(database: Path) -> bool:
    """Whether a database holds no run and no model."""
    tables = ("runs", "registered_models")
    try:
        with closing(sqlite3.connect(f"{database.as_uri()}?mode=ro", uri=True)) as connection:
            names = {name for (name,) in connection.execute("SELECT name FROM sqlite_master")}
            return not any(
                connection.execute(f"SELECT 1 FROM {table} LIMIT 1").fetchone()
                for table in tables
                if table in names
            )
    except sqlite3.Error:
        return False


def _rewrite(database: Path, old: Path, home: Path, held: Archive) -> None:
    try:
        moved.rewrite(database, old, home)
    except sqlite3.Error as error:
        raise held.damaged(f"{moved.DATABASE}: {error}") from None


def _place(source: Path, target: Path) -> None:
    """Move a file or directory into the place of one that is empty or missing."""
    if not source.exists():
        return
    target.parent.mkdir(parents=True, exist_ok=True)
    if source.is_dir():
        shutil.rmtree(target, ignore_errors=True)  # there is no file in it
    source.replace(target)


def _place_cache(root: Path, source: Path) -> None:
    """Move objects into DVC's cache, where it lacks them."""
    objects = [path for path in source.rglob("*") if path.is_file()]
    if not objects:
        return
    is_dvc = (root / ".dvc/config").is_file()
    cached = cache.cache_of(root) if is_dvc else None
    for path in objects:
        digest = path.parent.name + path.name
        with path.open("rb") as file:
            if hashlib.file_digest(file, "md5").hexdigest() != digest.removesuffix(".dir"):
                log.warning(
                    "%s: the backup's object has another content, and was left out. `dvc fetch` "
                    "may bring it.", digest,
                )  # fmt: skip
                continue
        default = paths.state_home(root) / ".dvc/cache/files/md5" / digest[:2] / digest[2:]
        target = default if cached is None else cached(digest)
        if target.is_file():
            continue
        target.parent.mkdir(parents=True, exist_ok=True)
        path.chmod(0o444)
        try:
            path.replace(target)
        except OSError as error:
            if error.errno != errno.EXDEV:
                raise
            with files.atomic_path(target) as temporary:
                shutil.copyfile(path, temporary)
                temporary.chmod(0o444)


def _place_checkout(root: Path, home: Path, staging: Path, manifest: Manifest) -> list[str]:
    """Move files of the checkout into place where it lacks them; return those that differ."""
    differing = []
    for name, member in manifest.files.items():
        if (inner := of_project(name)) is not None:
            target, shown = home / inner, inner
        elif _is_checkout(name):
            target, shown = (home if name == earlier_ledger.NAME else root) / name, name
        else:
            continue
        if not target.exists():
            target.parent.mkdir(parents=True, exist_ok=True)
            (staging / name).replace(target)
        elif files.sha256_file(target) != member.sha256:
            differing.append(shown)
    return differing
