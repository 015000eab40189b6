"""Mends the addresses of artifacts in the embedded database after its checkout was moved.

MLflow stores absolute addresses, and makes again the directory of an address that is gone.
"""

from __future__ import annotations

import logging
import shutil
import sqlite3
from collections.abc import Iterator
from contextlib import closing
from itertools import product
from pathlib import Path
from urllib.parse import unquote, urlsplit

from segops import files
from segops.record.lineage import tag

DATABASE = "mlflow.db"
ARTIFACTS = "mlartifacts"
DIRECTORIES = (ARTIFACTS, "mlruns")
"""Directories of artifacts in a main checkout: that of segops, that of MLflow's own experiment."""
COLUMNS = (
    ("experiments", "artifact_location"),
    ("runs", "artifact_uri"),
    ("logged_models", "artifact_location"),
    ("model_versions", "source"),
    ("model_versions", "storage_location"),
)
"""Columns of MLflow's tables that hold the address of an artifact. The entries of a ledger hold the
hash of the one before, so tags are changed by their key alone."""
TAGS = ("tags", "model_version_tags")
KEYS = (tag("reproduce"), "mlflow.log-model.history")
"""Keys of the tags whose values hold addresses."""
log = logging.getLogger("segops")


def mend(database: Path, experiment: str) -> None:
    """Let the addresses of artifacts name the directory of the database; keep a copy as it was.

    All addresses are changed in one transaction. A home of before is known by the experiments that
    have their artifacts there. It stays as it is: artifacts that lie there alone are copied.

    Args:
        database: The embedded database.
        experiment: Name of this checkout's experiment.

    Raises:
        sqlite3.Error: The database is damaged or cannot be written.
        OSError: The copy cannot be written.
    """
    for old in _homes(database, experiment):
        kept = _kept(database, old)
        with closing(_open(database)) as connection:
            connection.execute("BEGIN IMMEDIATE")
            with files.atomic_path(kept) as temporary:
                copy(database, temporary)
            _fetch(connection, old, database.parent)
            number = _rewrite(connection, old, database.parent)
            connection.execute("COMMIT")
        log.warning(
            "%s was in %s before: %d addresses in it name its new place now. %s is the database as "
            "it was.", database, old, number, kept,
        )  # fmt: skip


def mended_copy(database: Path, experiment: str, directory: Path) -> Path:
    """Return a copy, in a directory, of a database that cannot be written; it is mended.

    Raises:
        sqlite3.Error: The database is damaged.
    """
    homes = _homes(database, experiment)
    target = directory / database.name
    copy(database, target)
    with closing(sqlite3.connect(target)) as connection, connection:
        for old in homes:
            _rewrite(connection, old, database.parent)
    return target


def _kept(database: Path, old: Path) -> Path:
    """Where the copy lies; a further move from the same place replaces it."""
    return database.with_name(f"{database.name}-in-{files.sha256_bytes(bytes(old))[:8]}")


def rewrite(database: Path, old: Path, here: Path) -> None:
    """Let the addresses below another home name this one, whatever lies there.

    Raises:
        sqlite3.Error: The database is damaged or cannot be written.
    """
    with closing(_open(database)) as connection:
        connection.execute("BEGIN IMMEDIATE")
        _rewrite(connection, old, here)
        connection.execute("COMMIT")


def copy(database: Path, target: Path) -> None:
    """Copy a database as it is at one moment; others may write to it meanwhile."""
    with closing(_open(database)) as source, closing(sqlite3.connect(target)) as copy:
        source.backup(copy)


def _open(database: Path) -> sqlite3.Connection:
    """Open a database that exists, for reading alone where it cannot be written."""
    address = f"{database.as_uri()}?mode=rw"
    return sqlite3.connect(address, uri=True, isolation_level=None, timeout=60)


def _homes(database: Path, experiment: str) -> list[Path]:
    """Return the other main checkouts that the database was moved or copied from.

    Artifacts from there lie here; where there are none at all, the experiment is this checkout's
    own. A checkout elsewhere that names this database as its MLFLOW_TRACKING_URI has none here,
    whether its place can be seen or not: its addresses stay.
    """
    if not database.is_file():
        return []
    here = database.parent
    with closing(_open(database)) as connection:
        if COLUMNS[0] not in _columns(connection):
            return []  # MLflow has not created its tables yet
        rows = connection.execute("SELECT name, artifact_location FROM experiments").fetchall()
        names: dict[Path, set[str]] = {}
        for name, location in rows:
            place = urlsplit(str(location))
            path = Path(unquote(place.path))
            if place.scheme == "file" and path.name == ARTIFACTS and path.parent != here:
                names.setdefault(path.parent, set()).add(name)
        moved = []
        for old in sorted(names):
            held = [(here / name).exists() for name in _artifacts(connection, old)]
            if any(held) or (not held and experiment in names[old]):
                moved.append(old)
        return moved


def _columns(connection: sqlite3.Connection) -> list[tuple[str, str]]:
    """Return those of :data:`COLUMNS` that the database has: MLflow may have to migrate it yet."""
    held = connection.execute(
        "SELECT m.name, c.name FROM sqlite_master m, pragma_table_info(m.name) c"
    ).fetchall()
    return [column for column in COLUMNS if column in held]


def _artifacts(connection: sqlite3.Connection, old: Path) -> Iterator[str]:
    """Yield the artifacts of runs and models below another home, relative to it."""
    for directory, (table, column) in product(DIRECTORIES, _columns(connection)[1:]):
        start = f"{(old / directory).as_uri()}/"
        query = f"SELECT {column} FROM {table} WHERE substr({column}, 1, ?) = ?"
        for (address,) in connection.execute(query, [len(start), start]):
            yield f"{directory}/{unquote(address.removeprefix(start))}"


def _fetch(connection: sqlite3.Connection, old: Path, here: Path) -> None:
    """Copy the artifacts that lie at another home alone: an earlier segops still wrote there."""
    for name in set(_artifacts(connection, old)):
        if (old / name).is_dir() and not (here / name).exists():
            with files.atomic_directory(here / name) as temporary:
                shutil.copytree(old / name, temporary, dirs_exist_ok=True)


def _rewrite(connection: sqlite3.Connection, old: Path, here: Path) -> int:
    """Rewrite the addresses below another home; return their number."""
    number = 0
    pairs = [(old / name, here / name) for name in DIRECTORIES]
    # MLflow's own experiment has a path for an address.
    addresses = [(one.as_uri(), other.as_uri()) for one, other in pairs]
    for before, after in [*addresses, *((str(one), str(other)) for one, other in pairs)]:
        for table, column in _columns(connection):
            number += connection.execute(
                f"UPDATE {table} SET {column} = ? || substr({column}, ?) "
                f"WHERE {column} = ? OR substr({column}, 1, ?) = ?",
                [after, len(before) + 1, before, len(before) + 1, f"{before}/"],
            ).rowcount
        _replace(connection, f"{before}/", f"{after}/")
    # The command that reproduces a model is run in the main checkout.
    _replace(connection, f"sqlite:///{old / DATABASE}", f"sqlite:///{DATABASE}")
    return number


def _replace(connection: sqlite3.Connection, before: str, after: str) -> None:
    """Replace a text in the tags that hold addresses."""
    for table, key in product(TAGS, KEYS):
        connection.execute(
            f"UPDATE {table} SET value = replace(value, ?, ?) WHERE key = ? AND instr(value, ?)",
            [before, after, key, before],
        )
