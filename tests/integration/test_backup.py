"""A backup restored elsewhere: everything of a release works and verifies."""

from __future__ import annotations

import shutil
import signal
import sqlite3
import subprocess
import sys
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from urllib.parse import unquote

import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.serialization import load_pem_public_key
from mlflow.tracking._tracking_service import utils

from segops import files, pipeline
from segops.operate import archive
from segops.operate.backup import Backed, backup
from segops.operate.restore import restore
from segops.predict.bundle import load_bundle
from segops.release.audit import audit
from segops.release.resolve import resolved
from segops.release.rollback import rollback
from segops.release.verify import verify
from segops.runtime.errors import SegopsError
from tests.support import registry_workspace as made
from tests.support.registry_workspace import aliases, challenge, release
from tests.support.statements import private_pem

CHAMPION = "models:/segops@champion"


def begin_dvc(root: Path) -> None:
    """What `dvc init` leaves."""
    (root / ".dvc").mkdir()
    (root / ".dvc/config").touch()
    (root / ".dvc/.gitignore").write_text("/cache\n/tmp\n")


@pytest.fixture(scope="module")
def old(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two signed releases, data that DVC tracks, a version that nothing names. Read it only."""
    with pytest.MonkeyPatch.context() as patch:
        patch.delenv("MLFLOW_TRACKING_URI", raising=False)
        root = made.make(tmp_path_factory.mktemp("backup") / "old home@ü")
        key = private_pem(Ed25519PrivateKey.generate(), root.with_name("key.pem"))
        patch.setenv("SEGOPS_SIGNING_KEY", str(key))
        (root / "data/voc.dvc").unlink()
        shutil.copy(Path(__file__).parents[2] / ".gitignore", root / ".gitignore")
        begin_dvc(root)
        pipeline.track_data(root, Path("data/voc"), print)
        made.git(root, "add", "-A")
        made.git(root, "commit", "-q", "-m", "data")
        release(root, seed=1, quality=0.7)
        assert release(root, seed=2, quality=0.8).verdict == "promoted"
        challenge(root, seed=3, quality=0.9)
        challenge(root, seed=4, quality=0.9)
        return root


@pytest.fixture(scope="module")
def backed(old: Path) -> Backed:
    with pytest.MonkeyPatch.context() as patch:
        patch.delenv("MLFLOW_TRACKING_URI", raising=False)
        patch.setenv("SEGOPS_SIGNING_KEY", str(old.with_name("key.pem")))
        return backup(old, old.with_name("backup.tar"), with_data=True)


@pytest.fixture
def gone(old: Path, backed: Backed) -> Iterator[Path]:
    """The backup, while what it was made of is not there."""
    away = old.rename(old.with_name("away"))
    utils._artifact_repos_cache.clear()  # of this process, which knows the old addresses
    yield backed.file
    assert not old.exists()
    away.rename(old)


def test_named_versions_are_in_it_and_no_private_key(old: Path, backed: Backed) -> None:
    assert backed.versions == {"segops": ("1", "2", "4")}, "nothing names version 3"
    assert backed.notes == []
    with archive.opened(backed.file) as held:
        names = set(held.manifest.files)
        held.verify()
    assert {"mlflow.db", "params.yaml", "dvc.yaml", "dvc.lock", "data/voc.dvc"} <= names
    assert sum(name.endswith("segmenter/model.json") for name in names) == 3
    private = old.with_name("key.pem").read_bytes()
    assert private.splitlines()[1] not in backed.file.read_bytes()
    (public,) = [name for name in names if name.startswith(".segops/keys/")]
    assert backed.file.stat().st_size == backed.bytes
    assert len(public) > len(".segops/keys/.pem")


@pytest.mark.slow
def test_everything_of_a_release_works_elsewhere(
    gone: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    monkeypatch.delenv("SEGOPS_SIGNING_KEY", raising=False)
    away = gone.with_name("away")
    clone = tmp_path / "new home"
    made.git(tmp_path, "clone", "-q", str(away), str(clone))
    done = restore(clone, gone)
    assert done.entries["segops"] > 4
    assert done.kept == []
    (key,) = (clone / ".segops/keys").iterdir()
    assert load_pem_public_key(key.read_bytes())
    assert not (clone / ".segops/restore").exists()
    assert not list(clone.glob("mlflow.db-*"))
    with closing(sqlite3.connect(clone / "mlflow.db")) as database:
        dump = unquote("\n".join(database.iterdump()))
    assert "old home" not in dump

    for version in ("champion", "1"):
        found = audit(clone, version, key)
        assert found.names("broken") == []
        assert {
            "run",
            "artifact",
            "weights",
            "code",
            "dvc.lock",
            "data",
            "ledger",
            "statement",
        } <= (set(found.names("verified")))
    with resolved(CHAMPION, clone) as bundle:
        load_bundle(bundle)
    statements = sorted(clone.glob("mlartifacts/*/artifacts/decisions/*.statement.zip"))
    assert [verify(one, key).is_vouched for one in statements] == [True, True]

    assert rollback(clone, "halos").champion == "1"
    assert aliases(clone) == {"champion": "1", "challenger": "4"}
    made.use_data(clone, seed=3)
    assert release(clone, seed=5, quality=0.95).verdict == "promoted"


def test_a_directory_without_a_checkout_gets_one_that_reads(
    gone: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    into = tmp_path / "empty"
    restore(into, gone)
    assert (into / "dvc.yaml").is_file()
    with resolved(CHAMPION, into) as bundle:
        assert (bundle / "model.json").is_file()
    with pytest.raises(SegopsError, match=r"there is a record already \(mlflow.db"):
        restore(into, gone)


def test_an_empty_database_is_no_record(
    gone: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    made.put_database(tmp_path)
    (tmp_path / "params.yaml").write_text("model: {architecture: unet}\n")
    done = restore(tmp_path, gone)
    assert done.kept == ["params.yaml"]
    assert "unet" in (tmp_path / "params.yaml").read_text()
    assert done.entries["segops"] > 4


KILLED = """
import os, signal, sys
from pathlib import Path
from segops.operate import restore as module
place, calls = module._place, []
def killed(source, target):
    calls.append(target)
    if len(calls) == int(sys.argv[3]):
        os.kill(os.getpid(), signal.SIGKILL)
    place(source, target)
module._place = killed
module.restore(Path(sys.argv[1]), Path(sys.argv[2]))
"""


@pytest.mark.slow
@pytest.mark.parametrize(
    "step", [pytest.param(1, marks=pytest.mark.long), pytest.param(2, marks=pytest.mark.long), 6]
)
def test_a_restore_that_is_killed_leaves_no_record_and_the_next_one_works(
    gone: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, step: int
) -> None:
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    command = [sys.executable, "-c", KILLED, str(tmp_path), str(gone), str(step)]
    assert subprocess.run(command, check=False).returncode == -signal.SIGKILL
    assert not (tmp_path / "mlflow.db").exists()
    restore(tmp_path, gone)
    with resolved(CHAMPION, tmp_path) as bundle:
        assert (bundle / "model.json").is_file()
    assert not (tmp_path / ".segops/restore.json").exists()


def test_a_damaged_backup_writes_nothing(gone: Path, tmp_path: Path) -> None:
    content = bytearray(gone.read_bytes())
    weights = content.rindex(b"background")
    content[weights] ^= 1
    (tmp_path / "damaged.tar").write_bytes(content)
    into = tmp_path / "into"
    with pytest.raises(SegopsError, match="was changed"):
        restore(into, tmp_path / "damaged.tar")
    assert not into.exists()


def test_a_backup_that_fails_leaves_the_one_before(
    old: Path, backed: Backed, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    before = files.sha256_file(backed.file)
    monkeypatch.setenv("SEGOPS_SIGNING_KEY", str(old / "none.pem"))
    with pytest.raises(SegopsError, match="cannot be read"):
        backup(old, backed.file)
    assert files.sha256_file(backed.file) == before
    assert len(list(backed.file.parent.glob("*.tar"))) == 1


def test_a_server_is_told_of(old: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MLFLOW_TRACKING_URI", f"sqlite:///{old}/mlflow.db?x")
    root = made.make(tmp_path / "other", database=False)
    done = backup(root, tmp_path / "backup.tar")
    (note,) = done.notes
    assert "pg_dump" in note
    assert done.versions == {}
    with archive.opened(done.file) as held:
        assert "mlflow.db" not in held.manifest.files
