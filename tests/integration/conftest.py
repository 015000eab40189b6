"""Real workspaces: a git repository, DVC, a small generated data set, a small network."""

from __future__ import annotations

import shutil
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml
from filelock import FileLock

from segops import pipeline

ROOT = Path(__file__).parents[2]
COPIED = (
    "src", "flows", "dvc.yaml", "constraints.txt", "pyproject.toml", "prefect.yaml",
    ".dvcignore", ".gitignore",
)  # fmt: skip

SMALL: dict[str, dict[str, Any]] = {
    "data": {"path": "data/voc", "classes": "voc"},
    "validate": {"required_classes": ["background"]},
    # DVC wants every parameter that a stage names to be written.
    "augment": {"crop": [64, 64], "device": "cpu", "copy_paste": {"p": 0.0}},
    "model": {"architecture": "plain_cnn"},
    "train": {"epochs": 3, "batch_size": 4, "warmup_epochs": 0, "selection_share": 0.2},
    "predict": {},
    "export": {},
    "evaluate": {"bootstrap_samples": 200, "speed": False},
    "report": {"pictures": True},
    "registry": {"model": "segops"},
    "gate": {"min_miou": 0.0, "bootstrap_samples": 200},
    "hardware": {"workers": 0, "threads": 1},
}


def git(root: Path, *arguments: str) -> str:
    identity = ["-c", "user.name=test", "-c", "user.email=test@example.org"]
    done = subprocess.run(
        ["git", *identity, *arguments], cwd=root, check=True, capture_output=True, text=True
    )
    return done.stdout.strip()


def dvc(root: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        ["dvc", *arguments],
        cwd=root,
        env=pipeline.environment(),
        capture_output=True,
        text=True,
    )


def segops(root: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        ["segops", *arguments],
        cwd=root,
        env=pipeline.environment(),
        capture_output=True,
        text=True,
    )


def set_params(root: Path, **sections: dict[str, Any]) -> None:
    """Change single values of a workspace's params.yaml."""
    path = root / "params.yaml"
    tree = yaml.safe_load(path.read_text())
    for name, values in sections.items():
        tree.setdefault(name, {}).update(values)
    path.write_text(yaml.safe_dump(tree))


def make_workspace(root: Path) -> None:
    """A committed checkout with 12 train and 6 val images of 80 x 64 pixels, nothing run yet."""
    from tools.sample import generate

    root.mkdir(parents=True)
    for name in COPIED:
        source = ROOT / name
        if source.is_dir():
            shutil.copytree(source, root / name, ignore=shutil.ignore_patterns("__pycache__"))
        else:
            shutil.copy(source, root / name)
    (root / "params.yaml").write_text(yaml.safe_dump(SMALL))
    generate(root / "data" / "voc", train=12, val=6, seed=3, size=(80, 64))
    git(root, "init", "--initial-branch", "main")
    assert dvc(root, "init").returncode == 0
    assert dvc(root, "add", "data/voc").returncode == 0
    git(root, "add", "-A")
    git(root, "commit", "-m", "workspace")


@pytest.fixture(scope="session")
def shared(tmp_path_factory: pytest.TempPathFactory, worker_id: str) -> Path:
    """A directory that all test processes share."""
    base = tmp_path_factory.getbasetemp()
    return base if worker_id == "master" else base.parent


def once(root: Path, make: Callable[[Path], None]) -> Path:
    """Have the first test process that asks make a directory; the others wait for it."""
    finished = root.parent / f"{root.name}.finished"
    with FileLock(root.parent / f"{root.name}.lock"):
        if not finished.exists():
            make(root)
            finished.touch()
    return root


@pytest.fixture(scope="session")
def committed(shared: Path) -> Path:
    """A workspace in which nothing has run. Shared by all test processes: read it only."""
    return once(shared / "committed", make_workspace)


@pytest.fixture
def workspace(committed: Path, tmp_path: Path) -> Path:
    """A workspace of this test's own."""
    return shutil.copytree(committed, tmp_path / "workspace", symlinks=True)


@pytest.fixture(scope="session")
def reproduced(committed: Path, shared: Path) -> Path:
    """A workspace in which `dvc repro` has run once. Shared by all test processes: read it only."""

    def reproduce(root: Path) -> None:
        shutil.copytree(committed, root, symlinks=True)
        done = dvc(root, "repro")
        assert done.returncode == 0, done.stdout + done.stderr

    return once(shared / "reproduced", reproduce)


@pytest.fixture
def reproduced_copy(reproduced: Path, tmp_path: Path) -> Path:
    """A copy of the reproduced workspace that a test may change, with no record yet."""
    target = tmp_path / "workspace"
    # MLflow's record holds absolute paths: a copy of it would write into the shared workspace.
    record = shutil.ignore_patterns("mlflow.db*", "mlartifacts")
    shutil.copytree(reproduced, target, symlinks=True, ignore=record)
    return target


@pytest.fixture
def promoted(reproduced_copy: Path) -> Path:
    """A workspace whose model is champion."""
    done = segops(reproduced_copy, "promote")
    assert done.returncode == 0, done.stdout + done.stderr
    return reproduced_copy
