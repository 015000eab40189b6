"""Writers at the same time: no entry is lost, there is no fork, and all read the same order."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest

from segops.params.registry import RegistryParams
from segops.record.tracking import session
from segops.release.ledger import Ledger
from tests.support import mlflow_server
from tests.support.registry_workspace import put_database

WRITER = """
import sys
from pathlib import Path
from segops.params.registry import RegistryParams
from segops.record.tracking import session
from segops.release.ledger import Ledger

root, name, number = Path(sys.argv[1]), sys.argv[2], int(sys.argv[3])
with session(root, RegistryParams()) as store:
    ledger = Ledger(store, root, "segops")
    for version in range(number):
        ledger.append("decision", verdict="rejected", reason="why", by=name, version=str(version),
                      details={"text": "x" * 2000}, again=True)
"""
WRITERS = 4


@pytest.fixture(
    params=[
        pytest.param("embedded", marks=pytest.mark.long),
        pytest.param("sqlite", marks=pytest.mark.long),
        pytest.param("postgresql", marks=pytest.mark.slow),
    ]
)
def kind(request: pytest.FixtureRequest) -> str:
    kind: str = request.param
    return kind


@pytest.fixture
def roots(kind: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[list[Path]]:
    """A folder for each writer; MLflow's server, or a database that all of them share."""
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    with ExitStack() as stack:
        if kind == "embedded":
            put_database(tmp_path)
            monkeypatch.setenv("MLFLOW_TRACKING_URI", f"sqlite:///{tmp_path / 'mlflow.db'}")
        else:
            database = "sqlite:///server.db"
            if kind == "postgresql":
                database = stack.enter_context(mlflow_server.postgresql())
            folder = tmp_path / "server"
            served = mlflow_server.serving(folder, database, workers=2)
            monkeypatch.setenv("MLFLOW_TRACKING_URI", stack.enter_context(served)[0])
        roots = [tmp_path / str(number) for number in range(WRITERS)]
        for root in roots:
            root.mkdir()
        yield roots


def test_two_hundred_entries_of_four_writers(roots: list[Path]) -> None:
    each = 50
    processes = [
        subprocess.Popen(
            [sys.executable, "-c", WRITER, str(root), f"writer {root.name}", str(each)],
            stderr=subprocess.PIPE,
            text=True,
        )
        for root in roots
    ]
    errors = [process.communicate()[1] for process in processes]
    assert [process.returncode for process in processes] == [0] * WRITERS, errors
    read = []
    for root in roots:
        with session(root, RegistryParams(), create=False) as store:
            ledger = Ledger(store, root, "segops")
            read.append(ledger.entries())
            ledger.verify()
    assert all(entries == read[0] for entries in read)
    assert [entry.sequence for entry in read[0]] == list(range(1, WRITERS * each + 1))
    for root in roots:
        own = [entry.version for entry in read[0] if entry.by == f"writer {root.name}"]
        assert own == [str(number) for number in range(each)], "each once, in the writer's order"
