"""Queues on a workspace and on devices: real processes, real locks."""

from __future__ import annotations

import fcntl
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import nullcontext
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch

from segops import files
from segops.operate import turns
from segops.runtime.errors import SegopsError

HOLD = """
import sys
from pathlib import Path
from segops.operate import turns
path = Path(sys.argv[1])
names = sys.argv[2:]
with turns.devices(names, print, path) if names else turns.turn(path, "another run", print):
    print("held", flush=True)
    sys.stdin.read()
"""


@pytest.fixture
def holding() -> Iterator[list[subprocess.Popen[str]]]:
    started: list[subprocess.Popen[str]] = []
    yield started
    for process in started:
        process.kill()
        process.communicate()


def hold(holding: list[subprocess.Popen[str]], path: Path, *names: str) -> subprocess.Popen[str]:
    """A process that holds a workspace's lock, or those of devices, until it is killed."""
    process = subprocess.Popen(
        [sys.executable, "-c", HOLD, str(path), *names],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )
    holding.append(process)
    assert process.stdout is not None
    assert process.stdout.readline() == "held\n"
    return process


def test_a_turn_waits_for_its_holder_and_says_once_who_that_is(
    tmp_path: Path, holding: list[subprocess.Popen[str]], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(turns, "POLL_SECONDS", 0.02)
    lock = tmp_path / ".segops" / "run.lock"
    other = hold(holding, lock)
    said: list[str] = []
    polls = threading.Semaphore(0)

    def kill() -> None:
        for _ in range(3):
            polls.acquire()
        other.kill()

    sleep = turns.time.sleep

    def counted(seconds: float) -> None:
        polls.release()
        sleep(seconds)

    monkeypatch.setattr(turns.time, "sleep", counted)
    threading.Thread(target=kill).start()
    with turns.turn(lock, "another run", said.append):
        pass
    (sentence,) = said
    assert f"another run (process {other.pid} of " in sentence
    assert ", begun 20" in sentence
    assert str(tmp_path) in sentence


def test_without_waiting_a_turn_that_is_taken_is_an_error(
    tmp_path: Path, holding: list[subprocess.Popen[str]]
) -> None:
    lock = tmp_path / ".segops" / "run.lock"
    other = hold(holding, lock)
    with (
        pytest.raises(SegopsError, match=rf"another run \(process {other.pid} .*under way"),
        turns.turn(lock, "another run", print, wait=False),
    ):
        pass


def test_the_same_inode_on_another_file_system_is_another_lock(
    tmp_path: Path, holding: list[subprocess.Popen[str]], monkeypatch: pytest.MonkeyPatch
) -> None:
    lock = tmp_path / "lock"
    other = hold(holding, lock)
    assert turns.holder(lock).startswith(f" (process {other.pid} ")
    inode = lock.stat().st_ino
    listed = tmp_path / "locks"
    listed.write_text(f"1: FLOCK  ADVISORY  WRITE {other.pid} ff:ff:{inode} 0 EOF\n")
    monkeypatch.setattr(turns, "LOCKS", listed)
    assert turns.holder(lock) == ""


def test_to_look_at_a_lock_does_not_hold_it(
    tmp_path: Path, holding: list[subprocess.Popen[str]]
) -> None:
    lock = tmp_path / "lock"
    assert not files.is_held(lock)
    hold(holding, lock)
    assert files.is_held(lock)
    (tmp_path / "free").touch()
    with (tmp_path / "free").open() as looking:
        fcntl.flock(looking, fcntl.LOCK_SH)
        assert not files.is_held(tmp_path / "free")


def test_all_users_of_a_machine_have_one_place_for_locks(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A place that only this user may write to is none, even for root."""
    own, common = tmp_path / "own", tmp_path / "common"
    own.mkdir()
    common.mkdir()
    monkeypatch.setattr(turns, "SHARED", own)
    monkeypatch.setattr(turns, "ELSE", common)
    with turns.devices(["card"], print):
        assert [path.name for path in common.iterdir()] == ["segops-card.lock"]
    own.chmod(0o1777)
    with turns.devices(["card"], print):
        assert [path.name for path in own.iterdir()] == ["segops-card.lock"]


def test_a_device_in_use_is_waited_for_and_another_is_not(
    tmp_path: Path, holding: list[subprocess.Popen[str]], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(turns, "POLL_SECONDS", 0.02)
    other = hold(holding, tmp_path, "gpu-GPU-1", "gpu-GPU-0")
    said: list[str] = []
    with turns.devices(["gpu-GPU-2"], said.append, tmp_path):
        assert said == []

    def free(sentence: str) -> None:
        said.append(sentence)
        other.kill()

    with turns.devices(["gpu-GPU-2", "gpu-GPU-1"], free, tmp_path):
        pass
    (sentence,) = said
    assert sentence.startswith(f"gpu-GPU-1: in use by another run (process {other.pid} ")


def test_a_name_leads_to_no_other_place_and_a_bad_file_stops_nothing(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    with turns.devices(["../../x y"], print, tmp_path):
        assert [path.name for path in tmp_path.iterdir()] == ["segops-..-..-x-y.lock"]
    (tmp_path / "segops-card.lock").symlink_to(tmp_path / "elsewhere")
    with turns.devices(["card"], print, tmp_path):
        assert not (tmp_path / "elsewhere").exists()
    assert "card is used without a lock" in caplog.text


def test_a_training_on_the_cpu_takes_no_device(tmp_path: Path) -> None:
    (tmp_path / "params.yaml").write_text("train: {device: cpu}\n")
    with turns.cards(tmp_path), turns.card("cpu"):
        pass


def test_predictions_hold_the_card_that_a_training_would_take(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """No machine of the tests has a graphics card."""
    held: list[str] = []
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    properties = {0: SimpleNamespace(uuid="first"), 1: SimpleNamespace(uuid="second")}
    monkeypatch.setattr(torch.cuda, "get_device_properties", properties.__getitem__)
    monkeypatch.setattr(turns, "devices", lambda names, _: nullcontext(held.extend(names)))
    for device in ("auto", "cuda", "cuda:1", "cpu"):
        with turns.card(device):
            pass
    assert held == ["gpu-first", "gpu-first", "gpu-second"]
