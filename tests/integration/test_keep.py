"""After a backup came back elsewhere, and after a clean-up, all of a release works and verifies."""

from __future__ import annotations

import os
import shutil
import signal
import sqlite3
import subprocess
import sys
from collections.abc import Iterator
from contextlib import closing
from dataclasses import asdict
from pathlib import Path
from typing import Any
from urllib.parse import unquote

import pytest
import yaml
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.serialization import load_pem_public_key
from mlflow.tracking._tracking_service import utils
from typer.testing import CliRunner

from segops import files, paths
from segops.cli import app
from segops.operate import archive, results, worktree
from segops.operate.backup import Backed, backup
from segops.operate.clean import Plan, Wanted, clean, plan
from segops.operate.restore import restore
from segops.operate.runs import BRANCHES, RECORD, Run
from segops.pipeline import tracked
from segops.predict.bundle import load_bundle
from segops.predict.log import PredictionLog
from segops.predict.observe import Observation
from segops.record import kept_lineage
from segops.record.lineage import RESULT_FIELD, START_FIELD, TEACHER_FIELD, tag
from segops.record.pretraining import record_pretraining
from segops.release import promotion, versions
from segops.release.audit import audit
from segops.release.named import PIN
from segops.release.resolve import resolved
from segops.release.rollback import rollback
from segops.release.status import status
from segops.release.verify import verify
from segops.runtime.errors import SegopsError
from tests.support import registry_workspace as made
from tests.support.registry_workspace import aliases, challenge, release
from tests.support.statements import private_pem
from tests.unit.release.test_ledger import write_old

CHAMPION = "models:/segops@champion"
pytestmark = pytest.mark.slow


def begin_dvc(root: Path) -> None:
    """What `dvc init` leaves."""
    (root / ".dvc").mkdir()
    (root / ".dvc/config").touch()
    (root / ".dvc/.gitignore").write_text("/cache\n/tmp\n")


def track(root: Path, words: str) -> None:
    """Let DVC track data with the same images, of another hash."""
    (root / "data/voc/notes.txt").write_text(words)
    tracked.track_data(root, Path("data/voc"), print)


@pytest.fixture(scope="module")
def old(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two signed releases, data that DVC tracks, versions that nothing needs. Read it only."""
    with pytest.MonkeyPatch.context() as patch:
        patch.delenv("MLFLOW_TRACKING_URI", raising=False)
        root = made.make(tmp_path_factory.mktemp("backup") / "old home@ü")
        key = private_pem(Ed25519PrivateKey.generate(), root.with_name("key.pem"))
        patch.setenv("SEGOPS_SIGNING_KEY", str(key))
        (root / "data/voc.dvc").unlink()
        shutil.copy(Path(__file__).parents[2] / ".gitignore", root / ".gitignore")
        begin_dvc(root)
        track(root, "of version 1, whose pointer is in no commit")
        release(root, seed=1, quality=0.7)
        track(root, "of no version")
        track(root, "of version 2")
        made.git(root, "add", "-A")
        made.git(root, "commit", "-q", "-m", "data")
        assert release(root, seed=2, quality=0.8).verdict == "promoted"
        challenge(root, seed=3, quality=0.9)
        assert release(root, seed=4, quality=0.1).verdict == "rejected"
        challenge(root, seed=5, quality=0.9)
        made.use_data(root, seed=3)
        track(root, "of version 2")
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
    assert backed.versions == {"segops": ("1", "2", "4", "5")}, "nothing names version 3"
    assert backed.notes == []
    with archive.opened(backed.file) as held:
        names = set(held.manifest.files)
        held.verify()
    assert {"mlflow.db", "params.yaml", "dvc.yaml", "dvc.lock", "data/voc.dvc"} <= names
    assert sum(name.endswith("segmenter/model.json") for name in names) == 4
    private = old.with_name("key.pem").read_bytes()
    assert private.splitlines()[1] not in backed.file.read_bytes()
    (public,) = [name for name in names if name.startswith(".segops/keys/")]
    assert backed.file.stat().st_size == backed.bytes
    assert len(public) > len(".segops/keys/.pem")


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
    assert [verify(one, key).is_vouched for one in statements] == [True, True, True]

    assert rollback(clone, "halos").champion == "1"
    assert aliases(clone) == {"champion": "1", "challenger": "5"}
    made.use_data(clone, seed=3)
    assert release(clone, seed=6, quality=0.95).verdict == "promoted"


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


def test_other_projects_come_back_with_their_parameters(
    root: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    held = {
        "tiles/params.yaml": "registry: {model: tiles}\n",
        "tiles/dvc.yaml": "stages: {}\n",
        "tiles/data/voc.dvc": "outs: []\n",
        "broken/params.yaml": "no_such: 1\n",
        "broken/dvc.yaml": "stages: {}\n",
    }
    for name, text in held.items():
        files.write_text(root / name, text)
    made.git(root, "worktree", "add", "-q", "--detach", str(root / "tree"))
    done = backup(root, tmp_path / "backup.tar")
    into = tmp_path / "into"
    (into / "tiles").mkdir(parents=True)
    (into / "tiles/params.yaml").write_text("registry: {model: other}\n")
    assert restore(into, done.file).kept == ["tiles/params.yaml"]
    assert "other" in (into / "tiles/params.yaml").read_text()
    for name in sorted(held)[:4]:
        assert (into / name).read_text() == held[name]
    assert not (into / "tree").exists()
    assert not (into / ".segops/projects").exists()
    # Made and restored in a project, whose own files bear the names of a main checkout's.
    done = backup(root / "tiles", tmp_path / "of-tiles.tar")
    clone = tmp_path / "clone"
    made.git(tmp_path, "clone", "-q", str(root), str(clone))
    (clone / "params.yaml").unlink()
    for name in ("tiles/dvc.yaml", "tiles/params.yaml"):
        files.write_text(clone / name, held[name])
    assert restore(clone / "tiles", done.file).entries["segops"] > 4
    assert (clone / "params.yaml").read_text() == (root / "params.yaml").read_text()


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


def test_a_backup_of_a_record_that_is_gone_leaves_the_one_before(
    root: Path, tmp_path: Path
) -> None:
    file = tmp_path / "backup.tar"
    assert backup(root, file).notes == []
    artifacts, database = root / "mlartifacts", root / "mlflow.db"
    artifacts.rename(tmp_path / "away")
    notes = backup(root, tmp_path / "less.tar").notes
    assert notes
    assert all("is LOST: there is no file at" in note for note in notes)
    (tmp_path / "away").rename(artifacts)
    before = files.sha256_file(file)
    database.rename(tmp_path / "away.db")
    with pytest.raises(SegopsError, match=r"mlflow\.db: no record .* though ledger/.*\.log tells"):
        backup(root, file)
    assert files.sha256_file(file) == before


def test_a_server_is_told_of(old: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MLFLOW_TRACKING_URI", f"sqlite:///{old}/mlflow.db?x")
    root = made.make(tmp_path / "other", database=False)
    done = backup(root, tmp_path / "backup.tar")
    (note,) = done.notes
    assert "pg_dump" in note
    assert done.versions == {}
    with archive.opened(done.file) as held:
        assert "mlflow.db" not in held.manifest.files


@pytest.fixture
def root(old: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A copy of the workspace, in a place of its own, with MLflow's addresses mended."""
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    monkeypatch.delenv("SEGOPS_SIGNING_KEY", raising=False)
    utils._artifact_repos_cache.clear()
    copy = shutil.copytree(old, tmp_path / "checkout", symlinks=True)
    status(copy)
    return copy


NOW = Wanted(older_than=0)


def sound(root: Path) -> dict[str, list[str]]:
    """What verifies of each release, from the record and DVC's cache alone."""
    shutil.rmtree(root / "data/voc", ignore_errors=True)
    found = {version: audit(root, version) for version in ("1", "2")}
    assert [one.names("broken") for one in found.values()] == [[], []]
    return {version: one.names("verified") for version, one in found.items()}


def test_a_clean_up_leaves_all_that_releases_need(root: Path) -> None:
    before = sound(root)
    assert "data" in before["1"]
    seen = plan(root, NOW)
    assert sum("segops version" in one.name for one in seen.pieces) == 1
    assert any("segops version 3" in one.name for one in seen.pieces)
    assert seen.refused > 0
    models = set(root.glob("mlartifacts/models/*"))
    cached = sum(path.is_file() for path in (root / ".dvc/cache").rglob("*"))
    gone = clean(root, NOW, seen)
    assert gone.bytes == seen.bytes > 0
    assert len(models) - len(set(root.glob("mlartifacts/models/*"))) == 1
    left = sum(path.is_file() for path in (root / ".dvc/cache").rglob("*"))
    assert left == cached - 2, "the list of the data of no version, and its note"
    assert {one.version for one in made.client(root).search_model_versions("name = 'segops'")} == {
        1, 2, 4, 5,
    }  # fmt: skip
    assert sound(root) == before
    with made.ledger_of(root) as ledger:
        for number in ("1", "2"):
            version = versions.get(ledger.store, "segops", number)
            kept_lineage.fetch(ledger.store, number, version.run_id, version.tags, root)
    with resolved(CHAMPION, root) as bundle:
        load_bundle(bundle)
    assert not list(root.glob("mlflow.db-in-*"))
    again = plan(root, NOW)
    assert [one for one in again.pieces if one.kind == "record"] == again.pieces == []
    assert rollback(root, "halos").champion == "1"


def test_a_second_model_of_a_kept_run_goes_with_its_version(root: Path) -> None:
    client = made.client(root)
    kept = client.get_model_version_by_alias("segops", "champion")
    experiment = client.get_run(kept.run_id).info.experiment_id
    second = client.create_logged_model(experiment, "segmenter", kept.run_id)
    files.write_text(Path(unquote(second.artifact_location).removeprefix("file://")) / "a", "")
    left = client.create_model_version(
        "segops", second.artifact_location, kept.run_id, tags={tag("bundle_digest"): "0" * 64}
    )
    wanted = Wanted(older_than=0)
    seen = plan(root, wanted)
    assert f"model {second.model_id} (segops version {left.version})" in {
        one.name for one in seen.pieces
    }
    clean(root, wanted, seen)
    numbers = {str(one.version) for one in client.search_model_versions("name = 'segops'")}
    assert str(left.version) not in numbers
    assert str(kept.version) in numbers


def test_what_the_gate_refused_goes_when_asked_for_and_a_pin_stays(root: Path) -> None:
    client = made.client(root)
    client.set_model_version_tag("segops", "3", PIN, "shown to the customer")
    wanted = Wanted(older_than=0, rejected=True)
    seen = plan(root, wanted)
    assert [one.name[-18:] for one in seen.pieces if "segops version" in one.name] == [
        "(segops version 4)"
    ]
    clean(root, wanted, seen)
    assert {str(one.version) for one in client.search_model_versions("name = 'segops'")} == {
        "1", "2", "3", "5",
    }  # fmt: skip
    assert audit(root, "champion").names("broken") == []
    assert made.kinds(root)[-1] == ("decision", "rejected", "4"), "the ledger stays"
    challenge(root, seed=7, quality=0.9)
    assert promotion.gate(root).verdict == "promoted"


def test_models_that_others_registered_stay(root: Path) -> None:
    client = made.client(root)
    place = root / "mlartifacts"
    theirs = client.create_experiment("theirs", artifact_location=place.as_uri())
    run = client.create_run(theirs)
    model = client.create_logged_model(theirs, "classifier", run.info.run_id)
    client.create_registered_model("classifier")
    client.create_model_version(
        "classifier", model.artifact_location, run.info.run_id, model_id=model.model_id
    )
    idle = client.create_run(theirs)
    for one in (run, idle):
        (place / one.info.run_id).mkdir(exist_ok=True)
        (place / one.info.run_id / "notes.txt").write_text("theirs")
    names = " ".join(one.name for one in plan(root, Wanted(0, rejected=True)).pieces)
    assert "segops version 3" in names
    for one in ("classifier", run.info.run_id, idle.info.run_id, model.model_id):
        assert one not in names


def an_object(root: Path, digest: str) -> Path:
    """An object in DVC's cache."""
    path = root / ".dvc/cache/files/md5" / digest[:2] / digest[2:]
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(digest)
    return path


def of_cache(found: Plan) -> set[str]:
    return {one.name.replace("/", "") for one in found.pieces if one.kind == "DVC's cache"}


def result(root: Path, name: str, version: str, digest: str) -> str:
    """A branch with the result of a run; its commit."""
    (root / "pointer").write_text(f"outs:\n- md5: {digest}\n  hash: md5\n  path: other\n")
    commit = worktree.commit_files(
        root, "HEAD", {"other.dvc": root / "pointer"},
        results.message(name, "segops", version, "rejected"),
    )  # fmt: skip
    worktree.set_ref(root, results.branch_of(name), commit)
    return commit


def of_runs(root: Path) -> set[str]:
    """The branches of runs."""
    return {
        one.rpartition("/")[2]
        for one in worktree.git(root, "for-each-ref", "--format=%(refname)", BRANCHES).split()
    }


def test_outputs_and_branch_of_a_run_go_with_its_version(root: Path) -> None:
    digests = {"1": 31 * "1" + "f", "3": 31 * "3" + "f", "99": 31 * "9" + "f"}
    for version, digest in digests.items():
        an_object(root, digest)
        result(root, f"night-{version}", version, digest)
    seen = plan(root, NOW)
    assert of_cache(seen) & {*digests.values()} == {digests["3"]}
    assert [one.name for one in seen.pieces if one.kind == "branch of a run"] == ["runs/night-3"]
    assert of_runs(root) == {"night-1", "night-3", "night-99"}
    clean(root, NOW, seen)
    assert of_runs(root) == {"night-1", "night-99"}
    an_object(root, digests["3"])
    assert of_cache(plan(root, NOW)) == {digests["3"]}, "the version is gone already"


def test_a_branch_that_something_names_stays(root: Path) -> None:
    digest = 31 * "3" + "f"
    for version in ("3", "4"):
        result(root, f"night-{version}", version, digest)
    made.git(root, "tag", "shown", result(root, "tagged", "3", digest))
    result(root, "at-work", "3", digest)
    made.git(root, "worktree", "add", "-q", str(root.with_name("tree")), "runs/at-work")
    later = result(root, "later", "3", digest)
    made.client(root).set_model_version_tag("segops", "2", tag(RESULT_FIELD), later)
    made.git(root, "branch", "runs/mine", "HEAD")

    def goes(wanted: Wanted) -> set[str]:
        return {one.name for one in plan(root, wanted).pieces if one.kind == "branch of a run"}

    assert goes(NOW) == {"runs/night-3"}
    assert goes(Wanted()) == set(), "it is young"
    assert goes(Wanted(0, rejected=True)) == {"runs/night-3", "runs/night-4"}
    made.git(root, "tag", results.tag_of("segops", "3").removeprefix("refs/tags/"))
    assert goes(NOW) == set()
    other = root / "ledger/segops-0123456789ab.log"
    other.touch()
    assert goes(Wanted(0, rejected=True)) == set(), "it may be another record's"


def test_files_of_a_prediction_log_go_when_they_are_old(root: Path) -> None:
    place = root / "drift"
    log = PredictionLog(place, "digest")
    log.add(Observation("ab" * 32, 50, 37, (0.5,)), "a.jpg")
    (old,) = place.iterdir()
    os.utime(old, (0, 0))
    young = old.with_name("20990101T000000000000Z-0123abcd.jsonl")
    shutil.copyfile(old, young)
    theirs = place / "notes.jsonl"
    theirs.write_bytes(old.read_bytes())
    os.utime(theirs, (0, 0))
    before = plan(root, Wanted())
    assert before.pieces == [], "no workspace names it"
    params = root / "params.yaml"
    tree = yaml.safe_load(params.read_text())
    params.write_text(yaml.safe_dump(tree | {"monitor": {"path": "drift"}}))
    seen = plan(root, Wanted())
    assert [(one.kind, one.name) for one in seen.pieces] == [
        ("prediction log", f"drift/{old.name}")
    ]
    assert seen.bytes == old.stat().st_size
    assert seen.total - before.total == 2 * seen.bytes
    assert plan(root, Wanted(budget=seen.total)).pieces == []
    clean(root, Wanted(budget=seen.total - 1), seen)
    assert sorted(place.iterdir()) == [young, theirs]


def test_the_cache_stays_where_the_record_of_the_releases_is_not_read(root: Path) -> None:
    assert of_cache(plan(root, NOW))
    other = root / "ledger/segops-0123456789ab.log"
    other.touch()
    found = plan(root, NOW)
    assert of_cache(found) == set()
    (note,) = [one for one in found.notes if other.name in one]
    assert "MLFLOW_TRACKING_URI" in note
    other.unlink()
    (root / "mlflow.db").rename(root / "away.db")
    found = plan(root, NOW)
    assert of_cache(found) == set()
    assert any("there is no record here" in one for one in found.notes)


def test_a_version_that_is_young_keeps_its_data(root: Path) -> None:
    data, unused = 31 * "d" + "f", 31 * "e" + "f"
    an_object(root, data)
    an_object(root, unused)
    made.client(root).set_model_version_tag("segops", "3", "segops.data_md5", data)
    assert {data, unused} <= of_cache(plan(root, NOW))
    with closing(sqlite3.connect(root / "mlflow.db")) as database, database:
        later = "UPDATE model_versions SET creation_time = creation_time + 86400000"
        database.execute(f"{later} WHERE name = 'segops' AND version = 3")
    found = plan(root, NOW)
    assert not any("segops version 3" in one.name for one in found.pieces)
    assert {data, unused} & of_cache(found) == {unused}


@pytest.mark.parametrize(
    ("field", "of"), [(START_FIELD, "weights_sha256"), (TEACHER_FIELD, "bundle_digest")]
)
def test_what_a_release_was_made_from_stays(field: str, of: str, root: Path) -> None:
    client = made.client(root)
    digest = client.get_model_version("segops", "3").tags[tag(of)]
    client.set_model_version_tag("segops", "2", tag(field), digest)
    assert not any("segops version 3" in one.name for one in plan(root, NOW).pieces)


def test_the_pretraining_of_a_release_stays_and_is_in_a_backup(root: Path) -> None:
    (root / paths.PRETRAINED).mkdir(parents=True)
    epochs = [{"epoch": 1, "train_loss": 0.5}]
    parts = {"images": "a" * 64}
    held: dict[str, str] = {}
    for words in ("of version 2", "of no version"):
        (root / paths.PRETRAINED_WEIGHTS).write_text(words)
        digest = files.sha256_file(root / paths.PRETRAINED_WEIGHTS)
        result = {"weights_sha256": digest, "epochs": epochs, "parts": parts, "images": 3}
        held[words] = record_pretraining(root, {**result, "fingerprint": words})
        if words == "of version 2":
            made.client(root).set_model_version_tag("segops", "2", tag(START_FIELD), digest)
    shutil.rmtree(root / paths.PRETRAINED)
    going = " ".join(one.name for one in plan(root, NOW).pieces)
    assert [run in going for run in held.values()] == [False, True]
    done = backup(root, root.with_name("backup.tar"))
    with archive.opened(done.file) as opened:
        names = " ".join(opened.manifest.files)
    assert [run in names for run in held.values()] == [True, False]


def test_what_an_earlier_segops_released_is_named(root: Path) -> None:
    write_old(root / "ledger.jsonl", version="3")
    assert not any("segops version 3" in one.name for one in plan(root, NOW).pieces)
    done = backup(root, root.with_name("backup.tar"))
    assert done.versions["segops"] == ("1", "2", "3", "4", "5")
    into = root.with_name("into")
    restore(into, done.file)
    assert (into / "ledger.jsonl").read_bytes() == (root / "ledger.jsonl").read_bytes()


def test_a_promotion_while_a_backup_is_written_is_not_in_it(
    root: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write, lines = archive.write, len(made.lines(root))

    def busy(*arguments: Any) -> str:
        made.use_data(root, seed=3)
        assert release(root, seed=8, quality=0.95).verdict == "promoted"
        (root / "dvc.lock").write_text("schema: '2.0'\nstages: {}\n")
        return write(*arguments)

    monkeypatch.setattr(archive, "write", busy)
    done = backup(root, root.with_name("backup.tar"))
    into = root.with_name("into")
    assert restore(into, done.file).entries["segops"] == lines < len(made.lines(root))


def test_what_is_young_or_within_the_budget_stays(root: Path) -> None:
    young = plan(root, Wanted())
    assert young.pieces == []
    assert len(young.young) == len(plan(root, NOW).pieces)
    assert plan(root, Wanted(older_than=0, budget=young.total)).pieces == []
    (first,) = plan(root, Wanted(older_than=0, budget=young.total - 1)).pieces
    record = [one for one in young.young if one.kind != "DVC's cache"]
    assert first.time == min(one.time for one in record)


def test_kept_worktrees_go_and_a_run_under_way_is_not_cleaned_around(root: Path) -> None:
    made.git(root, "worktree", "add", "-q", "--detach", str(root / paths.RUNS / "bad/worktree"))
    run = Run("bad", "main", "0" * 40, "2026-01-01T00:00:00+00:00", "me", state="failed")
    files.write_json(root / paths.RUNS / "bad" / RECORD, asdict(run))
    seen = plan(root, NOW)
    assert [one.name for one in seen.pieces if one.kind == "worktree"] == ["run bad"]
    with (
        files.exclusive(root / paths.RUN_LOCK, "a run"),
        pytest.raises(SegopsError, match="a run is under way"),
    ):
        clean(root, NOW, seen)
    assert not (root / paths.RUNS / "bad").exists()
    assert len(plan(root, NOW).pieces) == len(seen.pieces) - 1


def test_a_project_is_a_workspace_too(root: Path) -> None:
    project = root / "tiles"
    for name in ("dvc.yaml", "params.yaml"):
        files.write_text(project / name, "{}\n")
    seen = plan(root, NOW)
    assert any("segops version 3" in one.name for one in seen.pieces)
    with (
        files.exclusive(project / paths.RUN_LOCK, "a run"),
        pytest.raises(SegopsError, match="a run is under way"),
    ):
        clean(root, NOW, seen)
    trained = made.client(root).get_model_version("segops", "3").tags["segops.weights_sha256"]
    files.write_json(project / paths.TRAINING, {"weights_sha256": trained})
    assert not any("segops version 3" in one.name for one in plan(root, NOW).pieces)


CLEANING = """
import os, signal, sys
from pathlib import Path
from mlflow import MlflowClient
from segops.operate.clean import Wanted, clean, plan
def killed(*arguments):
    os.kill(os.getpid(), signal.SIGKILL)
setattr(MlflowClient, sys.argv[2], killed)
root, wanted = Path(sys.argv[1]), Wanted(older_than=0)
clean(root, wanted, plan(root, wanted))
"""


@pytest.mark.parametrize(
    "step", [pytest.param("delete_model_version", marks=pytest.mark.long), "delete_run"]
)
def test_a_clean_up_that_is_killed_is_finished_by_the_next(root: Path, step: str) -> None:
    before = sound(root)
    command = [sys.executable, "-c", CLEANING, str(root), step]
    assert subprocess.run(command, check=False).returncode == -signal.SIGKILL
    assert sound(root) == before
    seen = plan(root, NOW)
    assert seen.pieces
    clean(root, NOW, seen)
    assert plan(root, NOW).pieces == []
    assert sound(root) == before


def test_the_command_shows_and_waits_for_yes(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(root)
    run = CliRunner().invoke

    def told(*arguments: str) -> str:
        done = run(app, ["clean", *arguments])
        assert done.exception is None, done.output
        return " ".join(done.output.split())

    assert "0.0 MB of" in told()
    assert "segops version 3" in told("--older-than", "0d", "--dry-run")
    assert "Nothing was removed. `segops clean --yes`" in told("--older-than", "0d")
    assert "segops version 3" in told("--older-than", "0d", "--yes")
    assert "segops version 3" not in told("--older-than", "0d")
    for arguments, words in (
        (["--budget", "0.001MB"], "remain, more than the budget"),
        (["--budget", "20"], "expected a size"),
        (["--older-than", "month"], "expected an age"),
    ):
        with pytest.raises(SegopsError, match=words):
            run(app, ["clean", *arguments], catch_exceptions=False)
