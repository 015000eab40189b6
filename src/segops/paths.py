"""Where things lie in a workspace.

``dvc.yaml`` names the same outputs (a test compares), so a path decides nothing about a result
that DVC does not see by itself: :mod:`segops.code` leaves this module out of what it hashes.
"""

from __future__ import annotations

import os
import re
import subprocess
from pathlib import Path

from segops.runtime.errors import SegopsError

# Outputs of the stages, relative to the workspace.
FACTS = Path("data/facts.parquet")
VERDICT = Path("data/verdict.json")
PACKED = Path("data/packed")
POLICY = Path("models/augmentation.json")
TRAINED = Path("models/trained")
SEGMENTER = Path("models/segmenter")
PACKAGE = Path("models/package.json")
EXPORTS = Path("models/export")
LAST_WEIGHTS = Path("models/last.safetensors")
TRAINING = Path("metrics/training.json")
EVALUATION = Path("metrics/evaluation.json")
EXPORT_PARITY = Path("metrics/exports.json")
COUNTS = Path("metrics/counts.parquet")
KEPT_MASKS = Path("metrics/kept_masks.json")
LEARNING_CURVES = Path("plots/learning.csv")
CONFUSION_PLOT = Path("plots/confusion.csv")
CLASS_PLOT = Path("plots/class_iou.csv")
VALIDATION_JSON = Path("reports/validation.json")
VALIDATION_PAGE = Path("reports/validation.html")
AUGMENTATION_SHEET = Path("reports/augmentation.png")
EVALUATION_PAGE = Path("reports/evaluation.html")
IMAGE_TABLE = Path("reports/images.csv")

# What `segops pretrain` writes.
PRETRAINED = Path("models/pretrained")
PRETRAINED_WEIGHTS = PRETRAINED / "encoder.safetensors"
PRETRAINING = PRETRAINED / "pretraining.json"

# State that is no output: the copies of ledgers; locks, resume state, live history, kept scores.
LEDGER = Path("ledger")
EXPORT_LIST = "exports.json"
"""In the directory of the exports: their digests by the name of their form."""
STATE = Path(".segops")
RUN_LOCK = STATE / "run.lock"
STAGE_LOCK = STATE / "stage.lock"
RUNNING = STATE / "running.json"
FAILURE = STATE / "failure.json"
HISTORY = STATE / "history.jsonl"
RESUME = STATE / "resume"
PRETRAIN_RESUME = STATE / "pretrain"
KEPT_CHAMPION = STATE / "reference"
COMPARED = STATE / "compared"
JUDGED = STATE / "judged"
LABEL_AUDIT = STATE / "label_audit.json"
REPRODUCE_LOCK = STATE / "reproduce.lock"
RUNS = STATE / "runs"
DECISION = STATE / "decision.json"
TEST_SCORES = LEDGER / "test_scores.jsonl"


def code_of(stage: str) -> Path:
    """What the stage ``code`` writes of another stage, relative to the workspace."""
    return Path("code") / f"{stage}.json"


def workspace(start: Path | None = None) -> Path:
    """The root of the checkout: the nearest directory at or above `start` that holds ``dvc.yaml``.

    Raises:
        SegopsError: There is none, or its path cannot be used.
    """
    start = (start or Path.cwd()).resolve()
    for directory in (start, *start.parents):
        if (directory / "dvc.yaml").is_file():
            # SQLite's address ends at a ?, MLflow decodes %41, and DVC formats lines of progress
            # with the path.
            if bad := sorted(set(re.findall(r"[?{}]|%[0-9a-fA-F]{2}", str(directory)))):
                raise SegopsError(
                    f"{directory}: the path of a checkout must not hold {' or '.join(bad)}: DVC or "
                    "MLflow would fail. Move the checkout to another path."
                )
            return directory
    raise SegopsError(f"{start}: no dvc.yaml here or above. Run segops inside a segops checkout.")


def checkout(root: Path) -> Path:
    """The root of the checkout that a workspace lies in.

    It is the workspace itself, but for a project: a directory of a checkout with a ``dvc.yaml`` of
    its own.
    """
    root = root.resolve()
    if not (root / ".dvc").is_dir():
        for parent in root.parents:
            if (parent / ".dvc").is_dir() and (parent / "dvc.yaml").is_file():
                return parent
    return root


def state_home(root: Path) -> Path:
    """The main checkout of `root`, where ``mlflow.db``, its artifacts and the ledger live.

    A git worktree, the temporary copy of ``dvc exp run --temp`` and a project all lead back to it.

    Raises:
        SegopsError: Git refuses the checkout, because it belongs to another user.
    """
    root = root.resolve()
    if not (root / "mlflow.db").is_file():  # an earlier segops took a project for a checkout
        root = checkout(root)
    for parent in root.parents:
        if parent.parts[-3:] == (".dvc", "tmp", "exps"):
            return parent.parents[2]
    found = subprocess.run(
        ["git", "rev-parse", "--path-format=absolute", "--show-toplevel", "--git-common-dir"],
        cwd=root,
        env={**os.environ, "LC_ALL": "C"},
        capture_output=True,
        text=True,
        check=False,
    )
    if "dubious ownership" in found.stderr:
        raise SegopsError(
            f"{root}: the checkout belongs to another user, and git reads no such checkout. "
            f"`git config --global --add safe.directory '{root}'` lets it, or work in a clone of "
            "yours."
        )
    if found.returncode == 0:
        toplevel, common = (Path(line) for line in found.stdout.splitlines()[:2])
        if toplevel.resolve() == root and common.name == ".git":
            return common.parent
    return root
