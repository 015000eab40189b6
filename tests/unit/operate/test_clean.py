"""Which pieces a clean-up takes."""

from __future__ import annotations

import sqlite3
import time
from contextlib import closing
from pathlib import Path

import pytest

from segops import files, paths
from segops.operate import prefect_history
from segops.operate.clean import DAY, Piece, Plan, Wanted, _choose, present_weights
from segops.operate.space import Space, taken


def chosen(wanted: Wanted, total: int = 100) -> tuple[list[str], list[str]]:
    now = time.time()
    pieces = [
        Piece("record", f"of {days} days", now - days * DAY, Space(10), lambda: None)
        for days in (1, 40, 90, 31)
    ]
    plan = Plan(total=total)
    _choose(plan, pieces, wanted)
    return [one.name for one in plan.pieces], [one.name for one in plan.young]


@pytest.mark.parametrize(
    ("wanted", "goes"),
    [
        (Wanted(), ["of 90 days", "of 40 days", "of 31 days"]),
        (Wanted(older_than=60 * DAY), ["of 90 days"]),
        (Wanted(older_than=0), ["of 90 days", "of 40 days", "of 31 days", "of 1 days"]),
        (Wanted(budget=100), []),
        (Wanted(budget=99), ["of 90 days"]),
        (Wanted(budget=80), ["of 90 days", "of 40 days"]),
        (Wanted(budget=0), ["of 90 days", "of 40 days", "of 31 days"]),
    ],
)
def test_the_oldest_go_first_until_it_fits(wanted: Wanted, goes: list[str]) -> None:
    assert chosen(wanted)[0] == goes


def test_weights_of_models_and_of_pretrained_encoders_are_present(tmp_path: Path) -> None:
    assert present_weights(tmp_path) == set()
    for path, digest in ((paths.TRAINING, "1" * 64), (paths.PRETRAINING, "2" * 64)):
        (tmp_path / path).parent.mkdir(parents=True, exist_ok=True)
        files.write_json(tmp_path / path, {"weights_sha256": digest})
    assert present_weights(tmp_path) == {"1" * 64, "2" * 64}


def test_what_is_young_is_told() -> None:
    assert chosen(Wanted(budget=0))[1] == ["of 1 days"]


def test_a_file_of_several_names_counts_once_and_is_free_with_the_last(tmp_path: Path) -> None:
    cache, run, data = (tmp_path / name for name in ("cache", "run", "data"))
    for place in (cache, run, data):
        place.mkdir()
    (cache / "in use").write_bytes(bytes(100))
    (data / "in use").hardlink_to(cache / "in use")
    (cache / "unused").write_bytes(bytes(20))
    for name in ("first", "second"):
        (run / name).hardlink_to(cache / "unused")
    (run / "own").write_bytes(bytes(3))
    (run / "link").symlink_to(cache / "in use")
    assert taken(cache, run).total == 123
    assert taken(cache, run, data).bytes == 123
    spaces = [taken(cache / "in use"), taken(run), taken(cache / "unused")]
    pieces = [Piece("worktree", str(at), at, one, lambda: None) for at, one in enumerate(spaces)]
    assert [Plan(pieces[:count]).bytes for count in (1, 2, 3)] == [0, 3, 23]
    plan = Plan(total=123)
    _choose(plan, [*pieces, Piece("record", "v", 9, Space(50), lambda: None)], Wanted(budget=100))
    assert plan.pieces == pieces


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Prefect's home."""
    for name in ("PREFECT_API_URL", *prefect_history.ELSEWHERE):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("PREFECT_HOME", str(tmp_path))
    return tmp_path


def test_the_history_of_prefect_is_told_and_only_read(
    home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert prefect_history.note() is None
    path = home / "prefect.db"
    with closing(sqlite3.connect(path)) as base, base:
        base.execute("PRAGMA journal_mode = WAL")  # as Prefect sets it
        base.execute("CREATE TABLE flow_run (end_time DATETIME)")
        for days in (1, 29, 31):
            base.execute("INSERT INTO flow_run VALUES (datetime('now', ?))", (f"-{days} days",))
        base.execute("INSERT INTO flow_run VALUES (NULL)")
    before = path.read_bytes()
    assert prefect_history.note() == (
        f"Prefect's history {path} of all checkouts stays, 4 flow runs (1 of them ended over 30 "
        "days ago) in 0.0 MB: a server that segops starts removes runs that ended 30 days ago, "
        "unless PREFECT_SERVER_SERVICES_DB_VACUUM_RETENTION_PERIOD is set."
    )
    assert (path.read_bytes(), [*home.iterdir()]) == (before, [path])
    monkeypatch.chdir(home)
    monkeypatch.setenv("PREFECT_HOME", ".")
    assert f"history {path} of" in str(prefect_history.note())
    monkeypatch.setenv("PREFECT_API_URL", "http://prefect.example/api")
    assert prefect_history.note() is None


def test_a_history_that_cannot_be_read_has_its_size_told(home: Path) -> None:
    (home / "prefect.db").write_bytes(bytes(2_000_000))
    said = prefect_history.note()
    assert said is not None
    assert "of all checkouts stays, 2.0 MB: a server" in said
