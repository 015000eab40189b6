"""Checkouts of a team on shared back ends: PostgreSQL, S3, MLflow with logins."""

from __future__ import annotations

import re
import shlex
import shutil
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import httpx
import pytest
import yaml

from segops.params.registry import RegistryParams
from segops.pipeline import tracked
from segops.record.login import login
from segops.record.tracking import session
from tests.integration.conftest import dvc as run_dvc
from tests.integration.conftest import make_workspace, segops, set_params
from tests.support import registry_workspace as made
from tests.support.mlflow_server import await_answer, free_port
from tests.support.prefect_server import Serving
from tests.support.registry_workspace import release
from tests.support.team import BUCKET, DATA, ROOT, Team, team

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def backs(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Team]:
    with team(tmp_path_factory.mktemp("team")) as running:
        yield running


@pytest.fixture
def client(backs: Team, monkeypatch: pytest.MonkeyPatch) -> Team:
    for name, value in backs.client().items():
        monkeypatch.setenv(name, value)
    return backs


def dvc(root: Path, *arguments: str) -> None:
    done = run_dvc(root, *arguments)
    assert done.returncode == 0, done.stdout + done.stderr


def test_a_checkout_releases_into_the_teams_registry(client: Team, tmp_path: Path) -> None:
    root = made.make(tmp_path / "a", database=False)
    assert release(root, seed=1, quality=0.6).verdict == "promoted"
    with session(root, RegistryParams()) as store:
        assert login(store) == "admin"
    assert champion(root) == "1"
    # The artifacts are in the bucket, and the server hands them out.
    assert [key for key in client.keys("mlflow/") if key.endswith("weights.safetensors")]
    assert not list(tmp_path.rglob("mlartifacts"))


@pytest.mark.long
@pytest.mark.timeout(1800)
def test_two_checkouts_retrain_by_a_worker(client: Team, tmp_path: Path) -> None:
    """One model is promoted, the next one approved and rolled back; data come from the bucket."""
    first, second = tmp_path / "first", tmp_path / "second"
    make_workspace(first)
    dvc(first, "remote", "add", "-d", "team", f"s3://{BUCKET}/team")
    dvc(first, "remote", "modify", "team", "endpointurl", client.s3)
    made.git(first, "commit", "-q", "-am", "the team's bucket")
    dvc(first, "push", "data/voc.dvc")
    made.git(tmp_path, "clone", "-q", "first", "second")
    set_params(second, train={"seed": 7}, gate={"approval": "required", "margin": 1.0})
    made.git(second, "commit", "-q", "-am", "a person approves")
    with prefect(client, tmp_path) as (server, places):
        with client.running("worker", first, {**places, "/workspace": str(first)}):
            promoted = ended(server, "retrain/weekly", first)
            assert promoted["name"] == "Promoted", promoted
        with client.running("worker", second, {**places, "/workspace": str(second)}):
            candidate = ended(server, "retrain/weekly", second)
            assert candidate["name"] == "Candidate", candidate
            approval = {"version": "2", "reason": "looked at the worst images"}
            approved = ended(server, "approve/approval", second, approval)
            assert approved["name"] == "Promoted", approved
        told = str([server.read(what) for what in ("logs", "deployments", "flow_runs")])
        secrets = [client.secret(name) for name in ("s3_secret", "prefect_auth")]
        assert [one for one in secrets if one in told] == []
    # The clone had no data: its run fetched them into the cache that worktrees share.
    digest = yaml.safe_load((second / "data/voc.dvc").read_text())["outs"][0]["md5"]
    assert (second / f".dvc/cache/files/md5/{digest[:2]}/{digest[2:]}").is_file()
    assert champion(first) == "2"
    done = segops(first, "rollback", "--reason", "halos", "--champion", "2")
    assert done.returncode == 0, done.stdout + done.stderr
    assert champion(second) == "1"
    kept = [key for key in client.keys("mlflow/") if key.endswith("weights.safetensors")]
    assert len(kept) >= 2


@contextmanager
def prefect(client: Team, folder: Path) -> Iterator[tuple[Serving, dict[str, str]]]:
    """Prefect's server as the stack starts it, and what stands for its places here."""
    port = str(free_port())
    address, home = f"http://localhost:{port}", folder / "prefect"
    places = {"http://prefect:4200": address, "4200": port, "/tmp/prefect": str(home)}
    with client.running("prefect", places=places) as log:
        await_answer(f"{address}/api/health", log)
        yield Serving(address, client.secret("prefect_auth"), home, 0), places


def ended(
    server: Serving, name: str, root: Path, parameters: dict[str, Any] | None = None
) -> dict[str, Any]:
    """The last state of a run of a deployment, once that is the one of a checkout."""
    end = time.monotonic() + 600
    run = None
    while time.monotonic() < end:
        time.sleep(1)
        held = [one for one in server.read("deployments") if one["name"] == name.split("/")[1]]
        if run is None and held and str(root) in str(held[0]["pull_steps"]):
            path = f"deployments/{held[0]['id']}/create_flow_run"
            run = server.post(path, {"parameters": parameters or {}}).json()["id"]
        if run is not None:
            state: dict[str, Any] = server.get(f"flow_runs/{run}")["state"]
            if state["type"] in ("COMPLETED", "FAILED", "CRASHED", "CANCELLED"):
                return state
    raise AssertionError(f"{name} does not end in {root}")


def champion(root: Path) -> str:
    with session(root, RegistryParams()) as store:
        found = store.client.get_model_version_by_alias("segops", "champion")
        return str(found.version)


def require_guard(url: str, name: str, secret: str, body: dict[str, Any]) -> None:
    """Refuse what a browser sends that has the login kept, for another page or another name."""

    def ask(auth: tuple[str, str] | None, **headers: str) -> int:
        named = {**body, "name": f"by {headers}"}
        return httpx.post(url, json=named, auth=auth, headers=headers).status_code

    assert ask(None) == 401
    assert ask((name, "wrong")) == 401
    assert ask((name, secret), Origin="http://evil.example") == 403
    assert ask((name, secret), Host="evil.example") == 403
    assert ask((name, secret)) in (200, 201)


def test_mlflow_refuses_another_page_or_name_or_nobody(client: Team) -> None:
    url = f"{client.mlflow}/api/2.0/mlflow/experiments/create"
    require_guard(url, "admin", client.secret("mlflow_admin_password"), {})


def test_prefect_refuses_another_page_or_name_or_nobody(client: Team, tmp_path: Path) -> None:
    with prefect(client, tmp_path) as (server, _):
        name, _, secret = server.credentials.partition(":")
        require_guard(f"{server.address}/api/flows/", name, secret, {})
        before = httpx.options(
            f"{server.address}/api/flows/",
            headers={"Origin": "http://evil.example", "Access-Control-Request-Method": "POST"},
        )
        assert before.status_code == 403
        assert "access-control-allow-origin" not in before.headers


def test_data_travel_through_the_bucket(client: Team, tmp_path: Path) -> None:
    """`dvc push` in one checkout; another, which has the pointer alone, gets them in a run."""
    (page,) = re.findall(r"`(dvc remote add [^`]+)`", (ROOT / "docs/how-to/team.md").read_text())
    first, second = tmp_path / "a", tmp_path / "b"
    for root in (first, second):
        made.git(tmp_path, "init", "-q", root.name)
        dvc(root, "init", "-q")
        dvc(root, *shlex.split(page)[1:])
        (root / "data").mkdir()
    (first / "data/voc").mkdir()
    (first / "data/voc/image.txt").write_text("a photograph")
    tracked.track_data(first, Path("data/voc"), print)
    dvc(first, "push", "data/voc.dvc")
    digest = yaml.safe_load((first / "data/voc.dvc").read_text())["outs"][0]["md5"]
    assert f"dvc/files/md5/{digest[:2]}/{digest[2:]}" in client.keys("dvc/", DATA)
    shutil.copy(first / "data/voc.dvc", second / "data")
    tracked.sync_data(second, Path("data/voc"), print)
    assert (second / "data/voc/image.txt").read_text() == "a photograph"
