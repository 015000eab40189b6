"""The record: MLflow holds what the workspace holds, live or later, once and not twice."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest
from mlflow import MlflowClient

from segops import files, paths, pipeline
from segops.params.file import load_params
from segops.predict import package as bundles
from segops.record import columns, lineage, runs, tracking
from segops.record.lineage import LINEAGE_FIELDS, tag
from segops.record.stage_outputs import EVALUATED, TRAINED
from segops.record.update import Recorded, record
from segops.release.register import register
from segops.runtime.errors import SegopsError, TransientError
from segops.stages import train
from tests.integration.conftest import dvc, set_params
from tests.support import registry_workspace as made


@pytest.fixture(autouse=True)
def _embedded_database(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)


@pytest.fixture(scope="module")
def recorded(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Recorded]:
    """A recorded workspace. Shared: read it, do not change it."""
    root = made.make(tmp_path_factory.mktemp("recorded") / "checkout")
    made.train(root, seed=1)
    return root, record(root)


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """A workspace with a trained and evaluated model, nothing recorded yet."""
    root = made.make(tmp_path / "checkout")
    made.train(root, seed=1)
    return root


def test_everything_is_recorded(recorded: tuple[Path, Recorded]) -> None:
    root, done = recorded
    assert done.created
    client = made.client(root)
    run = client.get_run(done.run_id)
    assert run.info.status == "FINISHED"
    flat = load_params(root).flat()
    assert set(run.data.params) == set(flat)
    assert run.data.params["train.lr"] == str(flat["train.lr"])
    assert run.data.params["augment.scale.range"] == "[0.5, 2.0]"
    for name in runs.EPOCH_METRICS:
        history = {one.step: one.value for one in client.get_metric_history(done.run_id, name)}
        assert history == {row["epoch"]: row[name] for row in made.curves(1) if name in row}
    assert "pseudo_label_loss" in run.data.metrics
    assert "discriminator_loss" not in run.data.metrics
    evaluation = files.read_json(root / paths.EVALUATION)
    assert run.data.metrics["miou"] == evaluation["miou"]
    assert run.data.metrics["iou/car"] == evaluation["classes"]["car"]["iou"]
    absent = [name for name, one in evaluation["classes"].items() if one["iou"] is None]
    assert absent
    assert not {f"iou/{name}" for name in absent} & set(run.data.metrics)


def artifacts(root: Path, run_id: str, path: str | None = None) -> set[str]:
    found: set[str] = set()
    for one in made.client(root).list_artifacts(run_id, path):
        found |= artifacts(root, run_id, one.path) if one.is_dir else {one.path}
    return found


def test_reports_and_files_are_artifacts(recorded: tuple[Path, Recorded]) -> None:
    root, done = recorded
    held = artifacts(root, done.run_id)
    expected = {path.as_posix() for path in (*TRAINED, *EVALUATED) if (root / path).is_file()}
    assert len(expected) >= 10
    assert expected <= held
    assert {"lineage/params.yaml", "lineage/dvc.lock", "lineage/data.dvc"} <= held
    digest = files.read_json(root / paths.EVALUATION)["bundle_digest"]
    assert {"lineage/environment.txt", f"lineage/{digest[:12]}/reproduce.sh"} <= held


@pytest.mark.parametrize("field", LINEAGE_FIELDS)
def test_lineage_field_is_a_tag(field: str, recorded: tuple[Path, Recorded]) -> None:
    root, done = recorded
    assert made.client(root).get_run(done.run_id).data.tags.get(tag(field))


def test_nothing_is_pickled(recorded: tuple[Path, Recorded]) -> None:
    root, _ = recorded
    suffixes = {path.suffix for path in (root / "mlartifacts").rglob("*") if path.is_file()}
    assert ".safetensors" in suffixes
    assert not suffixes & {".pkl", ".pickle", ".pt", ".pth", ".bin", ".joblib", ".npy"}


def test_no_phantom_runs(recorded: tuple[Path, Recorded]) -> None:
    root, done = recorded
    assert list(made.snapshot(root)["runs"]) == [done.run_id]


def test_a_second_call_changes_nothing(root: Path) -> None:
    first = record(root)
    registered = register(root, first)
    before = made.snapshot(root)
    second = record(root)
    assert (second.run_id, second.created, second.changed) == (first.run_id, False, [])
    again = register(root, second)
    assert (again.version, again.created) == (registered.version, False)
    assert made.snapshot(root) == before


def without_ids(snapshot: dict[str, Any]) -> Any:
    """What of a run does not depend on when and as what it was written."""
    (run,) = snapshot["runs"].values()
    tags = {name: value for name, value in run["tags"].items() if name != tag("reproduce")}
    metrics = {
        name: [(step, value) for step, value, _ in history]
        for name, history in run["metrics"].items()
    }
    contents = sorted(
        (Path(path).name, digest)
        for path, digest in snapshot["artifacts"].items()
        if Path(path).name != "MLmodel"
    )
    models = list(snapshot["models"].values())
    return run["status"], run["params"], tags, metrics, contents, models


@pytest.mark.slow
def test_a_deleted_database_is_filled_again(root: Path) -> None:
    record(root)
    before = without_ids(made.snapshot(root))
    (root / "mlflow.db").unlink()
    shutil.rmtree(root / "mlartifacts")
    # In a process of its own, as in life: in this one MLflow still holds the deleted file open.
    code = "import sys, pathlib, segops.record.update as r; r.record(pathlib.Path(sys.argv[1]))"
    subprocess.run([sys.executable, "-c", code, str(root)], check=True)
    moved = root.rename(root.with_name("again"))
    assert without_ids(made.snapshot(moved)) == before


def test_lost_artifacts_come_back(root: Path) -> None:
    done = record(root)
    before = made.snapshot(root)["artifacts"]
    for path in root.glob("mlartifacts/*/artifacts/reports/evaluation.html"):
        path.unlink()
    assert record(root).changed == ["files"]
    assert made.snapshot(root)["artifacts"] == before
    assert record(root) == Recorded(done.run_id, False, [])


def test_what_an_interrupted_upload_left_is_removed(
    root: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def interrupted(client: MlflowClient, model_id: str, local: str) -> None:
        place = root / f"mlartifacts/models/{model_id}/artifacts"
        shutil.copytree(Path(local) / "artifacts", place)
        raise KeyboardInterrupt

    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(MlflowClient, "log_model_artifacts", interrupted)
        record(root)
    (left,) = (root / "mlartifacts/models").iterdir()
    made.train(root, seed=2)
    run_id = record(root).run_id
    (kept,) = (root / "mlartifacts/models").iterdir()
    assert kept != left
    (model,) = made.snapshot(root)["models"].values()
    assert model[0] == "READY"
    half = root / f"mlartifacts/{run_id}/artifacts/reports/.artifact.uploading.x1"
    half.write_bytes(b"half")
    assert record(root).changed == []
    assert not half.exists()


def test_another_evaluation_of_the_same_weights_moves_the_scores_on(root: Path) -> None:
    first = record(root)
    registered = register(root, first)
    client = made.client(root)
    before = client.get_run(first.run_id)
    made.use_data(root, seed=4)
    made.set_params(root, evaluate={"seed": 7})
    made.evaluate(root, quality=0.5)
    second = record(root)
    assert second.run_id == first.run_id
    assert {"metrics", "lineage", "files"} <= set(second.changed)
    after = client.get_run(first.run_id)
    assert after.data.metrics["miou"] < before.data.metrics["miou"]
    evaluation = files.read_json(root / paths.EVALUATION)
    assert after.data.tags[tag("val_hash")] == evaluation["val_hash"]
    assert after.data.tags[tag("train_hash")] == before.data.tags[tag("train_hash")]
    assert json.loads(after.data.tags[tag("params_changed")]) == {"evaluate.seed": 7}
    again = register(root, second)
    assert (again.version, again.created) == (registered.version, False)
    (version,) = made.snapshot(root)["versions"].values()
    assert version[tag("val_hash")] == evaluation["val_hash"]
    assert float(version[tag("miou")]) == pytest.approx(evaluation["miou"], abs=1e-6)
    assert record(root).changed == []


def test_training_alone_is_recorded_and_an_old_evaluation_is_not_taken_for_its_own(
    root: Path,
) -> None:
    stale = files.read_json(root / paths.EVALUATION)["weights_sha256"]
    made.train(root, seed=2, quality=None)
    run = made.client(root).get_run
    done = record(root)
    assert run(done.run_id).data.tags[tag("weights_sha256")] != stale
    assert "miou" not in run(done.run_id).data.metrics
    assert "val_hash" in lineage.missing(run(done.run_id).data.tags)
    made.evaluate(root, quality=0.8)
    record(root)
    assert "miou" in run(done.run_id).data.metrics
    assert lineage.missing(run(done.run_id).data.tags) == []


def test_before_the_first_commit_it_records_and_the_code_is_filled_in_later(
    tmp_path: Path,
) -> None:
    root = made.make(tmp_path / "checkout", commit=False)
    made.train(root, seed=1)
    done = record(root)
    client = made.client(root)
    tags = client.get_run(done.run_id).data.tags
    assert lineage.missing(tags) == ["code_commit", "code_differs", "reproduce"]
    made.git(root, "add", ".")
    made.git(root, "commit", "-q", "-m", "first")
    assert record(root).changed == ["lineage"]
    assert lineage.missing(client.get_run(done.run_id).data.tags) == []
    assert record(root).changed == []


def test_source_and_data_set_are_filled_in_for_a_run_of_before(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    root = made.make(tmp_path / "checkout")
    with monkeypatch.context() as before:
        before.setattr(columns, "fill", lambda *_: [])
        made.train(root, seed=1)
        old = record(root).run_id
    client = made.client(root)
    assert not client.get_run(old).inputs.dataset_inputs
    assert record(root).changed == ["lineage"]
    assert record(root).changed == []
    run = client.get_run(old)
    tags = run.data.tags
    assert tags["mlflow.source.name"] == "segops stage train"
    assert tags["mlflow.source.type"] == "LOCAL"
    assert tags["mlflow.source.git.commit"] == tags["segops.code_commit"]
    shown = [
        (held.dataset.name, held.dataset.digest, held.tags[0].key, held.tags[0].value)
        for held in run.inputs.dataset_inputs
    ]
    assert sorted(shown) == sorted(
        ("voc", tags[f"segops.{split}_hash"][:12], "mlflow.data.context", split)
        for split in ("train", "val")
    )


def test_what_was_not_tracked_when_recorded_is_filled_in_later(tmp_path: Path) -> None:
    root = made.make(tmp_path / "checkout")
    made.train(root, seed=1)
    pointer = root / "data" / "voc.dvc"
    content = pointer.read_bytes()
    pointer.unlink()
    done = record(root)
    client = made.client(root)
    assert "data_md5" in lineage.missing(client.get_run(done.run_id).data.tags)
    assert record(root).changed == []
    pointer.write_bytes(content)
    assert record(root).changed == ["lineage"]
    assert "data_md5" not in lineage.missing(client.get_run(done.run_id).data.tags)
    assert record(root).changed == []


def test_code_that_differs_is_stored_and_stays_as_it_was_first_told(root: Path) -> None:
    (root / "src/code.py").write_text("CODE = 2\n", encoding="utf-8")
    done = record(root)
    client = made.client(root)
    tags = client.get_run(done.run_id).data.tags
    assert tags[tag("code_differs")] == "true"
    patch = Path(client.download_artifacts(done.run_id, "lineage/code.patch"))
    assert "+CODE = 2" in patch.read_text()
    assert files.sha256_file(patch) == tags[tag("code_patch")]
    (root / "src/code.py").write_text("CODE = 3\n", encoding="utf-8")
    assert record(root).changed == []


def test_a_worktree_records_into_the_main_checkout(root: Path, tmp_path: Path) -> None:
    tree = tmp_path / "tree"
    made.git(root, "worktree", "add", "-q", "--detach", str(tree))
    for name in ("data", "models", "metrics", "plots", "reports"):
        (root / name).rename(tree / name)
    for name in ("params.yaml", "dvc.lock"):
        shutil.copy(root / name, tree / name)
    record(tree)
    assert (root / "mlflow.db").is_file()
    assert not (tree / "mlflow.db").exists()
    assert len(made.snapshot(root)["runs"]) == 1


def made_again(root: Path, run_id: str) -> Path:
    """The worktree in which a run's command made the workspace's bundle again."""
    command = made.client(root).get_run(run_id).data.tags[tag("reproduce")]
    again = subprocess.run(
        command, shell=True, cwd=root, env=pipeline.environment(), capture_output=True, text=True
    )
    assert again.returncode == 0, again.stdout + again.stderr
    assert "The same bundle" in again.stdout
    (tree,) = root.glob(".segops/reproduce-*/worktree")
    assert files.sha256_tree(tree / paths.SEGMENTER) == files.sha256_tree(root / paths.SEGMENTER)
    return tree


@pytest.mark.long
def test_the_recorded_command_makes_the_same_weights_again(reproduced_copy: Path) -> None:
    """In a real workspace, from code that was not committed."""
    root = reproduced_copy
    (root / "mlflow.db").unlink(missing_ok=True)  # its paths lead to the workspace it is a copy of
    with (root / "src/segops/cli.py").open("a") as file:
        file.write("# not committed\n")
    done = record(root)
    tags = made.client(root).get_run(done.run_id).data.tags
    assert tags[tag("code_differs")] == "true"
    tree = made_again(root, done.run_id)
    assert (tree / "src/segops/cli.py").read_text().endswith("# not committed\n")
    assert list(made.snapshot(root)["runs"]) == [done.run_id]


@pytest.mark.slow
def test_a_training_from_an_alias_that_other_code_packaged_is_made_again(
    promoted: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The alias has moved since, and the code that trained was not committed."""
    root = promoted
    set_params(root, model={"start_from": "models:/segops@champion"}, train={"epochs": 1})
    done = dvc(root, "repro")
    assert done.returncode == 0, done.stdout + done.stderr
    assert files.read_json(root / paths.TRAINING)["start_model"] == "models:/segops/1"
    trained_with = root / "src/segops/not_committed.py"
    trained_with.write_text("NAME = 1\n")
    first = record(root)
    trained_with.unlink()
    changed = root / "src/segops/runtime/windows.py"
    changed.write_text(changed.read_text() + "# Another bundle, as its code is part of it.\n")
    made.git(root, "commit", "-qm", "later", "--", str(changed))
    set_params(root, predict={"flip": True})
    monkeypatch.setenv("PYTHONPATH", str(root / "src"))
    assert dvc(root, "repro").returncode == 0
    monkeypatch.delenv("PYTHONPATH")
    # As a process of that code has it.
    monkeypatch.setattr(bundles, "ROOM", root / "src/segops/runtime")
    done = record(root)
    assert (done.run_id, "model" in done.changed) == (first.run_id, True)
    second = register(root, done).version
    made.client(root).set_registered_model_alias("segops", "champion", second)
    tree = made_again(root, done.run_id)
    assert load_params(tree).model.start_from == "models:/segops/1"
    assert files.read_json(tree / paths.TRAINING)["start_model"] == "models:/segops/1"
    assert (tree / "src/segops/runtime/windows.py").read_bytes() == changed.read_bytes()
    assert not (tree / "src/segops/not_committed.py").exists()


@pytest.mark.parametrize(
    ("start", "pinned"),
    [("models:/segops@champion", 1), ("models:/segops/3", 0), ("started", 0), (None, 0)],
)
def test_the_script_pins_what_an_alias_led_to_and_nothing_else(
    start: str | None, pinned: int, root: Path
) -> None:
    made.set_params(root, model={"start_from": start})
    training = files.read_json(root / paths.TRAINING)
    files.write_json(
        root / paths.TRAINING, training | {"start_model": start and "models:/segops/3"}
    )
    run_id = record(root).run_id
    digest = files.read_json(root / paths.PACKAGE)["bundle_digest"]
    path = f"lineage/{digest[:12]}/reproduce.sh"
    script = Path(made.client(root).download_artifacts(run_id, path)).read_text(encoding="utf-8")
    assert script.count("models:/segops/3\n") == pinned


def test_a_start_from_an_alias_is_told_by_its_version(root: Path) -> None:
    version = register(root, record(root)).version
    made.client(root).set_registered_model_alias("segops", "champion", version)
    for uri in ("models:/segops@champion", f"models:/segops/{version}"):
        made.set_params(root, model={"start_from": uri})
        start = train._start(root, load_params(root))
        assert start is not None
        assert start.model == f"models:/segops/{version}"
        assert start.sha256 == files.read_json(root / paths.TRAINING)["weights_sha256"]


def test_class_names_of_any_kind_are_kept_apart() -> None:
    names = ["c+", "c#", "..", "traffic light", "bâtiment", "a/b", "x" * 300]
    keys = [runs.key(f"iou/{name}") for name in names]
    assert len(set(keys)) == len(names)
    assert keys[3:6] == ["iou/traffic light", "iou/bâtiment", "iou/a/b"]


def test_odd_class_names_are_logged(root: Path) -> None:
    evaluation = files.read_json(root / paths.EVALUATION)
    some = evaluation["classes"].pop("car")
    evaluation["classes"] |= {"c+": some, "c#": some, "../up": some}
    files.write_json(root / paths.EVALUATION, evaluation)
    done = record(root)
    metrics = made.client(root).get_run(done.run_id).data.metrics
    assert {"iou/c_x2b_", "iou/c_x23_"} <= set(metrics)


def test_without_a_model_it_says_what_to_do(tmp_path: Path) -> None:
    root = made.make(tmp_path / "checkout")
    with pytest.raises(SegopsError, match="segops run"):
        record(root)


def test_a_model_that_is_not_the_trained_one_is_refused(root: Path) -> None:
    (root / paths.SEGMENTER / "requirements.txt").write_text("evil\n")
    with pytest.raises(SegopsError, match="bundle_digest"):
        record(root)


def test_an_unreachable_server_is_told_quickly(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "http://user:secret@127.0.0.1:9")
    start = time.monotonic()
    with pytest.raises(TransientError, match=r"http://127\.0\.0\.1:9") as caught:
        record(root)
    assert time.monotonic() - start < 30
    assert "secret" not in str(caught.value)


OPEN = """
import sys
from pathlib import Path
from segops.params.file import load_params
from segops.predict import package as bundles
from segops.record.tracking import session
root = Path(sys.argv[1])
with session(root, load_params(root).registry) as store:
    print(store.experiment_id)
"""


@pytest.mark.slow
def test_processes_that_create_the_database_at_once_do_not_collide(tmp_path: Path) -> None:
    root = made.make(tmp_path / "checkout", database=False)
    command = [sys.executable, "-c", OPEN, str(root)]
    started = [
        subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
        for _ in range(3)
    ]
    ended = [(*one.communicate(), one.returncode) for one in started]
    assert [status for *_, status in ended] == [0, 0, 0], ended
    assert len({out for out, *_ in ended}) == 1


def test_the_identity_of_the_registry_holds_no_credentials(
    root: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert tracking.identity(root) == "local"
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "https://me:secret@tracking.example.org:5000/x")
    assert tracking.identity(root) == "https://tracking.example.org:5000/x"
