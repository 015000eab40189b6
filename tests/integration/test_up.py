"""`segops up`: both servers and a schedule answer their owner alone, and end together."""

from __future__ import annotations

import json
import os
import re
import shutil
import signal
import socket
import subprocess
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import httpx
import psutil
import pytest
from mlflow import MlflowClient

from segops import pipeline
from tests.integration.conftest import ROOT
from tests.support import registry_workspace as made
from tests.support.browser import needs_browser
from tests.support.hostile_page import attack, attack_mlflow
from tests.support.mlflow_server import free_port

pytestmark = pytest.mark.slow
SECONDS = 250.0
PROXY = {"HTTP_PROXY": "http://127.0.0.1:9", "http_proxy": "http://127.0.0.1:9"}
"""A proxy that is away, and that calls to this machine must not take."""


class Up:
    """A `segops up` process in a checkout; leaving the block kills it."""

    def __init__(self, root: Path, *options: str) -> None:
        self.mlflow, self.prefect = (f"http://127.0.0.1:{free_port()}" for _ in range(2))
        ports = [word.rpartition(":")[2] for word in (self.mlflow, self.prefect)]
        self.said = root / f"said-{ports[0]}.txt"
        with self.said.open("w") as file:
            self.process = subprocess.Popen(
                ["segops", "up", "--mlflow-port", ports[0], "--prefect-port", ports[1], *options],
                cwd=root, env={**pipeline.environment(), **PROXY}, stdout=file,
                stderr=subprocess.STDOUT,
                start_new_session=True,  # so that Ctrl-C ends this group alone
            )  # fmt: skip

    def __enter__(self) -> Up:
        self.family: list[psutil.Process] = []
        try:
            until(lambda: "ends all" in self.said.read_text() or self.process.poll() is not None)
            assert self.process.poll() is None, self.said.read_text()
            self.family = psutil.Process(self.process.pid).children(recursive=True)
        except BaseException:
            self.__exit__()
            raise
        return self

    def __exit__(self, *_: object) -> None:
        if self.process.poll() is None:
            self.process.kill()
        self.process.wait()
        psutil.wait_procs(self.family, timeout=30)

    def servers(self) -> dict[str, psutil.Process]:
        found = {}
        for one in self.family:
            if "flows.server_process" in (command := " ".join(one.cmdline())):
                found["MLflow" if "--mlflow" in command else "Prefect"] = one
        return found


def until(done: Callable[[], bool], seconds: float = SECONDS) -> None:
    end = time.monotonic() + seconds
    while not done():
        assert time.monotonic() < end
        time.sleep(0.1)


@pytest.fixture(scope="module")
def checkout(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A checkout whose record holds a version of the model `guarded`."""
    root = made.make(tmp_path_factory.mktemp("up") / "checkout")
    shutil.copytree(ROOT / "flows", root / "flows", dirs_exist_ok=True)
    uri = f"sqlite:///{root}/mlflow.db"
    client = MlflowClient(tracking_uri=uri, registry_uri=uri)
    client.create_registered_model("guarded")
    client.create_model_version("guarded", str(root))
    return root


@pytest.fixture(autouse=True, scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("PREFECT_HOME", str(tmp_path_factory.mktemp("home")))
        for name in ("PREFECT_API_URL", "PREFECT_API_AUTH_STRING", "MLFLOW_TRACKING_URI"):
            patch.delenv(name, raising=False)
        yield Path(os.environ["PREFECT_HOME"])


@pytest.fixture
def credentials(home: Path) -> Callable[[], tuple[str, str]]:
    def read() -> tuple[str, str]:
        name, _, password = (home / "segops-auth").read_text().strip().partition(":")
        return name, password

    return read


def test_both_servers_answer_their_owner_alone_and_end_together(
    checkout: Path, credentials: Callable[[], tuple[str, str]], monkeypatch: pytest.MonkeyPatch
) -> None:  # fmt: skip
    with Up(checkout, "--cron", "0 3 1 1 *") as up:
        own = credentials()
        said = up.said.read_text()
        assert f"MLflow: {up.mlflow}\nPrefect: {up.prefect}\n" in said
        assert own[1] not in said
        assert not any(own[1] in " ".join(one.cmdline()) for one in up.family)
        for question in (f"{up.mlflow}/", f"{up.mlflow}/api/2.0/mlflow/experiments/get-by-name?"
                         "experiment_name=segops", f"{up.prefect}/api/flows/1"):  # fmt: skip
            assert httpx.get(question).status_code == 401
        monkeypatch.setenv("MLFLOW_TRACKING_USERNAME", own[0])
        monkeypatch.setenv("MLFLOW_TRACKING_PASSWORD", own[1])
        client = MlflowClient(tracking_uri=up.mlflow, registry_uri=up.mlflow)
        assert [one.name for one in client.search_registered_models()] == ["guarded"]
        refuse_other_pages(up, own)
        until(lambda: "is being served" in up.said.read_text())
        found = httpx.post(f"{up.prefect}/api/deployments/filter", json={}, auth=own).json()
        assert {one["name"]: one["paused"] for one in found}["scheduled"] is False
        up.process.send_signal(signal.SIGTERM)
        assert up.process.wait(60) == 0
        _, alive = psutil.wait_procs(up.family, timeout=10)
        assert alive == []
    assert (checkout / "mlflow.db").is_file()


def test_ctrl_c_ends_all(checkout: Path) -> None:
    """A terminal sends it to each process of the group at once."""
    with Up(checkout, "--cron", "0 3 1 1 *") as up:
        until(lambda: "is being served" in up.said.read_text())
        up.family = psutil.Process(up.process.pid).children(recursive=True)
        assert len(up.family) > 2
        os.killpg(up.process.pid, signal.SIGINT)
        assert up.process.wait(60) in (0, 130)
        assert psutil.wait_procs(up.family, timeout=10)[1] == []
        assert "Traceback" not in up.said.read_text()


def refuse_other_pages(up: Up, own: tuple[str, str]) -> None:
    """Even with the credentials, as a browser sends them once its user has logged in."""
    alias = {"name": "guarded", "alias": "champion", "version": "1"}
    for headers in (
        {"Origin": "http://evil.example"},
        {"Origin": "http://127.0.0.1:1"},  # MLflow itself takes any page of this machine
        {"Sec-Fetch-Site": "same-site"},
        {"Host": "evil.example"},
    ):
        answer = httpx.post(
            f"{up.mlflow}/api/2.0/mlflow/registered-models/alias",
            json=alias, headers=headers, auth=own,
        )  # fmt: skip
        assert answer.status_code == 403
        assert not [one for one in answer.headers if one.startswith("access-control-")]
    page = httpx.get(f"{up.mlflow}/", auth=own)
    assert "<html" in page.text
    scripts = re.findall(r'src="([^"]+\.js)"', page.text)
    assert scripts
    assert httpx.get(f"{up.mlflow}/{scripts[0].lstrip('./')}", auth=own).status_code == 200


@pytest.mark.parametrize("victim", ["MLflow", pytest.param("Prefect", marks=pytest.mark.long)])
def test_the_others_end_with_a_server_that_dies(checkout: Path, victim: str) -> None:
    with Up(checkout) as up:
        up.servers()[victim].kill()
        assert up.process.wait(30) == 1
        assert f"error: The {victim} process has ended" in up.said.read_text()
        assert psutil.wait_procs(up.family, timeout=10)[1] == []


def test_all_end_when_up_is_killed(checkout: Path) -> None:
    with Up(checkout) as up:
        up.process.kill()
        assert psutil.wait_procs(up.family, timeout=10)[1] == []


def test_a_port_that_is_taken_is_told(checkout: Path) -> None:
    port = free_port()
    with socket.create_server(("127.0.0.1", port)):
        done = subprocess.run(
            ["segops", "up", "--mlflow-port", str(port), "--prefect-port", str(free_port())],
            cwd=checkout, env=pipeline.environment(), capture_output=True, text=True, check=False,
        )  # fmt: skip
    assert done.returncode == 1
    assert f"127.0.0.1:{port}: Address already in use. Stop what listens there" in done.stderr


@needs_browser
def test_a_hostile_page_gets_nothing(
    checkout: Path, credentials: Callable[[], tuple[str, str]], tmp_path: Path
) -> None:
    """It knows the names of the model and of the deployment, and the browser is logged in."""
    with Up(checkout, "--cron", "0 3 1 1 *") as up:
        until(lambda: "is being served" in up.said.read_text())
        own = credentials()

        def held() -> str:
            kept = ("id", "pull_steps", "path", "entrypoint", "parameters", "paused")
            found = httpx.post(f"{up.prefect}/api/deployments/filter", json={}, auth=own).json()
            found_runs = httpx.post(f"{up.prefect}/api/flow_runs/filter", json={}, auth=own).json()
            # Prefect writes down the schedule's next run at a moment of its own.
            runs = [one for one in found_runs if not one["auto_scheduled"]]
            search = f"{up.mlflow}/api/2.0/mlflow/registered-models/search"
            return json.dumps([
                sorted(json.dumps({key: one[key] for key in kept}) for one in found),
                sorted(json.dumps([one["id"], one["parameters"]]) for one in runs),
                httpx.get(search, auth=own).json(),
            ])  # fmt: skip

        before = held()
        found = httpx.post(f"{up.prefect}/api/deployments/filter", json={}, auth=own).json()
        got = attack(up.prefect, tmp_path, [one["id"] for one in found])
        (tmp_path / "mlflow").mkdir()
        got |= attack_mlflow(up.mlflow, tmp_path / "mlflow")
        tried = [name for name in got if name.startswith(("start a run of", "change"))]
        assert len(tried) == 2 * 2 + 4
        assert [name for name in tried if not got[name].startswith("refused: ")] == []
        assert held() == before
