"""Several ranks, as processes that talk over gloo: what they share, and how they end together."""

from __future__ import annotations

import io
import json
import logging
import multiprocessing
import os
import shutil
import signal
import socket
import subprocess
import sys
import time
import traceback
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import psutil
import pytest
import torch
import yaml

from segops import files
from segops.errors import SegopsError
from segops.predict.predictor import Predictor
from segops.stages.train import HISTORY, run
from segops.train import launch, loop
from segops.train.hardware import build_fabric
from segops.train.loop import Outcome, train
from segops.train.selection import selection_confusion

from ..unit.training import Jobs, job_maker, save_always

TWO: dict[str, Any] = {
    "epochs": 3,
    "batch_size": 4,
    "devices": 2,
    "precision": "fp32",
    "selection_share": 0.1,
    "loss": "cross_entropy",
}


def free_port() -> int:
    with socket.socket() as found:
        found.bind(("127.0.0.1", 0))
        return int(found.getsockname()[1])


def on_ranks(act: Callable[[int], Any], ranks: int = 2) -> list[Any]:
    """What `act` gives on each of several ranks, in processes forked from this one."""
    context = multiprocessing.get_context("fork")
    results = context.Queue()
    port = free_port()

    def child(rank: int) -> None:
        os.environ.update(
            RANK=str(rank), LOCAL_RANK=str(rank), GROUP_RANK="0", WORLD_SIZE=str(ranks),
            LOCAL_WORLD_SIZE=str(ranks), MASTER_ADDR="127.0.0.1", MASTER_PORT=str(port),
            TORCHELASTIC_RUN_ID="test", GLOO_SOCKET_IFNAME="lo",
        )  # fmt: skip
        torch.set_num_threads(1)
        try:
            results.put((rank, act(rank), None))
        except BaseException:
            results.put((rank, None, traceback.format_exc()))

    processes = [context.Process(target=child, args=(rank,)) for rank in range(ranks)]
    for process in processes:
        process.start()
    found: dict[int, Any] = {}
    for _ in processes:
        rank, value, failure = results.get(timeout=120)
        assert failure is None, f"rank {rank}: {failure}"
        found[rank] = value
    for process in processes:
        process.join()
    return [found[rank] for rank in range(ranks)]


@pytest.fixture
def job(tiny_voc: Path, tmp_path: Path) -> Jobs:
    return job_maker(tiny_voc, tmp_path)


def plain(outcome: Outcome) -> dict[str, Any]:
    """An outcome in a form that goes from one process to another."""
    return {
        "rows": outcome.rows,
        "last": {name: one.numpy().copy() for name, one in outcome.last.items()},
        "steps": outcome.steps,
        "best": (outcome.best_epoch, outcome.selection_miou),
    }


def test_ranks_share_images_scores_and_weights(job: Jobs) -> None:
    """Each image once an epoch over the ranks, the scores of one process, one history."""

    def act(rank: int) -> dict[str, Any]:
        given = job("two", **TWO)
        keys: list[tuple[int, int]] = []
        training = loop._Training(given, build_fabric(given.params)[0], 0)
        make = training.dataset.__class__.__getitem__

        def noted(dataset: Any, key: tuple[int, int]) -> Any:
            keys.append(key)
            return make(dataset, key)

        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(training.dataset.__class__, "__getitem__", noted)
            outcome = training.run()
        matrix = selection_confusion(
            training.predictor, given.store, training.selection, training.fabric
        )
        return {"keys": keys, "matrix": matrix, "selection": training.selection, **plain(outcome)}

    first, second = on_ranks(act)
    given = job("one", **TWO | {"devices": 1})
    whole = loop._Training(given, build_fabric(given.params)[0], 0)
    for epoch in range(3):
        order = [key for batch in whole.sampler.batches(epoch) for key in batch]
        shares = [[key for key in one["keys"] if key[0] == epoch] for one in (first, second)]
        assert sorted(shares[0] + shares[1]) == sorted(order)
        assert shares[0][:2] + shares[1][:2] == order[:4]  # the halves of the first batch
        assert len({index for _, index in order}) == len(order)
    assert len(first["selection"]) % 2 == 1  # an uneven split
    assert np.array_equal(first["matrix"], second["matrix"])
    assert first["rows"] == second["rows"]
    names = [name for name in first["last"] if "running" not in name and "num_" not in name]
    assert all(np.array_equal(first["last"][name], second["last"][name]) for name in names)
    whole.engine.network.load_state_dict(
        {name: torch.from_numpy(one) for name, one in first["last"].items()}
    )
    predictor = Predictor(whole.engine.network, given.store.class_names)
    alone = selection_confusion(predictor, given.store, whole.selection, whole.fabric)
    assert np.array_equal(first["matrix"], alone)
    labelled = [given.store.mask(one) != 255 for one in whole.selection]
    assert alone.sum() == sum(one.sum() for one in labelled)
    told = job("two", **TWO).history.path.read_text().splitlines()
    assert [json.loads(line).get("epoch") for line in told] == [None, 1, 2, 3]


def test_two_ranks_take_the_step_of_two_parts(job: Jobs) -> None:
    """The mean of the ranks' gradients is the mean of an accumulated step's parts."""
    given = {**TWO, "optimizer": "sgd", "epochs": 2, "lr": 0.1}
    first, _ = on_ranks(lambda rank: plain(train(job("two", **given))))
    parts = train(job("parts", **given | {"devices": 1, "accumulate": 2}))
    weights = [name for name, one in parts.last.items() if one.ndim and "running" not in name]
    for name in weights:
        np.testing.assert_allclose(first["last"][name], parts.last[name], atol=2e-4, rtol=1e-3)
    for two, one in zip(first["rows"], parts.rows, strict=True):
        assert two["train_loss"] == pytest.approx(one["train_loss"], rel=1e-3)


RICH: dict[str, Any] = {
    **TWO,
    "architecture": "pspnet",
    "encoder": "mobilenet_v2",  # whose last stages pspnet leaves unused
    "accumulate": 2,
    "ema_decay": 0.5,
    "gradient_clip": 1.0,
    "freeze_encoder_epochs": 1,
    "iterations": 3,
    "more": {"auxiliary_weight": 0.4},
}


def test_ranks_go_on_where_they_were_killed_with_all_options(job: Jobs) -> None:
    """Between two steps with the encoder frozen; resumed, the ranks end as if unbroken."""

    def act(rank: int) -> dict[str, Any]:
        return plain(train(job("unbroken", **RICH)))

    def killed(rank: int) -> int:
        given = job("broken", **RICH)
        training = loop._Training(given, build_fabric(given.params)[0], 0)
        with pytest.MonkeyPatch.context() as patch:
            save_always(patch)
            batches = iter(loop.batches_of(
                given, training.fabric, training.dataset, training.sampler, 3, (0, 0), 0
            ))  # fmt: skip
            training.engine.freeze_encoder(True)
            training.engine.train_mode()
            training._take_step(*next(batches))
            training._save()
        return rank

    first, second = on_ranks(act)
    assert first["rows"] == second["rows"]
    assert on_ranks(killed) == [0, 1]
    assert (job("broken", **RICH).resume / "state.pt").is_file()
    resumed, _ = on_ranks(lambda rank: plain(train(job("broken", **RICH))))
    assert resumed["rows"] == first["rows"]
    assert resumed["best"] == first["best"]
    assert all(np.array_equal(one, first["last"][name]) for name, one in resumed["last"].items())


def test_ranks_with_other_data_or_parameters_are_told(job: Jobs) -> None:
    def act(rank: int) -> str:
        given = job("differing", **TWO)
        given.parts["data"] = f"hash {rank}"
        with pytest.raises(SegopsError) as error:
            train(given)
        return str(error.value)

    assert all("Rank 1 would train with another data" in one for one in on_ranks(act))


def test_a_number_of_processes_that_does_not_fit_is_told(job: Jobs) -> None:
    with pytest.raises(SegopsError, match=r"make 2 processes, but 1 run.*`segops stage train`"):
        train(job(**TWO))
    with pytest.raises(SegopsError, match=r"train\.nodes: 2.*SEGOPS_MAIN="):
        train(job(**TWO, nodes=2))


def test_a_bad_loss_on_one_rank_ends_both_with_its_message(
    job: Jobs, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(launch.LAUNCHED, "1")

    def act(rank: int) -> list[str]:
        os.environ["TORCHELASTIC_ERROR_FILE"] = str(tmp_path / f"error{rank}.json")
        given = job("poisoned", **TWO)
        training = loop._Training(given, build_fabric(given.params)[0], 0)
        whole, calls = training.engine.loss, 0

        def poisoned(logits: torch.Tensor, masks: torch.Tensor) -> torch.Tensor:
            nonlocal calls
            calls += 1
            return whole(logits, masks) * (float("nan") if (rank, calls) == (1, 3) else 1)

        training.engine.loss = poisoned
        with pytest.raises(SystemExit), launch.as_rank():
            training.run()
        return training._image_ids(1, 0)

    _, ids = on_ranks(act)
    told = [json.loads((tmp_path / f"error{rank}.json").read_text()) for rank in (0, 1)]
    message = str(launch._told({k: failure(1, **one) for k, one in enumerate(told)}))
    assert "the loss is nan at step 3 (epoch 2)" in message
    assert f"Images of the batch: {', '.join(ids)}. " in message
    assert len(ids) == 2
    assert told[0]["lost"]


def failure(code: int, **data: Any) -> SimpleNamespace:
    name = signal.Signals(-code).name if code < 0 else ""
    return SimpleNamespace(
        exitcode=code, error_file_data=data, timestamp=7, pid=4, signal_name=lambda: name
    )


@pytest.mark.parametrize(
    ("failures", "message"),
    [
        ({0: failure(1, message="x", lost=True), 1: failure(-9)}, r"Rank 1 .* by SIGKILL.*memory"),
        ({0: failure(-15), 1: failure(1, message="the loss is nan")}, "^the loss is nan$"),
        ({0: failure(-6), 1: failure(2), 2: failure(-15)}, "Rank 1 .* exit status 2"),
        ({0: failure(-15)}, "Rank 0 .* by SIGTERM"),
    ],
)
def test_of_several_failures_the_cause_is_told(failures: dict[int, Any], message: str) -> None:
    with pytest.raises(SegopsError, match=message):
        raise launch._told(failures)


@pytest.fixture
def root(tiny_voc: Path, tmp_path: Path) -> Path:
    """A workspace as the stages before train leave it, for two CPU ranks."""
    from segops import params
    from segops.augment.policy import build_policy
    from segops.data.store import pack
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
    made = params.load(root)
    pack(open_layout(tiny_voc), root / files.PACKED, made.data.class_names)
    files.write_json(root / files.POLICY, build_policy(made.augment).to_json())
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
    state = root / files.RESUME / "state.pt"
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
    rows = [json.loads(line) for line in (root / HISTORY).read_text().splitlines()]
    assert [row.get("epoch") for row in rows] == [None, *range(1, 26), None]
    assert files.read_json(root / files.TRAINING)["devices"] == 2
    assert not (root / files.RESUME).exists()


@pytest.mark.slow
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
    weights = [places[name] / files.TRAINED / "weights.safetensors" for name in ("alone", "first")]
    assert weights[0].read_bytes() == weights[1].read_bytes()


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
        launch._meeting(2)


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
