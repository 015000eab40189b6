"""`segops schedule` as a process: it refuses, takes over, and ends with nothing active."""

from __future__ import annotations

import os
import shutil
import signal
import sqlite3
import subprocess
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, closing
from pathlib import Path
from typing import Any

import httpx
import psutil
import pytest

from segops import pipeline
from tests.integration.conftest import COPIED, ROOT, segops
from tests.support.no_server import faulty
from tests.support.prefect_server import Serving, serving
from tests.support.ranks import free_port

pytestmark = pytest.mark.slow
LONG = """

def chosen(*_: object) -> Any:
    import time

    print("sleeps", flush=True)
    time.sleep(600)
"""
SIGNALLED = """

_begin = Runner.__aenter__


async def _begin_with_a_signal(self: Runner) -> Runner:
    import os

    os.kill(os.getpid(), signal.SIGTERM)
    return await _begin(self)


Runner.__aenter__ = _begin_with_a_signal
"""


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Serving]:
    with serving(tmp_path_factory.mktemp("prefect")) as running:
        yield running


@pytest.fixture
def environment(server: Serving, monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in server.settings().items():
        monkeypatch.setenv(name, value)
    monkeypatch.setenv("PREFECT_RUNNER_POLL_FREQUENCY", "1")


@pytest.fixture(scope="module")
def checkout(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A checkout whose run takes ten minutes and does nothing."""
    root = tmp_path_factory.mktemp("schedule") / "checkout"
    for name in ("flows", "dvc.yaml", "pyproject.toml"):
        assert name in COPIED
        copy: Callable[..., Any] = shutil.copytree if (ROOT / name).is_dir() else shutil.copy
        root.mkdir(exist_ok=True)
        copy(ROOT / name, root / name)
    with (root / "flows/retrain.py").open("a") as file:
        file.write(LONG)
    return root


@pytest.fixture
def processes() -> Iterator[ExitStack]:
    """Processes that end with the test."""
    with ExitStack() as started:
        yield started


class Serve:
    """A `segops schedule` process; leaving the block kills it and its children."""

    def __init__(self, root: Path, *options: str) -> None:
        self.said = root / f"said-{time.monotonic_ns()}.txt"
        with self.said.open("w") as file:
            self.process = subprocess.Popen(
                ["segops", "schedule", "--cron", "0 3 1 1 *", "--name", "weekly", *options],
                cwd=root,
                env=pipeline.environment(),
                stdout=file,
                stderr=subprocess.STDOUT,
            )

    def __enter__(self) -> Serve:
        try:
            until(lambda: "is being served" in self.said.read_text() or self.has_ended())
            assert not self.has_ended(), self.said.read_text()
        except BaseException:  # `with` leaves no block that it has not entered
            self.__exit__()
            raise
        return self

    def __exit__(self, *_: object) -> None:
        if not self.has_ended():
            self.kill()

    def has_ended(self) -> bool:
        return self.process.poll() is not None

    def kill(self) -> None:
        """Kill it with its children, as a machine that loses power does."""
        kill(self.process)

    def ended(self) -> int:
        return self.process.wait(timeout=90)


def kill(process: subprocess.Popen[Any]) -> None:
    """Kill a process with its children."""
    children = psutil.Process(process.pid).children(recursive=True)
    process.kill()
    process.wait()
    for child in children:
        child.kill()


def worker(processes: ExitStack) -> subprocess.Popen[Any]:
    """A worker of the pool that `segops deploy` makes."""
    started = processes.enter_context(
        subprocess.Popen(["prefect", "worker", "start", "--pool", "gpu"], env=os.environ)
    )
    processes.callback(lambda: started.poll() is not None or kill(started))
    return started


def until(is_so: Callable[[], Any], seconds: float = 120) -> Any:
    deadline = time.monotonic() + seconds
    while not (found := is_so()):
        assert time.monotonic() < deadline
        time.sleep(0.2)
    return found


def deployment(server: Serving, name: str = "weekly") -> Any:
    return server.get(f"deployments/name/retrain/{name}")


def start_run(server: Serving, name: str = "weekly") -> str:
    """Start a run by hand and wait until its process runs the flow."""
    path = f"deployments/{deployment(server, name)['id']}/create_flow_run"
    run = str(server.post(path, {}).raise_for_status().json()["id"])
    until(lambda: state(server, run) == "RUNNING")
    return run


def state(server: Serving, run: str) -> str:
    return str(server.get(f"flow_runs/{run}")["state"]["type"])


@pytest.mark.usefixtures("environment")
def test_one_process_has_a_schedule_and_a_stop_in_a_run_leaves_it_paused(
    server: Serving, checkout: Path
) -> None:
    with Serve(checkout) as first:
        again = segops(checkout, "schedule", "--cron", "0 4 * * *", "--name", "weekly")
        assert again.returncode == 1
        assert f"is taken by process {first.process.pid} of " in again.stderr
        assert deployment(server)["schedules"][0]["schedule"]["cron"] == "0 3 1 1 *"
        with Serve(checkout, "--replace") as second:
            assert first.ended() == 0
            assert "was removed or taken over" in first.said.read_text()
            assert not deployment(server)["paused"]
            run = start_run(server)
            second.process.send_signal(signal.SIGTERM)
            assert second.ended() == 0, second.said.read_text()
            assert "Traceback" not in second.said.read_text()
    assert deployment(server)["paused"]
    assert state(server, run) == "CANCELLED"
    assert server.read("variables") == []
    shown = segops(checkout, "schedule", "list").stdout
    assert shown == "weekly: 0 3 1 1 * UTC; paused; no process serves it\n"


@pytest.mark.usefixtures("environment")
def test_a_signal_while_prefect_starts_ends_it_without_a_traceback(
    server: Serving, checkout: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("TMPDIR", str(tmp_path))
    flow = checkout / "flows/serve.py"
    text = flow.read_text()
    flow.write_text(text + SIGNALLED)
    early = Serve(checkout, "--name", "early")
    try:
        assert early.ended() == 0, early.said.read_text()
    finally:
        flow.write_text(text)
        early.__exit__()
    said = early.said.read_text()
    assert "Traceback" not in said
    assert "Schedule early is being served" in said
    assert "Schedule early is ended" in said
    assert deployment(server, "early")["paused"]
    assert list(tmp_path.glob("runner_storage/*")) == []


@pytest.mark.usefixtures("environment")
@pytest.mark.long
def test_monitoring_has_a_schedule_of_its_own(server: Serving, checkout: Path) -> None:
    params = checkout / "params.yaml"
    params.write_text("data: {path: data/voc}\n")
    options = ("schedule", "--monitor", "--cron", "0 5 * * *")
    refused = segops(checkout, *options)
    assert refused.returncode == 1
    assert "monitor.path in params.yaml is null" in refused.stderr
    params.write_text("monitor: {path: arrived}\n")
    with Serve(checkout, "--monitor", "--name", "drift") as serving_drift:
        shown = segops(checkout, "schedule", "list").stdout
        assert "drift: monitor, 0 3 1 1 * UTC; active: process" in shown
        again = segops(checkout, "schedule", "--cron", "0 4 * * *", "--name", "drift")
        assert again.returncode == 1
        assert "has a schedule of the flow monitor of that name" in again.stderr
        serving_drift.process.send_signal(signal.SIGTERM)
        assert serving_drift.ended() == 0, serving_drift.said.read_text()
    assert server.get("deployments/name/monitor/drift")["paused"]
    removed = segops(checkout, "schedule", "remove", "drift")
    assert removed.returncode == 0, removed.stderr


@pytest.mark.long
@pytest.mark.usefixtures("environment")
def test_after_a_kill_in_a_run_the_run_crashes_and_the_next_one_has_its_slot(
    server: Serving, checkout: Path
) -> None:
    with Serve(checkout) as first:
        run = start_run(server)
        first.kill()
    killed = time.monotonic()
    shown = segops(checkout, "schedule", "list").stdout
    assert f"active; its process has ended: process {first.process.pid} of " in shown
    until(lambda: state(server, run) == "CRASHED", 120)
    print(f"marked as crashed after {time.monotonic() - killed:.0f} s")  # noqa: T201
    with Serve(checkout):
        start_run(server)
        removed = segops(checkout, "schedule", "remove", "weekly")
        assert removed.returncode == 0, removed.stderr
    assert server.read("variables") == []


@pytest.mark.long
@pytest.mark.timeout(600)
def test_a_run_whose_worker_is_killed_crashes_and_another_worker_makes_the_next(
    checkout: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, processes: ExitStack
) -> None:
    for name in ("prefect.yaml", "params.yaml"):
        shutil.copy(ROOT / name, checkout / name)
        processes.callback((checkout / name).unlink)
    monkeypatch.setenv("SEGOPS_WORKSPACE", str(checkout))
    with serving(tmp_path) as own:
        for name, value in own.settings().items():
            monkeypatch.setenv(name, value)
        deployed = segops(checkout, "deploy")
        assert deployed.returncode == 0, deployed.stderr
        first = worker(processes)
        run = start_run(own)
        kill(first)
        killed = time.monotonic()
        until(lambda: state(own, run) == "CRASHED", 120)
        print(f"marked as crashed after {time.monotonic() - killed:.0f} s")  # noqa: T201
        worker(processes)
        start_run(own)


@pytest.mark.long
@pytest.mark.timeout(600)
def test_a_run_by_hand_that_is_killed_crashes_on_a_server_of_its_own(
    checkout: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, processes: ExitStack
) -> None:
    """`segops ui prefect` and `segops run` alone; no schedule and no deployment."""
    port = free_port()
    monkeypatch.setenv("PREFECT_HOME", str(tmp_path))
    page = processes.enter_context(
        subprocess.Popen(
            ["segops", "ui", "prefect", "--port", str(port)],
            cwd=checkout,
            env=pipeline.environment(),
        )
    )
    processes.callback(page.kill)
    (checkout / "params.yaml").write_text("data: {path: data/voc}\n")
    address = f"http://127.0.0.1:{port}"
    until((tmp_path / "segops-auth").exists)
    secret = (tmp_path / "segops-auth").read_text().strip()
    server = Serving(address, secret, tmp_path, page.pid)
    until(lambda: is_up(address), 240)
    monkeypatch.setenv("PREFECT_API_URL", f"{address}/api")
    with subprocess.Popen(
        ["segops", "run"], cwd=checkout, env=pipeline.environment(), start_new_session=True
    ) as by_hand:
        (run,) = until(lambda: server.read("flow_runs"))
        until(lambda: state(server, run["id"]) == "RUNNING")
        os.killpg(by_hand.pid, signal.SIGKILL)
    killed = time.monotonic()
    until(lambda: state(server, run["id"]) == "CRASHED", 120)
    print(f"marked as crashed after {time.monotonic() - killed:.0f} s")  # noqa: T201


def quick_to_give_up(server: Serving, monkeypatch: pytest.MonkeyPatch) -> int:
    """Let commands use a server that they soon take for lost; its port."""
    for name, value in server.settings().items():
        monkeypatch.setenv(name, value)
    monkeypatch.setenv("PREFECT_RUNNER_POLL_FREQUENCY", "1")
    monkeypatch.setenv("PREFECT_CLIENT_MAX_RETRIES", "0")
    return int(server.address.rpartition(":")[2])


@pytest.mark.long
@pytest.mark.timeout(900)
def test_a_schedule_outlives_its_server(
    checkout: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, processes: ExitStack
) -> None:
    with serving(tmp_path) as first:
        port = quick_to_give_up(first, monkeypatch)
        started = processes.enter_context(Serve(checkout))
        nightly = processes.enter_context(Serve(checkout, "--name", "nightly"))
        assert segops(checkout, "schedule", "pause", "weekly").returncode == 0
    until(lambda: is_away(started) and is_away(nightly), 200)
    assert "Traceback" not in started.said.read_text()
    with serving(tmp_path, port=port) as second:
        until(lambda: not is_away(started) and not is_away(nightly))
        assert deployment(second)["paused"]
        assert not deployment(second, "nightly")["paused"]
        start_run(second, "nightly")
        until(lambda: "sleeps" in nightly.said.read_text())
    nightly.process.send_signal(signal.SIGTERM)
    assert nightly.ended() == 0
    assert "stays active: " in nightly.said.read_text()
    assert "Traceback" not in nightly.said.read_text()
    until(lambda: is_away(started), 200)
    with closing(sqlite3.connect(tmp_path / "prefect.db")) as database, database:
        database.execute("DELETE FROM variable")  # as when it is removed just before the server is
    with serving(tmp_path, port=port) as third:
        assert started.ended() == 0, started.said.read_text()
        assert "Schedule weekly was removed or taken over." in started.said.read_text()
        assert deployment(third)["paused"]


@pytest.mark.long
@pytest.mark.timeout(900)
@pytest.mark.parametrize("kind", ["status 500", "page of a proxy"])
def test_a_schedule_waits_while_something_else_answers_for_its_server(
    checkout: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    processes: ExitStack,
    kind: str,
) -> None:
    with serving(tmp_path) as first:
        port = quick_to_give_up(first, monkeypatch)
        started = processes.enter_context(Serve(checkout))
    with faulty(kind, port):
        until(lambda: is_away(started), 200)
        time.sleep(10)  # it looks again, and finds the same
        assert started.process.poll() is None, started.said.read_text()
    with serving(tmp_path, port=port) as second:
        until(lambda: not is_away(started))
        start_run(second)
        assert "Traceback" not in started.said.read_text()


def is_up(address: str) -> bool:
    """Whether a server answers."""
    try:
        return httpx.get(f"{address}/api/health", timeout=60).is_success
    except httpx.TransportError:
        return False


def is_away(started: Serve) -> bool:
    """Whether a schedule waits for its server."""
    said = started.said.read_text()
    return said.rfind("The schedule waits for it") > said.rfind("is being served")


def test_a_plain_call_says_what_it_wants(checkout: Path) -> None:
    done = segops(checkout, "schedule")
    assert done.returncode == 2
    assert "--cron" in done.stderr
