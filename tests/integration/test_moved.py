"""A checkout that was moved or copied uses its own artifacts, and none at the old place."""

from __future__ import annotations

import os
import shutil
import signal
import sqlite3
import subprocess
import sys
from contextlib import closing
from pathlib import Path

import mlflow
import pytest

from segops import files
from segops.params.registry import RegistryParams
from segops.record import moved, tracking
from segops.record.lineage import tag
from segops.record.tracking import session
from segops.record.update import Recorded, record
from segops.release import promotion
from segops.release.compare_models import compare
from segops.release.resolve import resolved
from segops.release.rollback import rollback
from segops.runtime.errors import SegopsError
from tests.support import registry_workspace as made
from tests.support.registry_workspace import aliases, challenge, kinds, release

CHAMPION = "models:/segops@champion"


@pytest.fixture(autouse=True)
def _embedded_database(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)


@pytest.fixture(scope="module")
def released(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two releases, the second of which is the workspace's model. Shared: copy it to change it."""
    with pytest.MonkeyPatch.context() as patch:
        patch.delenv("MLFLOW_TRACKING_URI", raising=False)
        root = made.make(tmp_path_factory.mktemp("released") / "check out@ü")
        with closing(sqlite3.connect(root / "mlflow.db")) as database, database:
            # As in life: MLflow's own experiment has a path where it was created.
            place = str(root / "mlruns/0")
            database.execute("UPDATE experiments SET artifact_location = ?", [place])
        made.set_params(root, evaluate={"bootstrap_samples": 100}, report={"pictures": False})
        release(root, seed=1, quality=0.7)
        assert release(root, seed=2, quality=0.8).verdict == "promoted"
        return root


@pytest.fixture
def old(released: Path, tmp_path: Path) -> Path:
    """A checkout with two releases, in a place of its own."""
    old = shutil.copytree(released, tmp_path / "old home")
    open_once(old)
    (copy,) = old.glob("mlflow.db-*")
    copy.unlink()
    return old


def open_once(root: Path) -> None:
    """Open the record for reading, which mends it."""
    with session(root, RegistryParams(), create=False):
        pass


def dump(database: Path) -> list[str]:
    """All that a database holds."""
    with closing(sqlite3.connect(database)) as connection:
        return list(connection.iterdump())


def mentions(root: Path, place: Path) -> list[str]:
    """The columns of the database that name a place in any way."""
    with closing(sqlite3.connect(root / "mlflow.db")) as database:
        columns = database.execute(
            "SELECT m.name, c.name FROM sqlite_master m, pragma_table_info(m.name) c "
            "WHERE m.type = 'table'"
        ).fetchall()
        return [
            f"{table}.{column}"
            for table, column in columns
            for spelled in (str(place), place.as_uri().removeprefix("file://"))
            if database.execute(
                f'SELECT 1 FROM "{table}" WHERE instr(CAST("{column}" AS TEXT), ?)', [spelled]
            ).fetchone()
        ]


@pytest.mark.slow
def test_record_gate_and_promotion_work_after_a_move(old: Path) -> None:
    before = made.snapshot(old)
    assert "runs.artifact_uri" in mentions(old, old)
    root = old.rename(old.with_name("new home"))
    assert tracking.identity(root) == tracking.LOCAL

    with resolved(CHAMPION, root) as bundle:
        assert (bundle / "model.json").is_file()
    assert mentions(root, old) == []
    assert made.snapshot(root) == before
    run_id = made.client(root).get_model_version("segops", "2").run_id
    assert record(root) == Recorded(run_id, False, [])
    assert promotion.gate(root).verdict == "unchanged"
    challenge(root, seed=3, quality=0.9)
    assert promotion.promote(root, promotion.gate(root)).verdict == "promoted"
    assert aliases(root) == {"champion": "3", "previous": "2"}
    names = {Path(name).parts[1] for name in made.snapshot(root)["artifacts"]}
    assert names == {path.name for path in (root / "mlartifacts").iterdir()}
    assert not old.exists()


@pytest.mark.slow
def test_comparison_and_rollback_work_after_a_move(old: Path) -> None:
    root = old.rename(old.with_name("new home"))
    found = compare(["models:/segops/1", "models:/segops/2"], root, root / "page.html")
    assert found.images == 8
    assert rollback(root, "halos").champion == "1"
    assert aliases(root) == {"champion": "1"}
    assert kinds(root)[-1] == ("done", "rollback", "2")
    assert not old.exists()


@pytest.mark.slow
def test_mlflow_itself_loads_the_champion_after_a_move(old: Path) -> None:
    root = old.rename(old.with_name("new home"))
    open_once(root)
    mlflow.set_tracking_uri(f"sqlite:///{root / 'mlflow.db'}")
    try:
        model = mlflow.pyfunc.load_model(CHAMPION)
        assert "image" in model.metadata.get_input_schema().input_names()
        with resolved(CHAMPION, root):  # beside the byte code that Python may have written
            pass
    finally:
        mlflow.set_tracking_uri(None)
    assert not old.exists()


def test_a_copy_beside_the_old_place_uses_its_own(old: Path) -> None:
    root = shutil.copytree(old, old.with_name("copy"))
    there = {path: path.stat().st_mtime_ns for path in old.rglob("*")}
    challenge(root, seed=3, quality=0.9)
    assert promotion.promote(root, promotion.gate(root)).verdict == "promoted"
    assert {path: path.stat().st_mtime_ns for path in old.rglob("*")} == there
    assert aliases(old) == {"champion": "2", "previous": "1"}
    for model in root.glob("mlartifacts/models/*/artifacts/artifacts/segmenter/model.json"):
        model.write_text("{}")
    with pytest.raises(SegopsError, match="changed"), resolved(CHAMPION, root):
        pass


@pytest.mark.slow
def test_moved_twice_and_back(old: Path) -> None:
    original = dump(old / "mlflow.db")
    second = old.rename(old.with_name("second"))
    open_once(second)
    (copy,) = second.glob("mlflow.db-in-*")
    assert dump(copy) == original
    third = second.rename(old.with_name("third"))
    open_once(third)
    assert len(list(third.glob("mlflow.db-in-*"))) == 2
    third.rename(old)
    with resolved(CHAMPION, old):
        pass
    assert mentions(old, second) == mentions(old, third) == []
    assert not second.exists()
    assert not third.exists()
    # A second opening changes nothing.
    content = (old / "mlflow.db").read_bytes()
    open_once(old)
    assert (old / "mlflow.db").read_bytes() == content


KILLED = """
import os, signal, sys
from pathlib import Path
from segops.record import moved
rewrite = moved._rewrite
def killed(*arguments):
    rewrite(*arguments)
    os.kill(os.getpid(), signal.SIGKILL)
moved._rewrite = killed
moved.mend(Path(sys.argv[1]), "segops")
"""


def test_a_mending_that_is_killed_is_done_by_the_next_opening(old: Path) -> None:
    root = old.rename(old.with_name("new home"))
    done = subprocess.run([sys.executable, "-c", KILLED, str(root / "mlflow.db")], check=False)
    assert done.returncode == -signal.SIGKILL
    assert "runs.artifact_uri" in mentions(root, old), "nothing is half-mended"
    with resolved(CHAMPION, root):
        pass
    assert mentions(root, old) == []
    assert not old.exists()


def test_artifacts_that_an_earlier_segops_left_at_the_old_place_are_fetched(old: Path) -> None:
    root = old.rename(old.with_name("new home"))
    run_id = made.client(root).get_model_version("segops", "1").run_id
    (old / "mlartifacts").mkdir(parents=True)
    (root / "mlartifacts" / run_id).rename(old / "mlartifacts" / run_id)
    open_once(root)
    counts = f"mlartifacts/{run_id}/artifacts/metrics/counts.parquet"
    assert files.sha256_file(root / counts) == files.sha256_file(old / counts)


def test_the_artifacts_of_a_checkout_that_shares_the_database_stay_there(
    old: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    other = made.make(old.with_name("other"), database=False)
    made.set_params(other, registry={"experiment": "theirs"})
    monkeypatch.setenv("MLFLOW_TRACKING_URI", f"sqlite:///{old / 'mlflow.db'}")
    made.train(other, seed=5)
    record(other)
    monkeypatch.delenv("MLFLOW_TRACKING_URI")
    open_once(old)
    assert "runs.artifact_uri" in mentions(old, other)
    assert not list(old.glob("mlflow.db-in-*"))
    # Nor where their disk is not mounted.
    other.rename(other.with_name("away"))
    open_once(old)
    assert "runs.artifact_uri" in mentions(old, other)
    assert not list(old.glob("mlflow.db-in-*"))


@pytest.mark.parametrize("place", ["/mlartifacts", "/elsewhere/mlartifacts"])
def test_an_experiment_without_a_run_moves_with_its_own_checkout_alone(
    tmp_path: Path, place: str
) -> None:
    made.put_database(tmp_path)
    client = made.client(tmp_path)
    client.create_experiment("theirs", artifact_location=f"file://{place}")
    moved.mend(tmp_path / "mlflow.db", "segops")
    assert str(tmp_path) not in location(tmp_path, "theirs")
    moved.mend(tmp_path / "mlflow.db", "theirs")
    assert location(tmp_path, "theirs") == (tmp_path / "mlartifacts").as_uri()


def test_an_experiment_at_the_root_directory_keeps_its_runs(tmp_path: Path) -> None:
    made.put_database(tmp_path)
    client = made.client(tmp_path)
    number = client.create_experiment("segops", artifact_location="file:///mlartifacts")
    before = client.create_run(number).info.artifact_uri
    moved.mend(tmp_path / "mlflow.db", "segops")
    assert location(tmp_path, "segops") == "file:///mlartifacts"
    # A container's checkout at the root directory, with its artifacts, was copied here.
    (tmp_path / before.removeprefix("file:///")).mkdir(parents=True)
    moved.mend(tmp_path / "mlflow.db", "segops")
    assert location(tmp_path, "segops") == (tmp_path / "mlartifacts").as_uri()


def location(root: Path, experiment: str) -> str:
    """The artifacts' address of an experiment."""
    with closing(sqlite3.connect(root / "mlflow.db")) as database:
        query = "SELECT artifact_location FROM experiments WHERE name = ?"
        return str(database.execute(query, [experiment]).fetchone()[0])


def without_write_access(root: Path, *command: str) -> subprocess.CompletedProcess[str]:
    """Run a command to which the tree below `root` is read-only."""
    if os.geteuid() == 0:  # root writes everywhere unless it gives up that capability
        command = ("setpriv", "--bounding-set=-dac_override", "--inh-caps=-dac_override", *command)
    places = [root, *(path for path in root.rglob("*") if path.is_dir())]
    try:
        for path in [*root.rglob("*"), root]:
            path.chmod(path.stat().st_mode & 0o555)
        return subprocess.run(command, cwd=root, capture_output=True, text=True, check=False)
    finally:
        for path in places:
            path.chmod(0o755)


@pytest.mark.slow
def test_a_moved_checkout_that_is_read_only_is_read(old: Path) -> None:
    root = old.rename(old.with_name("new home"))
    content = (root / "mlflow.db").read_bytes()
    code = (
        "import pathlib, segops.release.resolve as r\n"
        f"with r.resolved({CHAMPION!r}, pathlib.Path.cwd()) as bundle:\n"
        "    print((bundle / 'model.json').is_file())"
    )
    done = without_write_access(root, sys.executable, "-c", code)
    assert done.stdout.strip() == "True", done.stderr
    assert (root / "mlflow.db").read_bytes() == content
    assert not list(root.glob("mlflow.db-*"))
    assert not old.exists()


def test_the_command_that_reproduces_names_no_place(old: Path) -> None:
    version = made.client(old).get_model_version("segops", "2")
    assert "MLFLOW_TRACKING_URI=sqlite:///mlflow.db;" in version.tags[tag("reproduce")]


def test_the_command_that_an_earlier_segops_stored_is_mended(old: Path) -> None:
    client = made.client(old)
    command = f"(export MLFLOW_TRACKING_URI=sqlite:///{old}/mlflow.db; mlflow ...)"
    client.set_model_version_tag("segops", "2", tag("reproduce"), command)
    root = old.rename(old.with_name("new home"))
    moved.mend(root / "mlflow.db", "segops")
    found = made.client(root).get_model_version("segops", "2").tags[tag("reproduce")]
    assert found == "(export MLFLOW_TRACKING_URI=sqlite:///mlflow.db; mlflow ...)"
