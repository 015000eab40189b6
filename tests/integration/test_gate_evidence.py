"""What the gate counts and looks up beside the scores, on a real registry."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from segops import files, paths
from segops.release import promotion
from tests.support import registry_workspace as made


@pytest.fixture
def root(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    return made.make(tmp_path / "checkout")


def decided(root: Path) -> tuple[dict[str, Any], list[str]]:
    """The evidence of the last decision in the ledger, and the names of the checks that failed."""
    last = [one for one in made.lines(root) if one["kind"] == "decision"][-1]["details"]
    failed = [check["name"] for check in last["checks"] if not check["passed"]]
    return last["evidence"], failed


def test_looks_count_the_versions_that_were_gated_on_this_val(root: Path) -> None:
    made.set_params(root, gate={"max_looks": 2})
    made.release(root, seed=1, quality=0.8)
    assert decided(root)[0]["looks"] == 1
    made.challenge(root, seed=2, quality=0.1)
    promotion.gate(root)
    entries = len(made.lines(root))
    promotion.gate(root)  # the same version on the same evidence
    assert len(made.lines(root)) == entries
    assert decided(root)[0]["looks"] == 2
    made.challenge(root, seed=3, quality=0.8)
    decision = promotion.gate(root)
    (check,) = (one for one in decision.checks if one.name == "looks at val")
    assert (check.observed, check.required, check.passed) == (3, 2, True)
    made.set_params(root, gate={"too_many_looks": "refuse"})
    assert made.failed(promotion.gate(root)) == ["looks at val"]
    made.use_data(root, seed=5)  # a new val: nothing was gated on it
    made.evaluate(root, 0.8)
    made.challenge(root, seed=3, quality=0.8)
    assert promotion.gate(root).verdict == "promoted"
    assert decided(root)[0]["looks"] == 1


def test_floors_and_budgets_are_read_from_evaluation_and_artifact(root: Path) -> None:
    made.set_params(root, gate={"min_boundary_iou": 0.4, "max_ece": 0.1, "max_bundle_mib": 0.01})
    made.challenge(root, seed=1, quality=0.8)
    assert made.failed(promotion.gate(root)) == ["boundary IoU", "calibration error", "bundle size"]
    tree = files.read_json(root / paths.EVALUATION)
    tree["boundary"] = {"iou": 0.5}
    tree["calibration"] = {"expected_calibration_error": 0.05}
    files.write_json(root / paths.EVALUATION, tree)
    made.set_params(root, gate={"max_bundle_mib": 1})
    assert promotion.gate(root).verdict == "promoted"
    evidence, _ = decided(root)
    assert evidence["score"]["boundary_iou"] == 0.5
    bundle = root / paths.SEGMENTER
    size = sum(path.stat().st_size for path in bundle.rglob("*") if path.is_file())
    assert evidence["challenger"]["bundle_bytes"] == size
