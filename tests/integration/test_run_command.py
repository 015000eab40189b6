"""`segops run` with a Prefect server of its own: it comes and goes with the run."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import time
from pathlib import Path

import psutil
import pytest
import yaml

from segops import pipeline
from segops.params.registry import RegistryParams
from segops.record.lineage import tag
from segops.record.tracking import session
from tests.integration.conftest import SMALL, segops, set_params
from tools.sample import generate


@pytest.fixture
def own_home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.delenv("PREFECT_API_URL", raising=False)
    monkeypatch.setenv("PREFECT_HOME", str(tmp_path / "prefect"))
    return tmp_path / "prefect"


def servers(of: psutil.Process) -> list[psutil.Process]:
    found = []
    for one in of.children(recursive=True):
        try:
            if any("flows.server_process" in word for word in one.cmdline()):
                found.append(one)
        except psutil.Error:
            continue
    return found


def listening(process: psutil.Process) -> list[tuple[str, int]]:
    return [
        (one.laddr.ip, one.laddr.port)
        for one in process.net_connections(kind="tcp")
        if one.status == psutil.CONN_LISTEN
    ]


def taken() -> set[int]:
    return {one.laddr.port for one in psutil.net_connections("tcp") if one.status == "LISTEN"}


def is_running(process: psutil.Process) -> bool:
    return process.is_running() and process.status() != psutil.STATUS_ZOMBIE


@pytest.mark.parametrize(
    "moment",
    [
        pytest.param("coming up", marks=pytest.mark.long),
        pytest.param("running", marks=pytest.mark.long),
    ],
)
def test_a_killed_run_leaves_no_server(reproduced_copy: Path, own_home: Path, moment: str) -> None:
    run = subprocess.Popen(
        ["segops", "run"],
        cwd=reproduced_copy,
        env=pipeline.environment(),
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )
    assert run.stdout is not None
    said: list[str] = []
    if moment == "running":
        for line in run.stdout:
            said.append(line)
            if "Task run 'validate'" in line:
                break
        assert said, "the run ended before it began"
    deadline = time.monotonic() + 60
    while not (found := servers(psutil.Process(run.pid))) and time.monotonic() < deadline:
        time.sleep(0.02)
    assert len(found) == 1, said
    ports = listening(found[0])
    assert [ip for ip, _ in ports] == ["127.0.0.1"]
    environment = Path(f"/proc/{found[0].pid}/cmdline").read_bytes()
    run.send_signal(signal.SIGKILL)
    run.wait()
    deadline = time.monotonic() + 10
    while (is_running(found[0]) or ports[0][1] in taken()) and time.monotonic() < deadline:
        time.sleep(0.05)
    assert not is_running(found[0])
    assert ports[0][1] not in taken()
    kept = own_home / "segops-auth"
    if kept.exists():
        assert kept.read_bytes().strip().partition(b":")[2] not in environment


@pytest.mark.slow
def test_a_run_that_is_killed_in_a_stage_leaves_no_process(
    reproduced_copy: Path, own_home: Path
) -> None:
    set_params(reproduced_copy, train={"epochs": 100_000})
    run = subprocess.Popen(
        ["segops", "run"],
        cwd=reproduced_copy,
        env=pipeline.environment(),
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    starter, lines = psutil.Process(run.pid), ""
    while not all(f"segops {one}" in lines for one in ("stage train", "record --follow")):
        assert run.poll() is None
        started = starter.children(recursive=True)
        lines = "\n".join(command(one) for one in started)
        time.sleep(0.05)
    run.send_signal(signal.SIGKILL)
    run.wait()
    _, alive = psutil.wait_procs(started, timeout=60)
    assert [command(one) for one in alive] == []
    set_params(reproduced_copy, train=SMALL["train"])
    assert pipeline.run_stage(reproduced_copy, "train", print) == "restored"


def command(process: psutil.Process) -> str:
    with contextlib.suppress(psutil.Error):
        return " ".join(process.cmdline())
    return ""


@pytest.mark.slow
def test_a_run_ends_its_server_and_delivers_its_log(promoted: Path, own_home: Path) -> None:
    done = segops(promoted, "run")
    assert done.returncode == 0, done.stdout + done.stderr
    assert "Nothing changed: no stage was run again." in done.stdout
    assert "Error" not in done.stdout + done.stderr
    assert servers(psutil.Process(os.getpid())) == []
    secret = (own_home / "segops-auth").read_text().strip().partition(":")[2]
    assert secret not in done.stdout + done.stderr
    assert secret.encode() not in (own_home / "prefect.db").read_bytes()
    import sqlite3

    with sqlite3.connect(own_home / "prefect.db") as database:
        (lines,) = database.execute(
            "select count(*) from log where message like 'Nothing changed: evaluate%'"
        ).fetchone()
        states = database.execute("select distinct state_type from task_run").fetchall()
    assert lines == 1
    assert states == [("COMPLETED",)]


@pytest.mark.slow
def test_a_folder_with_new_data_starts_a_run_that_the_gate_decides(
    promoted: Path, own_home: Path, tmp_path: Path
) -> None:
    """`segops watch` starts `segops run` itself, from arrived images to the decision."""
    arrived = tmp_path / "arrived"
    generate(arrived, train=16, val=6, seed=3, size=(80, 64))
    watch = ("watch", "--folder", str(arrived), "--settled", "1s", "--once")
    time.sleep(1)
    done = segops(promoted, *watch)
    assert done.returncode in (0, 3), done.stdout + done.stderr
    tracked = yaml.safe_load((promoted / "data/voc.dvc").read_text())["outs"][0]["md5"]
    with session(promoted, RegistryParams()) as store:
        (newest, *_) = store.client.search_model_versions("name = 'segops'")
    assert newest.version == 2
    assert newest.tags[tag("data_md5")] == tracked
    assert newest.tags[tag("started_by")].startswith(f"new data {tracked} in {arrived}, seen by ")
    again = segops(promoted, *watch)
    assert again.returncode == 0
    assert "run" not in again.stdout
