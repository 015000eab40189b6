"""`segops pretrain`: its files, its run in MLflow, a kill, and the training that takes it up."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import yaml
from mlflow import MlflowClient
from typer.testing import CliRunner

from segops import files, paths
from segops.augment.policy import build_policy
from segops.cli import app
from segops.data.packing import pack
from segops.data.store import PackedStore
from segops.models.pretrained import load_encoder_weights
from segops.params.file import load_params
from segops.pretrain.run import PAGE, RESULT, WEIGHTS
from segops.record.tracking import tracking_uri
from segops.runtime.errors import SegopsError
from segops.stages.train import build_job
from segops.train.engine import Engine
from segops.train.hardware import build_fabric
from segops.train.job import TrainingSettings
from segops.voc.layout import open_layout
from tests.support.browser import measured, needs_browser
from tests.support.folder_runs import save

pytestmark = pytest.mark.slow

SETTINGS: dict[str, Any] = {
    "data": {"path": "data/voc", "classes": "voc"},
    "augment": {"crop": [64, 64]},
    "model": {"architecture": "unet", "encoder": "tu-test_resnet"},
    "train": {"device": "cpu", "epochs": 1, "warmup_epochs": 0, "batch_size": 4},
    "pretrain": {
        "epochs": 3, "batch_size": 4, "warmup_epochs": 1, "crop": [64, 64], "mask_block": 16,
        "decoder_width": 32,
    },
    "hardware": {"workers": 0, "threads": 1},
}  # fmt: skip

DRIVER = """
import os, signal
from pathlib import Path
from segops.pretrain.run import run
from segops.train import pretraining
left = 5
take = pretraining._Pretraining._take_step
def dying(self, *batch):
    global left
    if left == 0:
        os.kill(os.getpid(), signal.SIGKILL)
    left -= 1
    take(self, *batch)
pretraining._Pretraining._take_step = dying
pretraining.SECONDS_BETWEEN_CHECKPOINTS, pretraining.CHECKPOINT_SHARE = 0.0, float("inf")
run(Path.cwd())
"""


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A workspace that is packed, and pretrained once."""
    from tools.sample import generate

    root = tmp_path_factory.mktemp("pretraining") / "root"
    generate(root / "data/voc", train=12, val=6, seed=3, size=(80, 64))
    (root / "params.yaml").write_text(yaml.safe_dump(SETTINGS))
    (root / "dvc.yaml").write_text("stages: {}\n")
    settings = load_params(root)
    pack(open_layout(root / "data/voc"), root / paths.PACKED, settings.data.class_names)
    files.write_json(root / paths.POLICY, build_policy(settings.augment).to_json())
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(root)
        said(root)
    return root


@pytest.fixture
def root(made: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    target = tmp_path / "root"
    shutil.copytree(made, target)
    monkeypatch.chdir(target)
    return target


def said(root: Path, *arguments: str) -> str:
    """What `segops pretrain` says."""
    done = CliRunner().invoke(app, ["pretrain", *arguments])
    assert done.exit_code == 0, (done.output, done.exception)
    return done.output


def result(root: Path) -> dict[str, Any]:
    content: dict[str, Any] = json.loads((root / paths.PRETRAINED / RESULT).read_text())
    return content


def recorded(root: Path) -> list[Any]:
    client = MlflowClient(tracking_uri(root))
    [experiment] = (one for one in client.search_experiments() if one.name == "segops")
    return list(client.search_runs([experiment.experiment_id]))


def test_weights_page_and_run_are_there_and_nothing_is_done_twice(root: Path) -> None:
    held = result(root)
    weights = root / paths.PRETRAINED / WEIGHTS
    assert held["weights_sha256"] == files.sha256_file(weights)
    assert held["images"] == 12
    assert held["nondeterministic"] == []
    assert [row["epoch"] for row in held["epochs"]] == [1, 2, 3]
    [run] = recorded(root)
    assert run.info.status == "FINISHED"
    assert run.data.tags["segops.encoder_sha256"] == held["weights_sha256"]
    assert run.data.tags["segops.pretraining_data"] == held["images_sha256"]
    assert run.data.params["pretrain.mask_block"] == "16"
    assert run.data.metrics["train_loss"] == pytest.approx(held["epochs"][-1]["train_loss"])
    artifacts = MlflowClient(tracking_uri(root)).list_artifacts(run.info.run_id)
    assert PAGE in {one.path for one in artifacts}

    before = files.sha256_tree(root / paths.PRETRAINED)
    assert "Nothing changed" in said(root)
    assert files.sha256_tree(root / paths.PRETRAINED) == before
    assert len(recorded(root)) == 1
    assert "Nothing changed" not in said(root, "--fresh")
    assert files.sha256_tree(root / paths.PRETRAINED) == before  # the same bytes again
    assert not (root / paths.PRETRAIN_RESUME).exists()


def test_a_killed_pretraining_continues_and_writes_the_same_bytes(root: Path) -> None:
    expected = files.sha256_tree(root / paths.PRETRAINED)
    shutil.rmtree(root / paths.PRETRAINED)
    killed = subprocess.run([sys.executable, "-c", DRIVER], cwd=root, timeout=250, check=False)
    assert killed.returncode == -signal.SIGKILL
    assert not (root / paths.PRETRAINED).exists()
    assert (root / paths.PRETRAIN_RESUME / "state.pt").is_file()
    assert "Nothing changed" not in said(root)
    assert files.sha256_tree(root / paths.PRETRAINED) == expected


def test_a_training_starts_from_the_weights(root: Path) -> None:
    place = str(paths.PRETRAINED / WEIGHTS)
    own = {"encoder": "tu-test_resnet", "architecture": "unet", "encoder_weights": place}
    (root / "params.yaml").write_text(yaml.safe_dump({**SETTINGS, "model": own}))
    settings = TrainingSettings.read(root)
    job = build_job(root, settings, PackedStore(root / paths.PACKED))
    fabric, _, _ = build_fabric(job.params)
    encoder = Engine(job, fabric).network.encoder
    assert encoder is not None
    before = {name: one.clone() for name, one in encoder.state_dict().items()}
    report = load_encoder_weights(encoder, root / place)
    assert not report.missing
    after = encoder.state_dict()
    assert all(bool((before[name] == after[name]).all()) for name in before)


def test_a_folder_is_pretrained_on_and_a_server_that_is_away_stops_nothing(
    root: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    for seed in range(5):
        save(root / f"more/{seed % 2}/{seed}.png", seed, 70, 90)
    own = {**SETTINGS["pretrain"], "images": "more"}
    (root / "params.yaml").write_text(yaml.safe_dump({**SETTINGS, "pretrain": own}))
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "http://127.0.0.1:9")
    said(root)
    assert result(root)["images"] == 5
    assert "MLflow has no run of it yet" in caplog.text
    monkeypatch.delenv("MLFLOW_TRACKING_URI")
    assert "Nothing changed" in said(root)
    assert len(recorded(root)) == 2

    (root / "more/torn.jpg").write_bytes(b"\xff\xd8\xff\xe0 torn")
    before = files.sha256_tree(root / paths.PRETRAINED)
    done = CliRunner().invoke(app, ["pretrain"])
    assert isinstance(done.exception, SegopsError)
    assert f"more{os.sep}torn.jpg" in str(done.exception)
    assert files.sha256_tree(root / paths.PRETRAINED) == before


@needs_browser
def test_the_page_shows_the_restored_images(root: Path) -> None:
    script = """
    return {scrolls: document.scrollingElement.scrollWidth > innerWidth,
      loaded: [...document.images].every((one) => one.naturalWidth > 0),
      pictures: document.images.length};
    """
    for width in (420, 1200):
        seen = measured(root / paths.PRETRAINED / PAGE, width, script)
        assert seen == {"scrolls": False, "loaded": True, "pictures": 24}
