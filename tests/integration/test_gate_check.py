"""A check of the gate is one function in a list: what shows or records checks follows from it."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from flows.retrain import Summary, verdict_page
from segops import files, paths
from segops.cli.summary import show_decision
from segops.params.gate import GateParams
from segops.record.lineage import tag
from segops.record.update import record
from segops.release import gate, promotion
from segops.release.check import Check
from segops.release.evidence import Evidence
from segops.release.register import register
from tests.support import registry_workspace as made


def test_a_check_from_outside_is_decided_on_printed_and_recorded(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def size(evidence: Evidence, policy: GateParams) -> Check:
        return Check(
            name="size",
            passed=False,
            observed=9.0,
            required=policy.margin,
            sentence="The bundle has 9 MB, more than it may have.",
        )

    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    monkeypatch.setattr(gate, "CHECKS", (*gate.CHECKS, size))
    root = made.make(tmp_path / "checkout")
    made.train(root, seed=1)
    registered = register(root, record(root))
    decision = promotion.gate(root)
    assert decision.verdict == "rejected"
    assert decision.reason == "The bundle has 9 MB, more than it may have."
    assert decision.checks[-1].name == "size"
    show_decision(decision, registered.version)
    assert "failed     The bundle has 9 MB" in capsys.readouterr().out
    evaluation = files.read_json(root / paths.EVALUATION)
    summary = Summary({}, "segops", "1", True, decision, evaluation, "")
    assert "| size | **failed** | The bundle has 9 MB" in verdict_page(summary)
    client = made.client(root)
    path = client.download_artifacts(decision.run_id, "decisions/0001.json")
    entry = json.loads(Path(path).read_text())
    assert entry["details"]["checks"][-1]["name"] == "size"
    tags = client.get_model_version("segops", registered.version).tags
    assert tags[tag("decision")] == "rejected"
    assert tags[tag("decision_reason")] == decision.reason
