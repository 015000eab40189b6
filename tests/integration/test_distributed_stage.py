"""Several ranks and machines by the command line: how they meet, share a folder and end."""

from __future__ import annotations

import io
import json
import logging
import os
import shutil
import subprocess
import sys
import time
from pathlib import Path

import psutil
import pytest
import yaml

from segops import files, paths
from segops.runtime.errors import SegopsError
from segops.stages.train import run
from segops.train import launch
from tests.support.ranks import TWO, free_port, on_ranks


@pytest.fixture
def root(tiny_voc: Path, tmp_path: Path) -> Path:
    """A workspace as the stages before train leave it, for two CPU ranks."""
    from segops.augment.policy import build_policy
    from segops.data.packing import pack
    from segops.params.file import load_params
    from segops.voc.layout import open_layout

    root = tmp_path / "workspace"
    root.mkdir()
    (root / "dvc.yaml").write_text("stages: {}\n")
    settings = {
        "augment": {"crop": [64, 64]},
        "model": {"architecture": "plain_cnn"},
        "train": {**TWO, "device": "cpu", "epochs": 25, "lr": 0.01},
        "hardware": {"threads": 1},
    }
    (root / "params.yaml").write_text(yaml.safe_dump(settings))
    made = load_params(root)
    pack(open_layout(tiny_voc), root / paths.PACKED, made.data.class_names)
    files.write_json(root / paths.POLICY, build_policy(made.augment).to_json())
    return root


def stage(root: Path, **environment: str) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, "-m", "segops", "stage", "train"],
        cwd=root,
        env={**os.environ, "SEGOPS_LIVE": "0", **environment},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )


@pytest.mark.slow
def test_a_killed_rank_ends_the_run_and_a_new_run_goes_on(
    root: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """By the command line: SIGKILL of rank 1 in the middle of a training."""
    process = stage(root)
    state = root / paths.RESUME / "state.pt"
    while not state.exists():
        assert process.poll() is None, process.communicate()[0]
        time.sleep(0.02)
    ranks = {one.environ().get("RANK"): one for one in psutil.Process(process.pid).children()}
    assert set(ranks) >= {"0", "1"}
    ranks["1"].kill()
    killed = time.monotonic()
    said, _ = process.communicate(timeout=60)
    assert time.monotonic() - killed < 30
    assert process.returncode == 1
    assert said.count("error:") == 1
    assert "Rank 1 of the training" in said
    assert "SIGKILL" in said
    assert "Traceback" not in said
    assert not any(psutil.pid_exists(one.pid) for one in ranks.values())
    assert "torch.distributed" not in said

    def go_on(_: int) -> str:
        text = io.StringIO()
        log = logging.getLogger("segops")
        log.addHandler(logging.StreamHandler(text))
        log.setLevel(logging.INFO)
        run(root)
        return text.getvalue()

    monkeypatch.setenv("SEGOPS_LIVE", "0")
    told, silence = on_ranks(go_on)
    assert "Continuing an interrupted training" in told
    assert "epoch 25 of 25" in told
    assert silence == ""
    rows = [json.loads(line) for line in (root / paths.HISTORY).read_text().splitlines()]
    assert [row.get("epoch") for row in rows] == [None, *range(1, 26), None]
    assert files.read_json(root / paths.TRAINING)["devices"] == 2
    assert not (root / paths.RESUME).exists()


@pytest.mark.long
def test_two_machines_train_as_one_with_two_devices(root: Path, tmp_path: Path) -> None:
    """Two folders with an agent each, as two machines have; the second one is left as it was."""
    settings = yaml.safe_load((root / "params.yaml").read_text())
    train = {**settings["train"], "epochs": 2}
    places = {name: tmp_path / name for name in ("alone", "first", "second")}
    for name, place in places.items():
        shutil.copytree(root, place)
        own = {} if name == "alone" else {"devices": 1, "nodes": 2}
        changed = {**settings, "train": {**train, **own}}
        (place / "params.yaml").write_text(yaml.safe_dump(changed))
    before = files.sha256_tree(places["second"])
    refused = stage(places["first"])
    assert "SEGOPS_MAIN is not set" in refused.communicate(timeout=60)[0]
    assert refused.returncode == 1
    alone = stage(places["alone"])
    assert alone.wait(timeout=120) == 0
    port = free_port()
    machines = [
        stage(
            places[name],
            SEGOPS_MAIN=f"127.0.0.1:{port}",
            SEGOPS_NODE=str(node),
            GLOO_SOCKET_IFNAME="lo",
        )
        for node, name in enumerate(("first", "second"))
    ]
    for one in machines:
        said, _ = one.communicate(timeout=120)
        assert one.returncode == 0, said
    assert files.sha256_tree(places["second"]) == before
    weights = [places[name] / paths.TRAINED / "weights.safetensors" for name in ("alone", "first")]
    assert weights[0].read_bytes() == weights[1].read_bytes()


@pytest.mark.long
def test_two_machines_train_in_one_directory(root: Path, tmp_path: Path) -> None:
    """As the pods of docker/rank.sh do, on a volume that both mount."""
    settings = yaml.safe_load((root / "params.yaml").read_text())
    settings["train"].update(epochs=2, devices=1, nodes=2)
    (root / "params.yaml").write_text(yaml.safe_dump(settings))
    there = {"SEGOPS_RANKS": str(tmp_path), "GLOO_SOCKET_IFNAME": "lo"}
    there["SEGOPS_MAIN"] = f"127.0.0.1:{free_port()}"
    machines = [stage(root, SEGOPS_NODE=str(node), **there) for node in range(2)]
    for one in machines:
        said, _ = one.communicate(timeout=120)
        assert one.returncode == 0, said
    assert (tmp_path / "train").read_text() == str(root)
    assert files.read_json(root / paths.TRAINING)["nodes"] == 2


@pytest.mark.parametrize(
    ("main", "node", "message"),
    [
        ("", "0", "SEGOPS_MAIN is not set"),
        ("first", "0", "SEGOPS_MAIN is first; expected HOST:PORT"),
        ("first:99999", "0", "expected HOST:PORT"),
        ("first:29400", "2", "SEGOPS_NODE is 2; expected 0 to 1"),
        ("first:29400", "\N{SUPERSCRIPT TWO}", "expected 0 to 1"),
        ("127.0.0.1:{port}", "1", "the first machine did not answer within 1 s"),
    ],
)
def test_machines_that_cannot_meet_say_why(
    main: str, node: str, message: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(launch, "SECONDS_TO_MEET", 1)
    monkeypatch.setenv(launch.MAIN, main.format(port=free_port()))
    monkeypatch.setenv(launch.NODE, node)
    with pytest.raises(SegopsError, match=message):
        launch._rendezvous(2)


def test_a_first_machine_that_stays_alone_says_so(
    root: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(launch, "SECONDS_TO_MEET", 2)
    monkeypatch.setenv(launch.MAIN, f"127.0.0.1:{free_port()}")
    settings = yaml.safe_load((root / "params.yaml").read_text())
    settings["train"] |= {"devices": 1, "nodes": 2}
    (root / "params.yaml").write_text(yaml.safe_dump(settings))
    with pytest.raises(SegopsError, match=r"did not meet at 127\.0\.0\.1"):
        launch.launch(root)


def test_only_another_machine_of_the_same_training_takes_no_lock(
    root: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(launch.NODE, "1")
    assert launch.takes_lock(root, "train")  # one machine, whatever is left in the environment
    settings = yaml.safe_load((root / "params.yaml").read_text())
    settings["train"] |= {"devices": 1, "nodes": 2}
    (root / "params.yaml").write_text(yaml.safe_dump(settings))
    assert launch.takes_lock(root, "evaluate")
    assert not launch.takes_lock(root, "train")
    monkeypatch.setenv(launch.NODE, "0")
    assert launch.takes_lock(root, "train")
