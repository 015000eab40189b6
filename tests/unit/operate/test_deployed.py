"""The workspace of a deployment, when it is made and when it runs."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from segops.operate import deployed
from segops.runtime.errors import SegopsError


@pytest.fixture
def checkout(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)  # a step changes the working directory
    monkeypatch.delenv(deployed.VARIABLE, raising=False)
    root = tmp_path / "checkout"
    root.mkdir()
    (root / "dvc.yaml").write_text("stages: {}\n")
    return root


@pytest.mark.parametrize("value", [None, "", "checkout", "/no/such/place", "/"])
def test_no_deployment_is_made_without_its_workspace(
    checkout: Path, monkeypatch: pytest.MonkeyPatch, value: str | None
) -> None:
    if value is not None:
        monkeypatch.setenv(deployed.VARIABLE, value)
    with pytest.raises(SystemExit, match="SEGOPS_WORKSPACE"):
        deployed.build()


def test_the_workspace_is_written_into_the_deployment(
    checkout: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(deployed.VARIABLE, str(checkout))
    assert deployed.build() == {"workspace": str(checkout)}


def test_a_run_starts_in_the_deployments_workspace(
    checkout: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert deployed.enter(str(checkout)) == {"directory": str(checkout)}
    assert Path.cwd() == checkout
    monkeypatch.setenv(deployed.VARIABLE, f"{checkout}/")
    assert deployed.enter(str(checkout)) == {"directory": str(checkout)}


@pytest.mark.parametrize("directory", ["{{ workspace }}", "{{ $SEGOPS_WORKSPACE }}", "/no/place"])
def test_a_run_starts_nowhere_else(checkout: Path, directory: str) -> None:
    before = Path.cwd()
    with pytest.raises(SegopsError, match=r"segops deploy|no dvc\.yaml"):
        deployed.enter(directory)
    assert Path.cwd() == before


def test_a_worker_runs_in_its_own_workspace_alone(
    checkout: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    other = tmp_path / "other"
    other.mkdir()
    (other / "dvc.yaml").write_text("stages: {}\n")
    monkeypatch.setenv(deployed.VARIABLE, str(checkout))
    with pytest.raises(SegopsError, match=f"may run in {checkout} alone"):
        deployed.enter(str(other))
    assert os.getcwd() == str(tmp_path)  # noqa: PTH109


def test_a_run_of_a_deployment_is_refused_elsewhere_and_one_by_hand_is_not(
    checkout: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(deployed.VARIABLE, str(tmp_path))
    monkeypatch.chdir(checkout)
    assert deployed.of_run(by_deployment=False) == checkout
    with pytest.raises(SegopsError, match=f"may run in {tmp_path} alone"):
        deployed.of_run(by_deployment=True)
