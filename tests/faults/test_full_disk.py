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
from segops.voc.layout import open_layout
from tests.integration.conftest import committed, reproduced, segops, shared
from tests.support import registry_workspace as made
from tools.sample import generate

__all__ = ["committed", "reproduced", "shared"]

MOUNTED = """
set -e
mount -t tmpfs -o size=256m full "$2"
if [ -n "$3" ]; then cp -a "$3/." "$2/"; fi
free=$(df --output=avail -k "$2" | tail -n 1)
fallocate -l "$((free - $1))k" "$2/.filler"
cd .
shift 3
exec "$@"
"""
WITHIN = 'cd "$0" && segops "$@"; status=$?; eval "$THEN"; exit $status'


def on_full_disk(
    root: Path, place: Path, *command: str, free: int, keep: bool = False, then: str = ":"
) -> subprocess.CompletedProcess[str]:
    """Run a command of segops while `place` is on a disk that is almost full.

    Args:
        root: The working directory.
        place: A directory; its content is hidden, or copied where `keep`.
        command: The words after `segops`.
        free: Kilobytes that are free; a file takes whole pages of 4.
        keep: Whether the disk holds a copy of the content.
        then: A shell command that is run afterwards, while the disk is still there.
    """
    probe = ["unshare", "--map-root-user", "--mount", "mount", "-t", "tmpfs", "full", "/mnt"]
    if subprocess.run(probe, capture_output=True).returncode:
        pytest.skip("this system lets no one mount a file system in a namespace of their own")
    place.mkdir(parents=True, exist_ok=True)
    copy = root.parent / "copied"
    if keep:
        shutil.copytree(place, copy, symlinks=True)
    return subprocess.run(
        ["unshare", "--map-root-user", "--mount", "sh", "-c", MOUNTED, "sh", str(free), str(place),
         str(copy) if keep else "", "sh", "-c", WITHIN, str(root), *command],
        cwd=root,
        env=pipeline.environment() | {"SEGOPS_LIVE": "0", "THEN": then},
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
    ("stage", "place"),
    [
        pytest.param("code", "code", marks=pytest.mark.long),
        pytest.param("validate", "data", marks=pytest.mark.long),
        pytest.param("validate", "reports", marks=pytest.mark.long),
        pytest.param("prepare", "data", marks=pytest.mark.slow),
        pytest.param("augment", "models", marks=pytest.mark.long),
        pytest.param("augment", "reports", marks=pytest.mark.long),
        pytest.param("train", "models", marks=pytest.mark.long),
        pytest.param("train", "plots", marks=pytest.mark.long),
        pytest.param("package", "models", marks=pytest.mark.long),
        pytest.param("export", "models", marks=pytest.mark.long),
        pytest.param("evaluate", "metrics", marks=pytest.mark.long),
        pytest.param("evaluate", "plots", marks=pytest.mark.long),
        pytest.param("evaluate", "reports", marks=pytest.mark.long),
    ],
)
def test_a_stage(reproduced: Path, tmp_path: Path, stage: str, place: str) -> None:
    record = shutil.ignore_patterns("mlflow.db*", "mlartifacts")
    root = shutil.copytree(reproduced, tmp_path / "w", symlinks=True, ignore=record)
    said(on_full_disk(root, root / place, "stage", stage, free=0, keep=True))
    pipeline.run_stage(root, stage, print, force=True)


@pytest.mark.long
def test_a_training_goes_on_without_checkpoints(reproduced: Path, tmp_path: Path) -> None:
    record = shutil.ignore_patterns("mlflow.db*", "mlartifacts")
    root = shutil.copytree(reproduced, tmp_path / "w", symlinks=True, ignore=record)
    done = on_full_disk(root, root / ".segops", "stage", "train", free=16, keep=True)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "no checkpoint could be written: No space left on device" in done.stdout


@pytest.fixture
def root(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    root = made.make(tmp_path / "checkout")
    made.train(root, seed=1)
    return root


def promote(root: Path) -> None:
    """Promote where there is space again."""
    done = subprocess.run(
        ["segops", "promote"], cwd=root, env=pipeline.environment(), capture_output=True, text=True
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert made.aliases(root)["champion"] == "1"
    assert len(made.snapshot(root)["runs"]) == 1


@pytest.mark.parametrize(
    "place",
    [
        pytest.param("mlartifacts", marks=pytest.mark.slow),
        pytest.param(".segops", marks=pytest.mark.long),
        pytest.param(".", marks=pytest.mark.long),
    ],
)
def test_a_promotion(root: Path, place: str) -> None:
    said(on_full_disk(root, root / place, "promote", free=4, keep=True))
    promote(root)


@pytest.mark.long
def test_a_promotion_whose_copy_of_the_ledger_has_no_space(root: Path) -> None:
    done = on_full_disk(root, root / "ledger", "promote", free=0, keep=True)
    assert done.returncode == 0, "the copy is no truth: the registry holds the ledger"
    assert "the copy of the ledger was not written: No space left" in done.stdout + done.stderr
    promote(root)


@pytest.mark.long
def test_predictions(root: Path, tmp_path: Path) -> None:
    target = tmp_path / "masks"
    command = ("predict", "data/voc/JPEGImages", "--model", "models/segmenter")
    said(on_full_disk(root, target, *command, "--output", str(target), free=4))


@pytest.mark.long
def test_the_prediction_log(root: Path, tmp_path: Path) -> None:
    log, masks = tmp_path / "log", tmp_path / "masks"
    command = ("predict", "data/voc/JPEGImages", "--model", "models/segmenter")
    options = ("--output", str(masks), "--log", str(log))
    said(on_full_disk(root, log, *command, *options, free=0))


@pytest.mark.long
def test_a_backup(root: Path, tmp_path: Path) -> None:
    promote(root)
    target = tmp_path / "backups"
    file = str(target / "all.tar.gz")
    done = on_full_disk(root, target, "backup", file, free=8, then=f"ls -A '{target}'")
    said(done)
    assert done.stdout.split()[-1] == ".filler"


@pytest.mark.long
def test_a_restore(root: Path, tmp_path: Path) -> None:
    promote(root)
    file = tmp_path / "all.tar.gz"
    assert segops(root, "backup", str(file)).returncode == 0
    other = made.make(tmp_path / "other")
    again = f"rm .filler; segops restore '{file}' && echo restored"
    done = on_full_disk(other, other, "restore", str(file), free=64, keep=True, then=again)
    assert done.returncode == 1
    assert "Traceback" not in done.stderr
    assert "its disk has 0.1 MB free; the backup needs " in done.stderr
    assert done.stdout.endswith("restored\n"), done.stdout + done.stderr


@pytest.mark.long
def test_other_data(reproduced: Path, tmp_path: Path) -> None:
    root = shutil.copytree(reproduced, tmp_path / "w", symlinks=True)
    other = tmp_path / "other"
    generate(other, train=5, val=2, seed=9, size=(80, 64))
    command = ("data", "use", str(other))
    again = (
        f"rm data/.filler; segops data use '{other}'; cat data/voc/ImageSets/Segmentation/val.txt"
    )
    done = on_full_disk(root, root / "data", *command, free=8, keep=True, then=again)
    said(done)
    assert tuple(done.stdout.splitlines()[-2:]) == open_layout(other).ids("val")


@pytest.mark.long
def test_the_temporary_directory(
    root: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    place = tmp_path / "temporary"
    monkeypatch.setenv("TMPDIR", str(place))
    done = on_full_disk(root, place, "promote", free=0)
    assert done.returncode == 0, "Python takes another temporary directory"
    assert "Traceback" not in done.stdout + done.stderr
    assert list(place.iterdir()) == []
