"""A project, a directory with parameters and a lock of its own: real git, real DVC."""

from __future__ import annotations

import os
import shutil
import subprocess
from pathlib import Path

import pytest
import yaml

from segops import paths, pipeline
from segops.cli.common import checkout as chosen
from segops.operate import results, runs
from segops.params.model import ModelParams
from segops.params.train import TrainParams
from segops.pipeline import tracked
from segops.record import lineage
from segops.record.lineage import tag
from segops.record.reproduce import making_script, worktree_params
from segops.record.tracking import tracking_uri
from segops.runtime.errors import SegopsError
from tests.integration.conftest import dvc, git


@pytest.fixture(scope="module")
def template(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A committed checkout with the project `tiles`; both have the same one stage."""
    root = tmp_path_factory.mktemp("projects") / "checkout"
    tiles = root / "tiles"
    (tiles / "data" / "voc").mkdir(parents=True)
    (tiles / "data" / "voc" / "a.txt").write_text("tile\n")
    (root / "src").mkdir()
    (root / "src" / "code.py").write_text("CODE = 1\n")
    stage = {"cmd": "cp params.yaml out.txt", "params": ["train"], "outs": ["out.txt"]}
    (root / "dvc.yaml").write_text(yaml.safe_dump({"stages": {"copy": stage}}))
    (root / "params.yaml").write_text("train: {epochs: 3}\n")
    (tiles / "dvc.yaml").symlink_to("../dvc.yaml")
    (tiles / "params.yaml").write_text("train: {epochs: 4}\nregistry: {model: tiles}\n")
    (root / ".gitignore").write_text(".segops/\n")
    git(root, "init", "--initial-branch", "main")
    assert dvc(root, "init").returncode == 0
    assert dvc(tiles, "add", "data/voc").returncode == 0
    git(root, "add", "-A")
    git(root, "commit", "-m", "first")
    return root


@pytest.fixture
def project(template: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The project of a checkout of this test's own."""
    monkeypatch.setenv("GIT_CONFIG_GLOBAL", os.devnull)
    return shutil.copytree(template, tmp_path / "checkout", symlinks=True) / "tiles"


def test_a_project_has_stages_and_a_lock_of_its_own_and_one_record(
    project: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    root = project.parent
    monkeypatch.chdir(root)
    assert chosen(Path("tiles")) == project
    with pytest.raises(SegopsError, match=r"--project tile: no dvc\.yaml there"):
        chosen(Path("tile"))
    monkeypatch.chdir(project)
    assert [(one.name, one.state) for one in pipeline.states(project)] == [("copy", "stale")]
    assert pipeline.run_stage(project, "copy", print) == "ran"
    assert [(one.name, one.state) for one in pipeline.states(project)] == [("copy", "up to date")]
    assert [(one.name, one.state) for one in pipeline.states(root)] == [("copy", "stale")]
    assert "epochs: 4" in (project / "dvc.lock").read_text()
    assert not (root / "dvc.lock").exists()
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    assert tracking_uri(project) == tracking_uri(root) == f"sqlite:///{root}/mlflow.db"
    (project / "mlflow.db").touch()  # as an earlier segops left it
    assert paths.state_home(project) == project


def test_the_code_of_a_project_is_that_of_its_checkout(project: Path) -> None:
    assert lineage.origin(project).tags[tag("code_differs")] == "false"
    (project.parent / "src" / "code.py").write_text("CODE = 2\n")
    (project / "dvc.yaml").unlink()
    (project / "dvc.yaml").write_text("stages: {}\n")
    patch = lineage.origin(project).artifacts["code.patch"].decode()
    assert "+CODE = 2" in patch
    assert "tiles/dvc.yaml" in patch
    assert lineage.data(project, "data/voc", {}).tags[tag("project")] == "tiles"
    assert tag("project") not in lineage.data(project.parent, "data/voc", {}).tags


def test_a_run_of_a_project_in_a_worktree(project: Path) -> None:
    with runs.opened(project, "night", "HEAD", {"train.lr": 0.5}, print) as work:
        home = project.parent / paths.RUNS / "night" / runs.TREE
        assert work.root == home / "tiles"
        tracked.sync_data(work.root, Path("data/voc"), print)
        assert (work.root / "data" / "voc" / "a.txt").read_text() == "tile\n"
        made = results.commit(work.root, work.run.commit, "x\n")
        changed = git(project, "diff", "--name-only", "main", made).split()
        assert changed == ["tiles/params.yaml"]
    assert [run.name for run in runs.every(project.parent)] == ["night"]


def test_the_script_that_makes_a_model_again_enters_its_project(project: Path) -> None:
    """DVC and Python are stand-ins that print where they are called."""
    root = project.parent
    commit = git(root, "rev-parse", "HEAD")
    (project / "weights.safetensors").touch()
    model = ModelParams(encoder_weights="weights.safetensors")
    replaced = worktree_params(project, model, TrainParams(), {})
    assert replaced == {"model.encoder_weights": '"$main"/tiles/weights.safetensors'}
    bundle = root / ".segops" / "reproduce-1" / "lineage" / "0123"
    bundle.mkdir(parents=True)
    (bundle / "params.yaml").write_text("train: {epochs: 5}\n")
    (bundle / "data.dvc").write_text("outs: []\n")
    commands = root / "bin"
    commands.mkdir()
    for name in ("dvc", "python"):
        (commands / name).write_text(f'#!/bin/sh\necho "{name} in ${{PWD#$TOP}}: $*"\n')
        (commands / name).chmod(0o755)
    script = bundle / "reproduce.sh"
    script.write_text(making_script(commit, commit, "data/voc", replaced, "tiles"))
    done = subprocess.run(
        ["sh", str(script)], cwd=root, capture_output=True, text=True, check=True,
        env={**os.environ, "PATH": f"{commands}:{os.environ['PATH']}", "TOP": str(root)},
    )  # fmt: skip
    tree = root / ".segops" / "reproduce-1" / "worktree"
    called = [line for line in done.stdout.splitlines() if " in /" in line]
    place = f" in /{(tree / 'tiles').relative_to(root)}: "
    assert len(called) >= 6
    assert all(place in line for line in called), called
    assert (tree / "tiles" / "params.yaml").read_text() == "train: {epochs: 5}\n"
    assert (tree / "params.yaml").read_text() == "train: {epochs: 3}\n"
