"""Opens MLflow's record: its address, its lock and its client.

All calls go through :class:`mlflow.MlflowClient` with explicit run ids, because MLflow's fluent
interface creates runs that nobody asked for.
"""

from __future__ import annotations

import errno
import logging
import os
import re
import sqlite3
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from filelock import FileLock, Timeout

from segops import files, paths, reach, words
from segops.params.registry import RegistryParams
from segops.record import moved
from segops.runtime.errors import SegopsError, TransientError

if TYPE_CHECKING:
    from mlflow import MlflowClient

READ_ONLY = (errno.EACCES, errno.EPERM, errno.EROFS)
LOCK_SECONDS = 120.0
"""How long a process waits for a lock of the record."""
SQLITE = "sqlite:///"
EMBEDDED = f"{SQLITE}{moved.DATABASE}"
"""Address of the embedded database within its main checkout."""
LOCAL = "local"
"""Identity of the embedded database, whose path changes when the checkout is moved."""
log = logging.getLogger("segops")


class BusyError(TransientError):
    """Another process holds a lock; the same call may succeed a moment later."""


class NoRecordError(SegopsError):
    """There is no record yet."""


@dataclass(frozen=True)
class Store:
    """An open record.

    Attributes:
        client: MLflow's client, for runs and for the registry.
        uri: The address, as MLflow takes it.
        identity: The address without credentials; `local` for the embedded database.
        experiment_id: The experiment that holds the runs; empty where a reader finds none.
    """

    client: MlflowClient
    uri: str
    identity: str
    experiment_id: str


def tracking_uri(root: Path) -> str:
    """Return ``MLFLOW_TRACKING_URI``, else the SQLite database in the main checkout of `root`."""
    return os.environ.get("MLFLOW_TRACKING_URI") or f"{SQLITE}{_database(root)}"


def identity(root: Path) -> str:
    """Return the registry's name in the ledger: its address without user name and password."""
    uri = tracking_uri(root)
    return LOCAL if uri == f"{SQLITE}{_database(root)}" else without_credentials(uri)


def address_for_people(store: Store) -> str:
    """Return the address for commands that people run in the main checkout, without credentials.

    The embedded database moves with its checkout.
    """
    return EMBEDDED if store.identity == LOCAL else without_credentials(store.uri)


def has_record(root: Path) -> bool:
    """Whether a record may exist: a server's address, or a database file that is there."""
    uri = tracking_uri(root)
    return not uri.startswith(SQLITE) or Path(uri.removeprefix(SQLITE).partition("?")[0]).is_file()


def without_credentials(uri: str) -> str:
    """Return `uri` without user name, password and query, for messages and for the ledger.

    A password may hold characters that an address does not allow, as in ``user:pa/ss@host``.
    """
    scheme, separator, rest = uri.partition("://")
    rest = rest.partition("?")[0]
    # An address of SQLite names no user, and a path may hold an @.
    return f"{scheme}{separator}{rest if scheme == 'sqlite' else rest.rpartition('@')[2]}"


@contextmanager
def locked(root: Path, name: str) -> Iterator[None]:
    """Hold a lock that all workspaces of a main checkout share; wait while it is taken.

    Raises:
        BusyError: Another process holds it for longer than `LOCK_SECONDS`.
    """
    path = paths.state_home(root) / paths.STATE / f"{name}.lock"
    path.parent.mkdir(parents=True, exist_ok=True)
    try:
        held = FileLock(path).acquire(timeout=LOCK_SECONDS)
    except Timeout:
        raise BusyError(
            f"{path}: another process has held this lock for {LOCK_SECONDS:.0f} s. "
            "Wait for it to end, or stop it first."
        ) from None
    with held:
        yield


@contextmanager
def session(root: Path, settings: RegistryParams, *, create: bool = True) -> Iterator[Store]:
    """Open the record; create database and experiment where missing, unless `create` is false.

    The embedded database of a checkout that was moved is mended first. Where it cannot be written
    and `create` is false, a temporary copy of it is mended and read. MLflow's errors inside the
    block become errors that name the address.

    Raises:
        NoRecordError: There is no record, and `create` is false.
        TransientError: The server or the database does not answer; a later call may succeed.
        SegopsError: MLflow refuses.
    """
    uri = tracking_uri(root)
    if not create and not has_record(root):
        raise NoRecordError(
            f"{without_credentials(uri)}: there is no record of runs and models. `segops run` "
            "makes it; or set MLFLOW_TRACKING_URI to the address of a record elsewhere."
        )
    require_answer(root)
    # With MLflow's own values it takes minutes until a server that goes away is reported.
    os.environ.setdefault("MLFLOW_HTTP_REQUEST_TIMEOUT", "20")
    os.environ.setdefault("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "2")
    os.environ.setdefault("MLFLOW_DISABLE_TELEMETRY", "true")
    os.environ.setdefault("MLFLOW_ENABLE_ARTIFACTS_PROGRESS_BAR", "false")
    os.environ.setdefault("MLFLOW_SUPPRESS_PRINTING_URL_TO_STDOUT", "true")
    # The uv.lock of a working directory does not belong to a model.
    os.environ["MLFLOW_LOG_UV_FILES"] = "false"
    from mlflow import MlflowClient

    for name, level in (
        ("alembic", logging.WARNING),
        ("mlflow", logging.WARNING),
        ("mlflow.store.db.utils", logging.CRITICAL),  # our own error reports what it refuses
        ("urllib3.connectionpool", logging.ERROR),  # our own error reports the outage
    ):
        logging.getLogger(name).setLevel(level)  # importing mlflow sets other levels
    with _errors(uri), ExitStack() as stack:
        with ExitStack() as opening:
            # Processes that create the same database at the same time collide.
            is_embedded = identity(root) == LOCAL
            if create or is_embedded:
                try:
                    opening.enter_context(locked(root, "mlflow"))
                except OSError as error:
                    if create or error.errno not in READ_ONLY:
                        raise
            if is_embedded:
                uri = _mended(stack, _database(root), settings.experiment, create)
            try:
                client = MlflowClient(tracking_uri=uri, registry_uri=uri)
                experiment_id = _experiment(client, root, uri, settings.experiment, create)
            except OSError as error:
                raise SegopsError(
                    f"MLflow's database {without_credentials(uri)} cannot be opened: "
                    f"{error.strerror}. Check its place and your rights, or MLFLOW_TRACKING_URI."
                ) from error
        yield Store(client, uri, identity(root), experiment_id)


def require_answer(root: Path) -> None:
    """Check that the record's server answers, in ten seconds at the most.

    Raises:
        TransientError: It does not.
    """
    uri = tracking_uri(root)
    if reason := reach.silence(uri, "/health"):
        raise TransientError(
            f"MLflow at {without_credentials(uri)} does not answer: {reason}. "
            "Start the server, or check MLFLOW_TRACKING_URI."
        )


def quoted(name: str) -> str:
    """Return a name as MLflow's filters take it; it may hold quotes of one kind."""
    mark = '"' if "'" in name else "'"
    return f"{mark}{name}{mark}"


def is_missing(error: Exception) -> bool:
    """Whether MLflow answered that something does not exist (and did answer)."""
    return getattr(error, "error_code", None) == "RESOURCE_DOES_NOT_EXIST"


def public_line(error: Exception) -> str:
    """Return the first line of an error's text, without credentials in its addresses."""
    line = words.first_line(error)[:500]
    return re.sub(r"\w+://\S+", lambda address: without_credentials(address[0]), line)


def _mended(stack: ExitStack, database: Path, experiment: str, create: bool) -> str:
    """Return the address of the embedded database once its addresses name this place."""
    try:
        moved.mend(database, experiment)
    except (sqlite3.Error, OSError):
        if create:
            raise
        scratch = stack.enter_context(files.scratch())
        database = moved.mended_copy(database, experiment, scratch)
    return f"{SQLITE}{database}"


def _database(root: Path) -> Path:
    return paths.state_home(root) / moved.DATABASE


def _experiment(client: MlflowClient, root: Path, uri: str, name: str, create: bool) -> str:
    from mlflow.exceptions import MlflowException

    found = client.get_experiment_by_name(name)
    if found is None and not create:
        return ""
    if found is None:
        # A server chooses the place of artifacts itself. Without a server MLflow's default is
        # relative to the working directory.
        served = uri.startswith(("http://", "https://", "databricks"))
        location = (paths.state_home(root) / moved.ARTIFACTS).as_uri()
        place = None if served else location
        try:
            return str(client.create_experiment(name, artifact_location=place))
        except MlflowException:
            # Another machine may have created it since: databases name that in their own words.
            found = client.get_experiment_by_name(name)
            if found is None:
                raise
    if found.lifecycle_stage != "active":
        raise SegopsError(
            f"MLflow at {without_credentials(uri)}: experiment {name!r} is deleted. Restore it, "
            "or choose another name in params.yaml under registry.experiment."
        )
    return str(found.experiment_id)


@contextmanager
def _errors(uri: str) -> Iterator[None]:
    from mlflow.exceptions import MlflowException
    from sqlalchemy.exc import SQLAlchemyError

    where = without_credentials(uri)
    try:
        yield
    except (SQLAlchemyError, sqlite3.Error) as error:
        _require_writable(error, where)
        raise TransientError(
            f"MLflow's database {where} is not usable: {public_line(error)}. "
            "Is another program creating or migrating it?"
        ) from error
    except MlflowException as error:
        _require_writable(error, where)
        if _is_transient(error):
            raise TransientError(
                f"MLflow at {where} does not answer: {public_line(error)}. "
                "Start the server, or check MLFLOW_TRACKING_URI."
            ) from error
        raise SegopsError(f"MLflow at {where} refuses: {public_line(error)}") from error


def _require_writable(error: Exception, where: str) -> None:
    """Raise what to do about a database that cannot be written."""
    if reason := re.search(r"disk is full|readonly database|disk I/O error", str(error)):
        raise SegopsError(
            f"MLflow's database {where} cannot be written: {reason[0]}. Free space on its disk, or "
            "let it be writable for you; then repeat the command."
        ) from error


def _is_transient(error: BaseException) -> bool:
    from requests import exceptions as lost

    if getattr(error, "error_code", None) == "TEMPORARILY_UNAVAILABLE":
        return True
    cause = error.__cause__ or error.__context__
    return isinstance(cause, lost.ConnectionError | lost.Timeout | lost.RetryError)
