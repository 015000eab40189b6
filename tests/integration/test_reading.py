"""Commands that only read leave nothing behind where there is no record."""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path

import pytest

from segops import files, pipeline
from tests.integration.conftest import ROOT

NO_RECORD = "there is no record of runs and models. `segops run` makes it"
CHAMPION = "models:/segops@champion"
COMMANDS: dict[tuple[str, ...], tuple[int, str]] = {
    ("status",): (0, NO_RECORD),
    ("predict", "{image}"): (1, NO_RECORD),
    ("predict", "{image}", "--model", CHAMPION): (1, NO_RECORD),
    ("predict", "{image}", "--model", "models:/segops/1"): (1, NO_RECORD),
    ("evaluate", CHAMPION): (1, NO_RECORD),
    ("compare", "workspace", CHAMPION): (1, NO_RECORD),
    ("compare", "workspace", "0123abcd"): (1, NO_RECORD),
    ("rollback", "--reason", "none"): (1, NO_RECORD),
    ("models",): (0, "resnet18"),
    ("recipes",): (0, "voc2012"),
    ("run", "--recipe", "voc2012-unet-r50", "--check"): (0, "Nothing was written"),
}
"""Command -> exit status, and words that it says."""


def tree(root: Path) -> dict[str, str]:
    """Every file and directory below `root`, with the content of files; not DVC's own locks."""
    return {
        str(path.relative_to(root)): files.sha256_file(path) if path.is_file() else ""
        for path in root.rglob("*")
        if ".dvc/tmp" not in path.as_posix()
    }


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory, reproduced: Path) -> Path:
    """A directory with a checkout that has a model and no record, and an empty home."""
    base = tmp_path_factory.mktemp("reading")
    (base / "home").mkdir()
    record = shutil.ignore_patterns("mlflow.db*", "mlartifacts", ".segops")
    shutil.copytree(reproduced, base / "checkout", symlinks=True, ignore=record)
    shutil.copytree(ROOT / "recipes", base / "checkout" / "recipes")
    return base


@pytest.mark.parametrize("command", COMMANDS, ids=" ".join)
def test_a_command_that_reads_leaves_nothing_behind(command: tuple[str, ...], place: Path) -> None:
    root, home = place / "checkout", place / "home"
    image = next((root / "data/voc/JPEGImages").iterdir())
    before = tree(place)
    done = subprocess.run(
        ["segops", *(one.format(image=image) for one in command)],
        cwd=root,
        env={
            **{name: value for name, value in pipeline.environment().items()
               if not name.startswith(("XDG_", "MLFLOW_"))},
            "HOME": str(home),
        },
        capture_output=True,
        text=True,
    )  # fmt: skip
    status, words = COMMANDS[command]
    assert done.returncode == status, done.stdout + done.stderr
    assert words in done.stdout + done.stderr
    assert tree(place) == before
