"""The stage in processes of its own: killed, resumed, forced, told live."""

from __future__ import annotations

import ast
import json
import os
import re
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from safetensors.torch import load_file

from segops import code, files, paths, pipeline
from segops.augment.policy import build_policy
from segops.data.packing import pack
from segops.params.file import load_params
from segops.stages.train import FOLLOW_LOG
from segops.voc.layout import open_layout
from tests.integration.conftest import SMALL, dvc, segops, set_params
from tests.support.rewording import Rewording

SETTINGS: dict[str, Any] = {
    **SMALL,
    "train": {
        "epochs": 4,
        "batch_size": 3,
        "lr": 0.01,
        "warmup_epochs": 1,
        "loss": "cross_entropy+dice",
        "selection_share": 0.1,
        "device": "cpu",
    },
}
STEPS = 12
"""9 images to train on in batches of 3, 4 epochs."""

DRIVER = """
import logging, os, signal, sys
from pathlib import Path
from segops.train import loop
from segops.stages.train import run
logging.basicConfig(level=logging.INFO)
left = int(sys.argv[1])
take = loop._Training._take_step
def dying(self, images, masks):
    global left
    if left == 0:
        os.kill(os.getpid(), signal.SIGKILL)
    left -= 1
    take(self, images, masks)
loop._Training._take_step = dying
if left > 0:
    loop.SECONDS_BETWEEN_CHECKPOINTS, loop.CHECKPOINT_SHARE = 0.0, float("inf")
run(Path.cwd())
"""


def stage(root: Path, kill_after: int = -1, **environment: str) -> subprocess.CompletedProcess[str]:
    """Run the stage; `kill_after` steps it kills itself with SIGKILL."""
    inherited = {name: value for name, value in os.environ.items() if name != "SEGOPS_FRESH"}
    return subprocess.run(
        [sys.executable, "-c", DRIVER, str(kill_after)],
        cwd=root,
        env={**inherited, "SEGOPS_LIVE": "0", **environment},
        capture_output=True,
        text=True,
        timeout=250,
    )


def outputs(root: Path) -> dict[str, str]:
    return {
        "bundle": files.sha256_tree(root / paths.TRAINED),
        "last": files.sha256_file(root / paths.LAST_WEIGHTS),
        "curves": (root / paths.LEARNING_CURVES).read_text(),
        "training": (root / paths.TRAINING).read_text(),
    }


def history(root: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (root / paths.HISTORY).read_text().splitlines()]


@pytest.fixture(scope="module")
def prepared(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What the stages before train leave."""
    from tools.sample import generate

    root = tmp_path_factory.mktemp("prepared")
    (root / "params.yaml").write_text(yaml.safe_dump(SETTINGS))
    generate(root / "data" / "voc", train=12, val=6, seed=3, size=(80, 64))
    settings = load_params(root)
    pack(open_layout(root / "data" / "voc"), root / paths.PACKED, settings.data.class_names)
    files.write_json(root / paths.POLICY, build_policy(settings.augment).to_json())
    return root


@pytest.fixture(scope="module")
def unbroken(prepared: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A training that nothing disturbed."""
    root = tmp_path_factory.mktemp("unbroken") / "workspace"
    shutil.copytree(prepared, root)
    done = stage(root)
    assert done.returncode == 0, done.stderr
    return root


@pytest.fixture(scope="module")
def reworded(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The code in other words and another layout."""
    target = tmp_path_factory.mktemp("reworded")
    shutil.copytree(code.ROOT, target / code.PACKAGE, ignore=shutil.ignore_patterns("__pycache__"))
    for path in target.rglob("*.py"):
        path.write_text(ast.unparse(Rewording().visit(ast.parse(path.read_text()))))
    return target


@pytest.fixture
def root(prepared: Path, tmp_path: Path) -> Path:
    target = tmp_path / "workspace"
    shutil.copytree(prepared, target)
    return target


def test_what_a_training_leaves(unbroken: Path) -> None:
    training = files.read_json(unbroken / paths.TRAINING)
    model = files.read_json(unbroken / paths.TRAINED / "model.json")
    curves = (unbroken / paths.LEARNING_CURVES).read_text().splitlines()
    assert training["optimizer_steps"] == STEPS
    assert training["epochs_run"] == 4
    assert training["weights_sha256"] == files.sha256_file(
        unbroken / paths.TRAINED / "weights.safetensors"
    )
    assert len(model["training_images"]) == 12  # those of the selection split too
    assert curves[0] == "epoch,step,lr,train_loss,selection_miou"
    assert [line.split(",")[0] for line in curves[1:]] == ["1", "2", "3", "4"]
    assert not (unbroken / paths.RESUME).exists()
    header, *epochs, end = history(unbroken)
    assert header["fingerprint"] == training["fingerprint"]
    assert header["params"]["train.lr"] == 0.01
    assert [row["epoch"] for row in epochs] == [1, 2, 3, 4]
    assert all(row["images_per_second"] > 0 for row in epochs)
    assert "ended" in end


@pytest.mark.slow
def test_two_trainings_give_the_same_bytes(unbroken: Path, root: Path) -> None:
    assert stage(root).returncode == 0
    assert outputs(root) == outputs(unbroken)
    assert files.read_json(root / paths.TRAINING)["optimizer_steps"] == STEPS


@pytest.mark.slow
@pytest.mark.parametrize("kill_after", [7, 9])
def test_a_killed_training_ends_as_the_unbroken_one(
    kill_after: int, unbroken: Path, root: Path, reworded: Path
) -> None:
    """Killed in the middle of the third epoch, and between two epochs.

    It goes on under code of which every comment, docstring and message has changed meanwhile.
    """
    killed = stage(root, kill_after=kill_after)
    assert killed.returncode == -signal.SIGKILL
    assert (root / paths.RESUME).is_dir()
    assert not (root / paths.TRAINING).exists()
    resumed = stage(root, PYTHONPATH=str(reworded))
    assert resumed.returncode == 0, resumed.stderr
    assert f"{kill_after // 3} epochs and {kill_after % 3} of 3 steps are done" in resumed.stderr
    assert outputs(root) == outputs(unbroken)
    assert [row.get("epoch") for row in history(root)] == [None, 1, 2, 3, 4, None]
    assert not (root / paths.RESUME).exists()


@pytest.mark.long
def test_changed_parameters_start_afresh(root: Path) -> None:
    assert stage(root, kill_after=7).returncode == -signal.SIGKILL
    set_params(root, train={"lr": 0.02})
    changed = stage(root)
    assert "had another parameters; starting afresh" in changed.stderr
    assert "Continuing" not in changed.stderr
    rates = [line.split(",")[2] for line in (root / paths.LEARNING_CURVES).read_text().splitlines()]
    assert float(rates[1]) == 0.02
    assert [row.get("epoch") for row in history(root)] == [None, 1, 2, 3, 4, None]


@pytest.mark.long
def test_fresh_forgets_the_interrupted_training(unbroken: Path, root: Path) -> None:
    assert stage(root, kill_after=7).returncode == -signal.SIGKILL
    done = stage(root, SEGOPS_FRESH="1")
    assert done.returncode == 0, done.stderr
    assert "Continuing" not in done.stderr
    assert outputs(root) == outputs(unbroken)


@pytest.mark.slow
def test_a_live_logging_that_fails_stops_no_training(unbroken: Path, root: Path) -> None:
    """There is no dvc.yaml here, so the process that follows the training ends with an error."""
    assert stage(root, SEGOPS_LIVE="1").returncode == 0
    assert outputs(root) == outputs(unbroken)
    deadline = time.monotonic() + 60
    while "dvc.yaml" not in (root / FOLLOW_LOG).read_text() and time.monotonic() < deadline:
        time.sleep(0.2)
    assert "dvc.yaml" in (root / FOLLOW_LOG).read_text()


@pytest.mark.long
def test_dvc_repro_continues_and_force_starts_afresh(workspace: Path) -> None:
    set_params(workspace, train={"epochs": 60, "batch_size": 2, "device": "cpu"})
    assert dvc(workspace, "repro", "augment").returncode == 0
    process = subprocess.Popen(
        ["dvc", "repro", "train"],
        cwd=workspace,
        env=pipeline.environment() | {"SEGOPS_LIVE": "0"},
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        start_new_session=True,
    )
    wait_for(workspace / paths.RESUME / "state.pt", process)
    os.killpg(process.pid, signal.SIGSTOP)  # for as long as it is looked at
    told = segops(workspace, "status")
    assert told.returncode == 0, told.stderr
    assert re.search(r"train +│ running +│ \d+ of 60 epochs done", told.stdout), told.stdout
    assert re.search(r"validate +│ up to date", told.stdout), told.stdout
    os.killpg(process.pid, signal.SIGKILL)
    process.wait()
    assert not (workspace / paths.TRAINING).exists()
    deadline = time.monotonic() + 30  # the stage, which this process is not told of, ends as well
    while pipeline.running(workspace) and time.monotonic() < deadline:
        time.sleep(0.05)
    assert pipeline.running(workspace) is None
    resumed = dvc(workspace, "repro", "train")
    assert "Continuing an interrupted training" in resumed.stdout + resumed.stderr
    first = outputs(workspace)
    forced = dvc(workspace, "repro", "--single-item", "--force", "train")
    assert forced.returncode == 0, forced.stderr
    assert "Continuing" not in forced.stdout + forced.stderr
    assert outputs(workspace) == first


def wait_for(path: Path, process: subprocess.Popen[bytes]) -> None:
    deadline = time.monotonic() + 120
    while not path.exists():
        assert process.poll() is None, "the training ended before it could be killed"
        assert time.monotonic() < deadline
        time.sleep(0.01)


@pytest.mark.slow
def test_a_training_starts_from_the_champion(promoted: Path) -> None:
    """Found in a real registry; its weights are what the new training begins with."""
    champion = files.read_json(promoted / paths.TRAINING)["weights_sha256"]
    before = load_file(promoted / paths.TRAINED / "weights.safetensors")
    train = {"iterations": 1, "lr": 1e-9, "weight_decay": 0.0}
    set_params(promoted, model={"start_from": "models:/segops@champion"}, train=train)
    done = dvc(promoted, "repro", "train")
    assert done.returncode == 0, done.stdout + done.stderr
    training = files.read_json(promoted / paths.TRAINING)
    assert training["start_sha256"] == champion != training["weights_sha256"]
    after = load_file(promoted / paths.TRAINED / "weights.safetensors")
    for name, weights in before.items():
        if weights.ndim > 1:
            torch.testing.assert_close(after[name], weights, atol=1e-6, rtol=0)
