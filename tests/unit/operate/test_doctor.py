"""`segops doctor`: real faults in a small checkout, each found and told with what to do."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Event, Thread

import pytest

from segops import pipeline, reach
from segops.operate import doctor, dvc_config, installed, reachable, safety, surroundings
from segops.operate.surroundings import DoubtError, UnfitError
from segops.runtime.errors import SegopsError
from tests.support.mlflow_server import free_port
from tests.unit.test_reach import hanging


@pytest.fixture
def root(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A checkout in which all is well, and a home of its own."""
    root = tmp_path / "checkout"
    for name, content in {
        "params.yaml": "train: {batch_size: 8}\n",
        "dvc.yaml": "stages: {}\n",
        ".dvc/config": "['remote \"here\"']\n    url = ../data\n",
        ".git-config": "[user]\nname = test\nemail = test@example.org\n",
    }.items():
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_text(content)
    (root / "data").mkdir()
    subprocess.run(["git", "init", "-q"], cwd=root, check=True)
    home = tmp_path / "home"
    home.mkdir()
    for name in ("PREFECT_API_URL", "MLFLOW_TRACKING_URI", "SEGOPS_SIGNING_KEY", "PREFECT_HOME"):
        monkeypatch.delenv(name, raising=False)
    for name in ("XDG_CONFIG_HOME", "PREFECT_API_AUTH_STRING", "PREFECT_PROFILE"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("HOME", str(home))
    monkeypatch.setenv("GIT_CONFIG_GLOBAL", str(root / ".git-config"))
    return root


@contextmanager
def answering(status: int, host: str = "127.0.0.1") -> Iterator[str]:
    """A server that answers every question with a status, but for its health."""

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self.send_response(200 if self.path.endswith("/health") else status)
            self.send_header("Content-Length", "0")
            self.end_headers()

        do_POST = do_GET

        def log_message(self, format: str, *args: object) -> None:
            """Say nothing."""

    with ThreadingHTTPServer((host, 0), Handler) as server:
        Thread(target=server.serve_forever, args=(0.02,), daemon=True).start()
        try:
            yield f"http://127.0.0.1:{server.server_port}"
        finally:
            server.shutdown()


def test_a_checkout_in_which_all_is_well(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(doctor, "SECONDS", 120.0)  # the machine may be busy
    findings = doctor.diagnose(root)
    assert [one for one in findings if one.state == "fault"] == []
    assert {one.group for one in findings} == set(doctor.CHECKS)
    assert all(one.words for one in findings)
    assert doctor.Finding("reachable", "DVC's remotes", "ok", "here (../data)") in findings


PATIENT = (
    "from segops.operate import doctor; doctor.SECONDS = 120.0; from segops.cli import main; main()"
)


def test_the_command_says_it_in_words_and_in_json(root: Path) -> None:
    (root / ".dvc/config").write_text(
        "['remote \"r\"']\n    url = ../data\n    password = hunter2\n"
    )
    environment = {**pipeline.environment(), "HTTP_PROXY": "http://user:hunter3@127.0.0.1:9"}

    def run(*options: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [sys.executable, "-c", PATIENT, "doctor", *options],
            cwd=root, env=environment, capture_output=True, text=True, check=False,
        )  # fmt: skip

    said = run("--json")
    assert said.returncode == 1, said.stderr
    findings = {one["name"]: one for one in json.loads(said.stdout)}
    assert findings["DVC's configuration"]["state"] == "fault"
    assert findings["proxies"]["state"] == "warning"
    assert "export NO_PROXY=" in findings["proxies"]["words"]
    assert "hunter" not in said.stdout + said.stderr


def test_a_check_that_does_not_end_delays_no_other(
    root: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    never = Event()

    def hang(_: Path) -> str:
        never.wait()
        return ""

    def break_down(_: Path) -> str:
        raise RuntimeError("a bug")

    checks: dict[str, dict[str, doctor.Check]] = {
        "room": {"hangs": hang, "breaks": break_down, "works": lambda _: "well"}
    }
    monkeypatch.setattr(doctor, "CHECKS", checks)
    monkeypatch.setattr(doctor, "SECONDS", 0.5)
    findings = doctor.diagnose(root)
    never.set()
    assert [(one.name, one.state) for one in findings] == [
        ("hangs", "warning"), ("breaks", "fault"), ("works", "ok")
    ]  # fmt: skip
    assert findings[1].words == "the check failed: RuntimeError: a bug"


@pytest.mark.parametrize(
    ("status", "words"),
    [(401, r"refuses you \(401\)\. Set {}"), (500, r"status 500\. Is it an? {}")],
)
def test_a_server_that_refuses_is_a_fault(
    root: Path, status: int, words: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    with answering(status) as address:
        monkeypatch.setenv("MLFLOW_TRACKING_URI", address.replace("//", "//me:secret@"))
        monkeypatch.setenv("PREFECT_API_URL", f"{address}/api")
        asked = "MLFLOW_TRACKING_USERNAME" if status == 401 else "MLflow server"
        with pytest.raises(UnfitError, match=words.format(asked)) as raised:
            reachable.mlflow(root)
        assert "secret" not in str(raised.value)
        asked = "PREFECT_API_AUTH_STRING" if status == 401 else "Prefect server"
        with pytest.raises(UnfitError, match=words.format(asked)):
            reachable.prefect(root)


def test_servers_that_answer_are_well(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with answering(200) as address:
        monkeypatch.setenv("MLFLOW_TRACKING_URI", address)
        assert reachable.mlflow(root) == f"{address} answers"
        profiles = surroundings.prefect_home() / "profiles.toml"
        profiles.parent.mkdir()
        profiles.write_text(
            f'active = "a"\n[profiles.a]\nPREFECT_API_URL = "{address}/api"\n'
            'PREFECT_API_AUTH_STRING = "me:secret"\n'
        )
        profiles.chmod(0o644)
        assert reachable.prefect(root) == f"{address}/api answers"
        with pytest.raises(UnfitError, match=r"profiles\.toml: others can read .* `chmod 600"):
            safety.files(root)
        profiles.chmod(0o600)
        assert str(profiles) in safety.files(root)


def test_servers_that_are_away_are_faults(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(reach, "SECONDS", 0.3)
    monkeypatch.setenv("PREFECT_API_URL", "127.0.0.1:4200/api")
    with pytest.raises(UnfitError, match="expected an address such as http://"):
        reachable.prefect(root)
    with hanging() as port:
        monkeypatch.setenv("PREFECT_API_URL", f"http://127.0.0.1:{port}/api")
        monkeypatch.setenv("MLFLOW_TRACKING_URI", f"http://127.0.0.1:{port}")
        with pytest.raises(UnfitError, match="no Prefect server answers"):
            reachable.prefect(root)
        with pytest.raises(SegopsError, match="does not answer"):
            reachable.mlflow(root)


def test_a_damaged_record_is_a_fault(root: Path) -> None:
    (root / "mlflow.db").write_bytes(b"no database at all" * 100)
    with pytest.raises(UnfitError, match=r"mlflow\.db: file is not a database\."):
        reachable.mlflow(root)


def test_remotes_are_asked_for(root: Path) -> None:
    (root / ".dvc/config").write_text(
        f"['remote \"gone\"']\n    url = /nowhere\n"
        f"['remote \"web\"']\n    url = http://me:secret@127.0.0.1:{free_port()}/x\n"
    )
    with pytest.raises(DoubtError) as raised:
        reachable.remotes(root)
    assert "gone (/nowhere: no such directory), web (http://127.0.0.1:" in str(raised.value)
    assert "secret" not in str(raised.value)


@pytest.mark.parametrize(
    "line", ["secret_access_key = x", "password = x", "url = https://me:x@host/y", "sas_token = x"]
)
def test_a_secret_in_a_file_of_git_is_a_fault(root: Path, line: str) -> None:
    (root / ".dvc/config").write_text(f"['remote \"r\"']\n    {line}\n    keyfile = /x\n")
    assert len(dvc_config.secrets(root / ".dvc/config")) == 1
    with pytest.raises(UnfitError, match="git tracks this file, and it holds secrets"):
        safety.dvc_secrets(root)
    (root / ".dvc/config").rename(root / ".dvc/config.local")
    assert safety.dvc_secrets(root)
    (root / ".dvc/config.local").chmod(0o644)
    with pytest.raises(UnfitError, match="chmod 600"):
        safety.files(root)


def test_a_server_that_anybody_may_use_is_a_fault(root: Path) -> None:
    """A process that looks like a server of MLflow and listens on all addresses."""
    code = (
        "import sys, http.server as h\n"
        "class A(h.BaseHTTPRequestHandler):\n"
        "  def do_GET(self): self.send_response(200); self.end_headers()\n"
        "  def log_message(self, *a): pass\n"
        "s = h.HTTPServer((sys.argv[2], 0), A); print(s.server_port, flush=True)\n"
        "s.serve_forever()"
    )
    for host, is_open in (("127.0.0.1", False), ("0.0.0.0", True)):
        server = subprocess.Popen(
            [sys.executable, "-c", code, "mlflow", host], stdout=subprocess.PIPE, text=True
        )
        try:
            assert server.stdout is not None
            port = int(server.stdout.readline())
            found = set(safety._listening())
            assert ("MLflow", host, port) in found
            assert safety._answers_anybody("MLflow", host, port)
            if is_open:
                with pytest.raises(UnfitError, match=rf"MLflow on 0\.0\.0\.0:{port}.*anybody"):
                    safety.servers(root)
        finally:
            server.kill()
            server.wait()


@pytest.mark.parametrize(
    ("command", "kind"),
    [
        ("python -P -m flows.server_process 3 --mlflow --tied", "MLflow"),
        ("python -P -m flows.server_process 3 --tied", "Prefect"),
        ("python /v/bin/mlflow server --host 0.0.0.0", "MLflow"),
        ("python /v/bin/prefect server start", "Prefect"),
        ("python -m http.server", ""),
    ],
)
def test_servers_are_known_by_their_commands(command: str, kind: str) -> None:
    assert safety._kind(command) == kind


def test_other_versions_than_the_pinned_ones_are_told(root: Path) -> None:
    assert installed.pins(root) == "there is no constraints.txt"
    (root / "constraints.txt").write_text("pytest==0.1 # old\nnot-installed==3\n")
    with pytest.raises(DoubtError, match=r"pytest [\d.]+ \(==0\.1\)\. `make install`"):
        installed.pins(root)
    assert "team: " in installed.extras(root)


def test_who_commits_is_told(root: Path) -> None:
    assert doctor.identity(root) == "test@example.org"
    (root / ".git-config").write_text("[user]\nname = test\n")
    assert doctor.identity(root) == "nobody; runs are committed as segops@localhost"
