"""`segops ui mlflow`: the page that it names shows the runs, and nobody else is answered.

The checkout was moved since it was recorded.
"""

from __future__ import annotations

import os
import re
import shutil
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest
import requests

from segops import pipeline
from segops.cli import browse
from segops.record.update import record
from tests.integration.conftest import ROOT
from tests.support import registry_workspace as made
from tests.support.ranks import free_port

Served = tuple[str, str, tuple[str, str]]


@pytest.fixture(scope="module")
def served(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Served]:
    """What the command printed first, the server's address, and its owner's login."""
    root = made.make(tmp_path_factory.mktemp("ui") / "checkout")
    shutil.copytree(ROOT / "flows", root / "flows", dirs_exist_ok=True)
    made.train(root, seed=1)
    record(root)
    root = root.rename(root.with_name("moved"))  # the page works there too
    port = free_port()
    home = root.parent / "prefect"
    serving = subprocess.Popen(
        ["segops", "ui", "mlflow", "--port", str(port)],
        cwd=root,
        env={**pipeline.environment(), "PREFECT_HOME": str(home)},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        start_new_session=True,
    )
    assert serving.stdout is not None
    try:
        first = next(line for line in serving.stdout if line.startswith("Runs:"))
        for line in serving.stdout:
            if line.startswith("To log in"):  # the port is bound
                break
        said: list[str] = []
        threading.Thread(target=said.extend, args=(serving.stdout,), daemon=True).start()
        base = f"http://127.0.0.1:{port}"
        assert requests.get(f"{base}/health", timeout=120).text == "OK"  # waits for the start
        assert not said, "a warning of what MLflow imports is not the user's"
        name, _, password = (home / "segops-auth").read_text().strip().partition(":")
        yield first, base, (name, password)
    finally:
        os.killpg(serving.pid, signal.SIGTERM)
        serving.wait(60)


def test_the_address_that_is_printed_is_that_of_the_runs(served: Served) -> None:
    first, base, login = served
    found = re.fullmatch(r"Runs: (\S+)/#/experiments/(\d+)\?workflowType=machine_learning\n", first)
    assert found
    assert found[1] == base
    asked = {"experiment_ids": [found[2]]}
    runs = requests.post(
        f"{base}/api/2.0/mlflow/runs/search", json=asked, timeout=30, auth=login
    ).json()["runs"]
    (run,) = runs
    tags = {one["key"]: one["value"] for one in run["data"]["tags"]}
    assert tags["mlflow.source.name"] == "segops stage train"
    assert tags["mlflow.source.git.commit"] == tags["segops.code_commit"]
    shown = [
        (one["dataset"]["name"], one["dataset"]["digest"], one["tags"][0]["value"])
        for one in run["inputs"]["dataset_inputs"]
    ]
    hashes = {split: tags[f"segops.{split}_hash"][:12] for split in ("train", "val")}
    assert sorted(shown) == sorted(("voc", digest, split) for split, digest in hashes.items())


def test_the_page_has_the_artifacts_of_the_runs(served: Served) -> None:
    first, base, login = served
    asked = {"experiment_ids": [first.partition("experiments/")[2].partition("?")[0]]}
    (run,) = requests.post(
        f"{base}/api/2.0/mlflow/runs/search", json=asked, timeout=30, auth=login
    ).json()["runs"]
    wanted = {"run_id": run["info"]["run_id"], "path": "metrics"}
    listed = requests.get(
        f"{base}/api/2.0/mlflow/artifacts/list", wanted, timeout=30, auth=login
    ).json()
    assert "metrics/training.json" in [file["path"] for file in listed["files"]]
    wanted["path"] = "metrics/training.json"
    page = requests.get(f"{base}/get-artifact", wanted, timeout=30, auth=login)
    assert (
        page.json()["fingerprint"]
        == {tag["key"]: tag["value"] for tag in run["data"]["tags"]}["segops.fingerprint"]
    )
    (model,) = run["outputs"]["model_outputs"]
    address = f"{base}/ajax-api/2.0/mlflow/logged-models/{model['model_id']}/artifacts/directories"
    assert "MLmodel" in requests.get(address, timeout=30, auth=login).text


@pytest.mark.parametrize("host", ["evil.example", "192.168.1.5", "10.0.0.1:5000"])
def test_another_host_is_refused(served: Served, host: str) -> None:
    _, base, login = served
    for path in ("/", "/api/2.0/mlflow/experiments/get?experiment_id=0"):
        assert (
            requests.get(base + path, headers={"Host": host}, timeout=30, auth=login).status_code
            == 403
        )


def test_nobody_without_the_login_is_answered(served: Served) -> None:
    _, base, _ = served
    for path in ("/", "/api/2.0/mlflow/experiments/get?experiment_id=0"):
        answer = requests.get(base + path, timeout=30)
        assert answer.status_code == 401
        assert answer.headers["WWW-Authenticate"].startswith("Basic")


def test_another_origin_may_change_nothing_and_is_told_nothing(served: Served) -> None:
    _, base, login = served
    foreign = {"Origin": "http://evil.example"}
    made = requests.post(
        f"{base}/api/2.0/mlflow/experiments/create",
        json={"name": "theirs"}, headers=foreign, timeout=30, auth=login,
    )  # fmt: skip
    assert made.status_code == 403
    read = requests.get(
        f"{base}/api/2.0/mlflow/experiments/get?experiment_id=0",
        headers=foreign, timeout=30, auth=login,
    )  # fmt: skip
    assert read.status_code == 403
    assert "access-control-allow-origin" not in read.headers


def test_the_browser_opens_once_the_server_answers(tmp_path: Path) -> None:
    """A process that serves a page a moment later, as MLflow does, and a browser of our own."""
    opened = tmp_path / "opened"
    browser = tmp_path / "browser"
    browser.write_text(f'#!/bin/sh\nprintf %s "$1" > {opened}.part\nmv {opened}.part {opened}\n')
    browser.chmod(0o755)
    port = free_port()
    address = f"http://127.0.0.1:{port}/#/experiments/1"
    process = subprocess.Popen(
        [sys.executable, "-c", SERVE, address, str(port), str(opened)],
        env={**os.environ, "BROWSER": str(browser)},
    )
    assert process.wait(60) == 0
    assert opened.read_text() == address


SERVE = """
import sys, time
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path
from segops.cli.browse import open_when_served
address, port, opened = sys.argv[1:]
open_when_served(address)
time.sleep(1)
server = HTTPServer(("127.0.0.1", int(port)), BaseHTTPRequestHandler)
server.timeout = 1
end = time.monotonic() + 50
while not Path(opened).exists() and time.monotonic() < end:
    server.handle_request()
"""


def test_no_browser_opens_where_nobody_sits(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys.stdout, "isatty", lambda: True)
    monkeypatch.setenv("BROWSER", "/bin/true")
    monkeypatch.delenv("WAYLAND_DISPLAY", raising=False)
    monkeypatch.setenv("DISPLAY", ":0")
    assert browse.can_open()
    monkeypatch.delenv("DISPLAY")
    assert not browse.can_open() or sys.platform in ("darwin", "win32")
    monkeypatch.setenv("DISPLAY", ":0")
    monkeypatch.setattr(sys.stdout, "isatty", lambda: False)
    assert not browse.can_open()
