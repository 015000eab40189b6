"""A server is away, hangs, answers nonsense or comes back; MLflow's database is locked."""

from __future__ import annotations

import os
import shutil
import signal
import sqlite3
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from segops import pipeline
from tests.integration.conftest import ROOT
from tests.support import mlflow_server
from tests.support import registry_workspace as made
from tests.support.no_server import faulty


@pytest.fixture
def root(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "0")
    root = made.make(tmp_path / "checkout")
    made.train(root, seed=1)
    return root


def run(
    root: Path, *command: str, uri: str = "", prefect: str = ""
) -> subprocess.CompletedProcess[str]:
    environment = pipeline.environment()
    if uri:
        environment["MLFLOW_TRACKING_URI"] = uri
    if prefect:
        environment["PREFECT_API_URL"] = f"{prefect}/api"
    return subprocess.run(
        ["segops", *command], cwd=root, env=environment, capture_output=True, text=True
    )


def require_told(done: subprocess.CompletedProcess[str], address: str) -> None:
    """Require that a command failed with a sentence that names an address."""
    said = done.stdout + done.stderr
    assert done.returncode == 1, said
    assert "Traceback" not in said
    assert address in said


KINDS = pytest.mark.parametrize(
    "kind",
    [
        pytest.param("status 500", marks=pytest.mark.slow),
        pytest.param("page of a proxy", marks=pytest.mark.long),
        pytest.param("refusing", marks=pytest.mark.long),
        pytest.param("silent", marks=pytest.mark.long),
    ],
)


@KINDS
def test_a_run_without_a_prefect_server_is_refused(root: Path, kind: str) -> None:
    shutil.copytree(ROOT / "flows", root / "flows", dirs_exist_ok=True)
    with faulty(kind) as address:
        done = run(root, "run", prefect=address)
    require_told(done, address)


@KINDS
def test_what_is_no_server_is_told_and_nothing_is_lost(root: Path, kind: str) -> None:
    with faulty(kind) as address:
        done = run(root, "promote", uri=address)
    require_told(done, address)
    assert run(root, "promote").returncode == 0
    assert made.aliases(root) == {"champion": "1"}


@pytest.mark.long
def test_a_server_that_restarts_between_two_steps(root: Path, tmp_path: Path) -> None:
    folder = tmp_path / "server"
    with mlflow_server.serving(folder) as (address, process):
        assert run(root, "record", uri=address).returncode == 0
        os.killpg(process.pid, signal.SIGKILL)
        process.wait()
        away = run(root, "promote", uri=address)
        assert away.returncode == 1
        assert "Traceback" not in away.stdout + away.stderr
    folder.rename(tmp_path / "before")
    database = f"sqlite:///{tmp_path / 'before' / 'server.db'}"
    with mlflow_server.serving(folder, database) as (address, _):
        (tmp_path / "before" / "store").rename(folder / "store")
        done = run(root, "promote", uri=address)
        assert done.returncode == 0, done.stdout + done.stderr


@contextmanager
def locked(database: Path) -> Iterator[sqlite3.Connection]:
    connection = sqlite3.connect(database, isolation_level=None)
    connection.execute("BEGIN EXCLUSIVE")
    try:
        yield connection
    finally:
        connection.close()


@pytest.mark.slow
def test_a_database_that_is_locked_for_a_while(root: Path) -> None:
    with locked(root / "mlflow.db"):
        process = subprocess.Popen(
            ["segops", "promote"],
            cwd=root,
            env=pipeline.environment(),
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )
        time.sleep(8)  # another program writes for so long
    said, _ = process.communicate()
    assert process.returncode == 0, said
    assert made.aliases(root) == {"champion": "1"}


@pytest.mark.long
def test_a_database_that_stays_locked(root: Path) -> None:
    with locked(root / "mlflow.db"):
        done = run(root, "promote")
    said = done.stdout + done.stderr
    assert done.returncode == 1, said
    assert "Traceback" not in said
    assert "locked" in said
    assert run(root, "promote").returncode == 0
    assert made.aliases(root) == {"champion": "1"}
