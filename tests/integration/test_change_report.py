"""`segops report`: what a change does, from what git and DVC's cache hold."""

from __future__ import annotations

import hashlib
import json
import shutil
from pathlib import Path

import pytest
import yaml
from typer.testing import CliRunner

from segops import paths
from segops.cli import app
from segops.operate.change_report import report
from segops.release import promotion
from segops.runtime.errors import SegopsError
from tests.support import registry_workspace as made


@pytest.fixture
def root(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A workspace whose commit `before` holds the results of a run, below `results/`."""
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    root = made.make(tmp_path / "checkout")
    made.train(root, seed=1, quality=0.6)
    tree = json.loads((root / paths.EVALUATION).read_text())
    tree["classes"]["<b>|`rare`"] = tree["classes"]["background"]
    (root / "results/metrics").mkdir(parents=True)
    (root / "results" / paths.EVALUATION).write_text(json.dumps(tree, indent=2) + "\n")
    commit(root, "results", "params.yaml", "data/voc.dvc", "dvc.lock")
    made.git(root, "branch", "before")
    return root


def commit(root: Path, *names: str) -> None:
    made.git(root, "add", "-f", *names)
    made.git(root, "commit", "-q", "-m", "results")


def keep_in_cache(root: Path, *outputs: Path) -> None:
    """Let dvc.lock name outputs of the workspace, and DVC's cache hold them."""
    (root / ".dvc").mkdir(exist_ok=True)
    (root / ".dvc/config").touch()
    named = []
    for path in outputs:
        digest = hashlib.md5((root / path).read_bytes(), usedforsecurity=False).hexdigest()
        target = root / ".dvc/cache/files/md5" / digest[:2] / digest[2:]
        target.parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(root / path, target)
        named.append({"path": str(path), "md5": digest})
    lock = {"schema": "2.0", "stages": {"evaluate": {"cmd": "", "outs": named}}}
    (root / "dvc.lock").write_text(yaml.safe_dump(lock))


def test_metrics_classes_parameters_and_data_are_compared(root: Path) -> None:
    made.train(root, seed=2, quality=0.8)
    made.set_params(root, train={"lr": 0.5}, registry={"card": {"limits": "a|b <i>"}})
    text = report(root, "before")
    assert text.startswith("<!-- segops report -->\n\n## Model of this change against before\n")
    assert "| mIoU | 0." in text
    assert "No interval of the difference: metrics/counts.parquet" in text
    assert r"| &lt;b&gt;\|\`rare\` | 0." in text
    assert "| train.lr | not set | 0.5 |" in text
    assert r"| registry.card.limits | not set | " in text
    assert r"a\|b &lt;i&gt;" in text
    assert "### Data\n\nThe same." in text
    assert "No preview: segops has no version with this workspace's model" in text
    assert "Of the policy alone: mIoU is 0." in text
    rows = [line for line in text.splitlines() if line.startswith("| bird")]
    assert len(rows) == 1
    assert "| +0." in rows[0]


def test_the_difference_has_an_interval_where_the_cache_holds_the_counts(root: Path) -> None:
    keep_in_cache(root, paths.EVALUATION, paths.COUNTS)
    commit(root, "dvc.lock")
    made.git(root, "branch", "cached")
    made.train(root, seed=2, quality=0.8)
    text = report(root, "cached")
    assert "Difference of mIoU on the same 8 images: +0." in text
    assert "rare" not in text, "dvc.lock names another file than results/"
    (root / paths.EVALUATION).unlink()
    shutil.rmtree(root / ".dvc/cache")
    text = report(root, "before")
    assert "results/metrics/evaluation.json of this checkout is of an earlier run" in text


@pytest.mark.slow
def test_a_checkout_without_outputs_reads_what_its_run_committed(root: Path) -> None:
    made.challenge(root, seed=2, quality=0.8)
    decision = promotion.gate(root)
    (root / "results/decision.json").write_text(decision.model_dump_json())
    shutil.copy(root / paths.EVALUATION, root / "results" / paths.EVALUATION)
    (root / "data/voc.dvc").write_text("outs:\n- md5: 4567.dir\n  path: voc\n")
    commit(root, "results", "data/voc.dvc")
    clone = root.with_name("clone")
    made.git(root, "clone", "-q", str(root), str(clone))
    shutil.copy(root / "params.yaml", clone)
    text = report(clone, "origin/before")
    assert "It decided in the run: **promoted**." in text
    assert "| mIoU | passed |" in text
    assert "Not compared: " in text
    assert not (clone / "mlflow.db").exists()


def test_the_preview_of_the_gate_writes_nothing(
    root: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    made.challenge(root, seed=2, quality=0.8)
    before = made.snapshot(root)
    monkeypatch.chdir(root)
    done = CliRunner().invoke(app, ["report", "--against", "before", "--output", "report.md"])
    assert done.exception is None, done.output
    text = (root / "report.md").read_text()
    assert "It would decide now: **promoted**." in text
    assert made.snapshot(root) == before
    assert made.lines(root) == []


def test_a_side_without_metrics_says_so(root: Path) -> None:
    made.git(root, "rm", "-q", "-r", "--cached", "results")
    made.git(root, "commit", "-q", "-m", "nothing")
    (root / paths.EVALUATION).unlink()
    text = report(root, "HEAD")
    assert "HEAD has no metrics/evaluation.json, neither in git nor in DVC's cache" in text
    assert "this checkout has no metrics/evaluation.json" in text
    with pytest.raises(SegopsError, match="git knows no such commit"):
        report(root, "nowhere")
