"""A back end whose package is missing is told by the name of the extra."""

from __future__ import annotations

import socket
import subprocess
import sys
import threading
import tomllib
from pathlib import Path

import pytest
from packaging.requirements import Requirement

from segops import faults, pipeline
from segops.pipeline import tracked
from segops.runtime.errors import SegopsError

ROOT = Path(__file__).parents[2]


BLOCKED = """
import sys

class Missing:
    def find_spec(self, name, path=None, target=None):
        if name.split(".")[0] == {module!r}:
            raise ModuleNotFoundError(f"No module named {{name!r}}", name=name.split(".")[0])

sys.meta_path.insert(0, Missing())
"""
"""What stands in for an environment in which a package is not installed."""


def test_the_extra_names_all_that_is_told_to_come_with_it() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    extra = {Requirement(one).name for one in project["optional-dependencies"]["team"]}
    packages = {"psycopg2": "psycopg2-binary", "botocore": "boto3"}
    told = {packages.get(module, module).replace("_", "-") for module in faults.TEAM}
    assert told == extra


@pytest.mark.parametrize("module", sorted(faults.TEAM))
def test_a_missing_package_is_one_sentence(module: str) -> None:
    with (
        pytest.raises(SegopsError, match=rf"{module}.*pip install 'segops\[team\]'"),
        faults.named(),
    ):
        try:
            raise ModuleNotFoundError(f"No module named {module!r}", name=module)
        except ImportError as error:
            raise RuntimeError("what a library makes of it") from error


def test_another_missing_module_is_no_users_mistake() -> None:
    with pytest.raises(ModuleNotFoundError), faults.named():
        raise ModuleNotFoundError("No module named 'torch'", name="torch")


@pytest.mark.parametrize(
    ("url", "says"),
    [("s3://bucket/data", r"pip install 'segops\[team\]'"), ("gs://bucket", "pip install dvc-gs")],
)
def test_dvc_without_the_driver_of_a_remote_says_what_to_install(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, url: str, says: str
) -> None:
    for command in (
        ["git", "init", "-q"],
        [sys.executable, "-m", "dvc", "init", "-q"],
        [sys.executable, "-m", "dvc", "remote", "add", "-q", "-d", "team", url],
    ):
        subprocess.run(command, cwd=tmp_path, check=True, env=pipeline.environment())
    (tmp_path / "data").mkdir()
    (tmp_path / "data/voc.dvc").write_text(
        "outs:\n- md5: 0123456789abcdef0123456789abcdef.dir\n  hash: md5\n  path: voc\n"
    )
    site = tmp_path / "site"
    site.mkdir()
    (site / "sitecustomize.py").write_text(BLOCKED.format(module="dvc_s3"))
    monkeypatch.setenv("PYTHONPATH", f"{site}:{ROOT / 'src'}")
    lines: list[str] = []
    with pytest.raises(SegopsError, match=says):
        tracked.sync_data(tmp_path, Path("data/voc"), lines.append)
    assert not [line for line in lines if "dvc.org" in line or "Traceback" in line]


@pytest.mark.slow
def test_mlflow_without_the_driver_of_its_database(tmp_path: Path) -> None:
    (tmp_path / "dvc.yaml").write_text("stages: {}\n")
    (tmp_path / "params.yaml").write_text("{}\n")
    (tmp_path / "sitecustomize.py").write_text(BLOCKED.format(module="psycopg2"))
    with socket.create_server(("127.0.0.1", 0)) as server:

        def answer() -> None:
            connection, _ = server.accept()
            with connection:
                connection.sendall(b"N")  # PostgreSQL's: no TLS

        threading.Thread(target=answer, daemon=True).start()
        done = subprocess.run(
            ["segops", "rollback", "--reason", "none"], cwd=tmp_path, capture_output=True,
            text=True,
            env=pipeline.environment()
            | {
                "PYTHONPATH": f"{tmp_path}:{ROOT / 'src'}",
                "MLFLOW_TRACKING_URI": f"postgresql://me:secret@127.0.0.1:{server.getsockname()[1]}/none",
            },
        )  # fmt: skip
    assert done.returncode == 1
    assert "pip install 'segops[team]'" in done.stderr
    assert "Traceback" not in done.stderr
    assert "secret" not in done.stderr
