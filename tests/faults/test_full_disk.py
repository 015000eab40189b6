"""A disk that is full, at every place that segops writes to.

The command runs in a mount namespace of its own, in which a file system of a few kilobytes lies
over one directory; it ends with the command.
"""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path

import pytest

from segops import pipeline
from tests.integration.conftest import committed, reproduced, shared
from tests.support import registry_workspace as made

__all__ = ["committed", "reproduced", "shared"]

MOUNTED = """
set -e
mount -t tmpfs -o size="$1" full "$2"
if [ -n "$3" ]; then cp -a "$3/." "$2/"; fi
shift 3
exec "$@"
"""


def on_full_disk(
    root: Path, place: Path, *command: str, size: str = "16k", keep: bool = False
) -> subprocess.CompletedProcess[str]:
    """Run a command of segops while `place` is on a disk with so much room.

    Args:
        root: The working directory.
        place: A directory; its content is hidden, or copied where `keep`.
        command: The words after `segops`.
        size: The size of the disk, beside what is copied.
        keep: Whether the disk holds a copy of the content.
    """
    probe = ["unshare", "--map-root-user", "--mount", "mount", "-t", "tmpfs", "full", "/mnt"]
    if subprocess.run(probe, capture_output=True).returncode:
        pytest.skip("this system lets no one mount a file system in a namespace of their own")
    place.mkdir(parents=True, exist_ok=True)
    copy = root.parent / "copied"
    if keep:
        shutil.copytree(place, copy, symlinks=True)
        used = int(subprocess.check_output(["du", "-sk", "--apparent-size", str(copy)]).split()[0])
        pages = sum(3 + path.stat().st_size // 4096 for path in copy.rglob("*"))
        size = f"{max(used, 4 * pages) + int(size.removesuffix('k'))}k"
    return subprocess.run(
        ["unshare", "--map-root-user", "--mount", "sh", "-c", MOUNTED, "sh", size, str(place),
         str(copy) if keep else "", "segops", *command],
        cwd=root,
        env=pipeline.environment() | {"SEGOPS_LIVE": "0"},
        capture_output=True,
        text=True,
    )  # fmt: skip


def said(done: subprocess.CompletedProcess[str]) -> str:
    """What a command said that failed with one sentence that says what is short."""
    text = done.stdout + done.stderr
    assert done.returncode == 1, text
    assert "Traceback" not in text
    assert "disk is full" in text or "No space left" in text, text
    return text


@pytest.mark.parametrize(
    ("stage", "place", "size"),
    [
        pytest.param("validate", "data", "16k", marks=pytest.mark.long),
        pytest.param("validate", "reports", "16k", marks=pytest.mark.long),
        pytest.param("prepare", "data/packed", "64k", marks=pytest.mark.slow),
        pytest.param("augment", "models", "16k", marks=pytest.mark.long),
        pytest.param("train", "models", "16k", marks=pytest.mark.long),
        pytest.param("train", ".segops", "16k", marks=pytest.mark.long),
        pytest.param("package", "models/segmenter", "64k", marks=pytest.mark.long),
        pytest.param("evaluate", "metrics", "4k", marks=pytest.mark.long),
    ],
)
def test_a_stage(reproduced: Path, tmp_path: Path, stage: str, place: str, size: str) -> None:
    record = shutil.ignore_patterns("mlflow.db*", "mlartifacts")
    root = shutil.copytree(reproduced, tmp_path / "w", symlinks=True, ignore=record)
    done = on_full_disk(root, root / place, "stage", stage, size=size, keep=True)
    said(done)
    pipeline.run_stage(root, stage, print, force=True)


@pytest.fixture
def root(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    root = made.make(tmp_path / "checkout")
    made.train(root, seed=1)
    return root


@pytest.mark.parametrize(
    "place",
    [
        pytest.param("mlartifacts", marks=pytest.mark.slow),
        pytest.param("ledger", marks=pytest.mark.long),
        pytest.param(".segops", marks=pytest.mark.long),
        pytest.param(".", marks=pytest.mark.long),
    ],
)
def test_a_promotion(root: Path, place: str) -> None:
    here = root if place == "." else root / place
    size = "8k" if place == "mlartifacts" else "0k"
    said(on_full_disk(root, here, "promote", size=size, keep=True))
    if place != ".":  # what was written into the lost copy of the whole checkout is lost
        assert "champion" not in made.aliases(root)
    done = subprocess.run(
        ["segops", "promote"], cwd=root, env=pipeline.environment(), capture_output=True, text=True
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert made.aliases(root)["champion"] == "1"
    assert len(made.snapshot(root)["runs"]) == 1


@pytest.mark.long
def test_predictions(root: Path, tmp_path: Path) -> None:
    target = tmp_path / "masks"
    command = (
        "predict",
        "data/voc/JPEGImages",
        "--model",
        "models/segmenter",
        "--output",
        str(target),
    )
    said(on_full_disk(root, target, *command, size="4k"))


@pytest.mark.long
def test_the_temporary_directory(
    root: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    place = tmp_path / "temporary"
    monkeypatch.setenv("TMPDIR", str(place))
    done = on_full_disk(root, place, "promote", size="4k")
    assert done.returncode in (0, 1), done.stderr
    if done.returncode:
        said(done)
    assert list(place.iterdir()) == []
