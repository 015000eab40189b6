"""The additions that ``docs/how-to/extend.md`` walks through, made to a workspace and run."""

from __future__ import annotations

import re
import shutil
from pathlib import Path

import pandas as pd
import pytest

from segops import files
from tests.integration.conftest import ROOT, dvc, segops, set_params

pytestmark = pytest.mark.slow

PAGE = (ROOT / "docs/how-to/extend.md").read_text(encoding="utf-8")


@pytest.fixture(scope="module")
def tree(reproduced: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A copy of the reproduced workspace, to which the tests of this module add."""
    target = tmp_path_factory.mktemp("extend") / "workspace"
    record = shutil.ignore_patterns("mlflow.db*", "mlartifacts")
    shutil.copytree(reproduced, target, symlinks=True, ignore=record)
    return target


@pytest.fixture(autouse=True)
def code_of_the_tree(tree: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PYTHONPATH", str(tree / "src"))
    monkeypatch.setenv("SEGOPS_LIVE", "0")


def add(root: Path, title: str) -> None:
    """Do what a section of the page says, in three files at most."""
    section = PAGE.partition(f"\n## {title}\n")[2].partition("\n## ")[0]
    _, *parts = re.split(r"^\*\*`([^`]+)`\*\*", section, flags=re.MULTILINE)
    assert 2 <= len(parts) <= 6
    for name, text in zip(parts[::2], parts[1::2], strict=True):
        file = root / name
        blocks = re.findall(r"^```(\w+)\n(.*?)^```", text, re.MULTILINE | re.DOTALL)
        for language, block in blocks:
            if language == "diff":
                put(file, block)
            elif file.exists():
                exec(block.replace(f'"{name}"', repr(str(file))))
            else:
                file.write_text(block)


def put(file: Path, block: str) -> None:
    lines = block.splitlines(keepends=True)
    before = "".join(line[1:] for line in lines if line[0] == " ")
    text = file.read_text()
    assert text.count(before) == 1, before
    file.write_text(text.replace(before, "".join(line[1:] for line in lines)))


def run(root: Path, *arguments: str) -> str:
    done = segops(root, *arguments)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def test_a_loss_and_an_architecture(tree: Path) -> None:
    add(tree, "A loss")
    set_params(tree, train={"loss": [{"name": "hinge", "gamma": 1.0}]})
    done = segops(tree, "stage", "train")
    assert "the loss hinge has no option gamma; expected margin" in done.stderr

    add(tree, "An architecture")
    assert "resnet18" in run(tree, "models", "--architecture", "coarse")
    set_params(
        tree,
        model={"architecture": "coarse", "encoder": "resnet18"},
        train={"loss": [{"name": "hinge", "margin": 1000.0}], "epochs": 1},
    )
    run(tree, "stage", "train")
    assert pd.read_csv(tree / "plots/learning.csv")["train_loss"].min() > 900
    run(tree, "stage", "package")
    assert list((tree / "models/segmenter").rglob("networks/coarse.py"))


def test_a_stage(tree: Path) -> None:
    add(tree, "A stage")
    done = dvc(tree, "repro", "sizes")
    assert done.returncode == 0, done.stdout + done.stderr
    assert sum(files.read_json(tree / "metrics/sizes.json").values()) == 18
    assert "'sizes' didn't change" in dvc(tree, "repro", "sizes").stdout
    assert re.search(r"sizes +│ up to date", run(tree, "status"))
