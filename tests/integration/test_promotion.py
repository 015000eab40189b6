"""Register, gate, promote, roll back: with a real MLflow, and with crashes in between.

Mistakes are those that promoters in the field made; the rest of the ten stand in
tests/unit/release/test_gate.py.
"""

from __future__ import annotations

import json
import os
import signal
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pandas as pd
import pytest

from segops import files, paths
from segops.data.store import PackedStore
from segops.record.lineage import tag
from segops.record.update import COUNTS, record
from segops.release import pairing, promotion, versions
from segops.release.chain import TamperedError
from segops.release.changes import looking
from segops.release.gate import Decision
from segops.release.ledger import ENTRY
from segops.release.paired_counts import kept_counts, of_version, recorded_counts
from segops.release.register import Registered, register
from segops.release.rollback import adopt, rollback
from segops.release.status import status
from segops.runtime.errors import SegopsError, TransientError
from segops.stages import package
from tests.support import mlflow_server
from tests.support import registry_workspace as made
from tests.support.registry_workspace import aliases, challenge, failed, kinds, lines, release


@pytest.fixture(autouse=True)
def _embedded_database(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)


@pytest.fixture
def root(tmp_path: Path) -> Path:
    return made.make(tmp_path / "checkout")


# The usual life.


def test_releases_follow_each_other(root: Path) -> None:
    registered = challenge(root, seed=1, quality=0.7)
    assert registered == Registered("1", True)
    assert aliases(root) == {"challenger": "1"}
    decision = promotion.gate(root)
    assert decision.verdict == "promoted"
    assert aliases(root) == {"challenger": "1"}
    promotion.promote(root, decision)
    assert aliases(root) == {"champion": "1"}

    assert release(root, seed=2, quality=0.8).verdict == "promoted"
    assert aliases(root) == {"champion": "2", "previous": "1"}
    assert kinds(root) == [
        ("decision", "promoted", "1"),
        ("intent", "promote", "1"),
        ("done", "promote", "1"),
        ("decision", "promoted", "2"),
        ("intent", "promote", "2"),
        ("done", "promote", "2"),
    ]


def test_a_run_in_which_nothing_changed_makes_no_version_and_says_so(root: Path) -> None:
    release(root, seed=1, quality=0.7)
    before, ledger = made.snapshot(root), made.lines(root)
    registered = register(root, record(root))
    assert registered == Registered("1", False)
    decision = promotion.gate(root)
    assert decision.verdict == "unchanged"
    promotion.promote(root, decision)
    assert made.snapshot(root) == before
    assert made.lines(root) == ledger


def test_the_decision_lies_in_workspace_ledger_and_mlflow(root: Path) -> None:
    decision = release(root, seed=1, quality=0.7)
    assert Decision.model_validate(files.read_json(root / paths.DECISION)) == decision
    first = made.lines(root)[0]
    assert first["details"]["evidence"]["score"]["miou"] == pytest.approx(
        files.read_json(root / paths.EVALUATION)["miou"]
    )
    assert first["details"]["evidence"]["champion"]["kind"] == "NoRelease"
    client = made.client(root)
    held = sorted(one.path for one in client.list_artifacts(decision.run_id, "decisions"))
    names = ("0001.json", "0001.statement.zip", "0002.json", "0003.json")
    assert held == [f"decisions/{name}" for name in names]
    copied = json.loads(Path(client.download_artifacts(decision.run_id, held[0])).read_text())
    assert copied == first
    version = client.get_model_version("segops", "1")
    assert version.tags[tag("decision")] == "promoted"
    assert "mIoU" in version.tags[tag("decision_reason")]


def test_the_version_carries_lineage_and_scores(root: Path) -> None:
    from segops.record.lineage import missing

    challenge(root, seed=1, quality=0.7)
    version = made.client(root).get_model_version("segops", "1")
    assert missing(version.tags) == []
    assert 0.2 < float(version.tags[tag("miou")]) < 1


@pytest.mark.slow
def test_a_champion_of_before_precision_was_recorded_stays_one(root: Path) -> None:
    """It is asked for nothing new, and gets the field where its workspace still tells of it."""
    release(root, seed=1, quality=0.7)
    client, name = made.client(root), tag("precision")
    version = client.get_model_version("segops", "1")
    client.delete_model_version_tag("segops", "1", name)
    client.delete_tag(version.run_id, name)
    registered = register(root, record(root))
    assert registered == Registered("1", False)
    assert client.get_model_version("segops", "1").tags[name] == "fp32"
    client.delete_model_version_tag("segops", "1", name)
    assert release(root, seed=2, quality=0.8).verdict == "promoted"
    assert aliases(root) == {"champion": "2", "previous": "1"}


def test_status_tells_all_of_it(root: Path) -> None:
    assert status(root).versions == ()
    release(root, seed=1, quality=0.7)
    release(root, seed=2, quality=0.8)
    release(root, seed=3, quality=0.1)
    found = status(root)
    assert {one.alias: one.version for one in found.versions} == {
        "champion": "2",
        "previous": "1",
        "challenger": "3",
    }
    assert all(one.miou is not None for one in found.versions)
    assert all(len(one.weights) == 12 for one in found.versions)
    assert [(one.what, one.version) for one in found.decisions] == [
        ("promoted to champion", "1"),
        ("promoted to champion", "2"),
        ("rejected", "3"),
    ]
    assert found.tracking_uri.endswith("mlflow.db")


def test_a_decision_on_the_same_evidence_is_written_once(root: Path) -> None:
    release(root, seed=1, quality=0.7)
    release(root, seed=2, quality=0.1)
    ledger = made.lines(root)
    assert promotion.gate(root).verdict == "rejected"
    assert made.lines(root) == ledger
    made.set_params(root, gate={"min_miou": 0.3})
    assert promotion.gate(root).verdict == "rejected"
    assert len(made.lines(root)) == len(ledger) + 1


# The mistakes of promoters that take a registry.


def test_mistake_1_registry_outage_read_as_no_champion(
    root: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    release(root, seed=1, quality=0.8)
    challenge(root, seed=2, quality=0.9)
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "http://127.0.0.1:9")
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "0")
    decision = promotion.gate(root)
    assert decision.verdict == "rejected"
    assert "does not answer" in decision.reason
    promotion.promote(root, decision)
    monkeypatch.delenv("MLFLOW_TRACKING_URI")
    assert aliases(root) == {"champion": "1", "challenger": "2"}


def test_mistake_1_a_registry_that_lost_its_champion_is_no_fresh_one(root: Path) -> None:
    release(root, seed=1, quality=0.8)
    challenge(root, seed=2, quality=0.9)
    made.client(root).delete_registered_model_alias("segops", "champion")
    decision = promotion.gate(root)
    assert decision.verdict == "rejected"
    assert "the ledger names version 1" in decision.reason


def test_mistake_2_rejected_challenger_takes_the_alias_off_the_champion(root: Path) -> None:
    release(root, seed=1, quality=0.8)
    decision = release(root, seed=2, quality=0.6)
    assert decision.verdict == "rejected"
    assert aliases(root) == {"champion": "1", "challenger": "2"}
    with pytest.raises(SegopsError, match="last decision on it is rejected"):
        promotion.promote(root, decision.model_copy(update={"verdict": "promoted"}))
    assert aliases(root) == {"champion": "1", "challenger": "2"}


@pytest.mark.slow
@pytest.mark.long
def test_mistake_3_tolerance_that_ratchets_quality_down(root: Path) -> None:
    """Every model loses less than the margin to the one before; the first stays the measure."""
    verdicts = [
        release(root, seed=seed, quality=0.9 - 0.007 * (seed - 1)).verdict for seed in range(1, 6)
    ]
    assert verdicts[:2] == ["promoted", "promoted"]
    assert verdicts[-1] == "rejected"
    champion = aliases(root)["champion"]
    scores = {
        number: float(tags[tag("miou")]) for number, tags in made.snapshot(root)["versions"].items()
    }
    assert scores[int(champion)] >= scores[1] - 0.02


def test_mistake_6_evaluating_after_promoting(root: Path) -> None:
    """No alias moves before the ledger holds a decision that rests on an evaluation."""
    challenge(root, seed=1, quality=0.8)
    hasty = Decision(verdict="promoted", checks=(), model="segops", version="1")
    with pytest.raises(SegopsError, match="last decision on it is none"):
        promotion.promote(root, hasty)
    (root / paths.EVALUATION).unlink()
    decision = promotion.gate(root)
    assert decision.verdict == "rejected"
    assert "evaluation.json" in decision.reason
    assert aliases(root) == {"challenger": "1"}


@pytest.mark.slow
def test_mistake_7_comparing_stored_scores_made_on_different_data(root: Path) -> None:
    """On new data the champion is scored again from its artifact, whatever score it came with."""
    release(root, seed=1, quality=0.95)
    made.use_data(root, seed=4)
    made.train(root, seed=2, quality=0.6)
    register(root, record(root))
    decision = promotion.gate(root)
    assert decision.verdict == "promoted"
    check = next(one for one in decision.checks if one.name == "champion")
    assert "against 0.0" in check.sentence  # untrained weights, and no longer the 0.9 of before
    shown = made.lines(root)[-1]["details"]["evidence"]["champion"]
    assert shown["val_hash"] == files.read_json(root / paths.EVALUATION)["val_hash"]
    (kept,) = (root / ".segops/judged").iterdir()
    assert set(pd.read_parquet(kept)["image_id"]) == set(
        pd.read_parquet(root / paths.COUNTS)["image_id"]
    )


def test_mistake_8_promoting_the_latest_unconditionally(root: Path) -> None:
    release(root, seed=1, quality=0.8)
    assert challenge(root, seed=2, quality=0.5).version == "2"
    promotion.promote(root, promotion.gate(root))
    assert aliases(root)["champion"] == "1"


@pytest.mark.parametrize("key", ["miou", "val_hash", "bundle_digest", "data_hash"])
def test_mistake_9_a_missing_metric_passes(root: Path, key: str) -> None:
    challenge(root, seed=1, quality=0.8)
    evaluation = files.read_json(root / paths.EVALUATION)
    del evaluation[key]
    files.write_json(root / paths.EVALUATION, evaluation)
    assert promotion.gate(root).verdict == "rejected"


# The gate fails closed.


def spoil_counts(root: Path) -> None:
    counts = pd.read_parquet(root / paths.COUNTS)
    counts["intersection"] = counts["truth"].clip(upper=counts["predicted"])
    counts.to_parquet(root / paths.COUNTS, index=False)


def spoil_evaluation(root: Path) -> None:
    evaluation = files.read_json(root / paths.EVALUATION)
    files.write_json(root / paths.EVALUATION, {**evaluation, "miou": 0.99})


def spoil_artifact(root: Path) -> None:
    (weights,) = root.glob("mlartifacts/models/*/artifacts/artifacts/segmenter/weights.safetensors")
    weights.write_bytes(weights.read_bytes()[:-4] + b"evil")


def spoil_validation(root: Path) -> None:
    verdict = files.read_json(root / paths.VERDICT)
    files.write_json(root / paths.VERDICT, {**verdict, "passed": False})


def spoil_lineage(root: Path) -> None:
    made.client(root).delete_model_version_tag("segops", "1", tag("seed"))


def spoil_parquet(root: Path) -> None:
    (root / paths.COUNTS).write_bytes(b"PAR1")


def train_on_val(root: Path) -> None:
    """A val image among the training images: the whole bundle is made anew with it."""
    made.use_data(root, seed=3)
    store = PackedStore(root / paths.PACKED)
    seen = store.ids("val")[0]
    model = files.read_json(root / paths.SEGMENTER / "model.json")
    model["training_images"][seen] = store.image_sha256(seen)
    files.write_json(root / paths.SEGMENTER / "model.json", model)


@pytest.mark.parametrize(
    ("spoil", "check"),
    [
        (spoil_counts, "mIoU"),
        (spoil_evaluation, "mIoU"),
        (spoil_artifact, "artifact"),
        (spoil_validation, "validation"),
        (spoil_lineage, "lineage"),
        (spoil_parquet, "mIoU"),
        (train_on_val, "artifact"),
    ],
)
def test_spoilt_evidence_rejects(root: Path, spoil: Any, check: str) -> None:
    challenge(root, seed=1, quality=0.8)
    spoil(root)
    decision = promotion.gate(root)
    assert decision.verdict == "rejected"
    assert check in failed(decision)


def test_the_same_pixels_under_other_bytes_count_as_trained_on(root: Path) -> None:
    made.train(root, seed=1, quality=None)
    store = PackedStore(root / paths.PACKED)
    model = files.read_json(root / paths.TRAINED / "model.json")
    model["training_pixels"]["photograph as PNG"] = store.pixel_sha256(store.ids("val")[0])
    files.write_json(root / paths.TRAINED / "model.json", model)
    package.run(root)
    made.evaluate(root, quality=0.8)
    register(root, record(root))
    decision = promotion.gate(root)
    assert failed(decision) == ["unseen images"]
    assert "Trained on 1 image of val" in decision.reason


def test_a_champion_whose_artifact_was_changed_is_not_run(root: Path) -> None:
    release(root, seed=1, quality=0.7)
    spoil_artifact(root)
    decision = release(root, seed=2, quality=0.9)
    assert decision.verdict == "rejected"
    assert "was changed" in decision.reason
    assert aliases(root) == {"champion": "1", "challenger": "2"}


def test_a_champion_whose_artifact_was_changed_is_not_called_unchanged(root: Path) -> None:
    release(root, seed=1, quality=0.7)
    assert promotion.gate(root).verdict == "unchanged"
    spoil_artifact(root)
    decision = promotion.gate(root)
    assert decision.verdict == "rejected"
    assert "its artifact was changed" in decision.reason


def test_a_digest_that_was_edited_by_hand_is_noticed(root: Path) -> None:
    release(root, seed=1, quality=0.7)
    made.client(root).set_model_version_tag("segops", "1", tag("bundle_digest"), "0" * 64)
    decision = release(root, seed=2, quality=0.9)
    assert decision.verdict == "rejected"
    assert "the ledger released" in decision.reason


def alter_counts(root: Path) -> None:
    """Alter the first version's counts in its run, and the tag with their hash."""
    (held,) = root.glob("mlartifacts/*/artifacts/metrics/counts.parquet")
    spoilt = pd.read_parquet(held)
    spoilt["intersection"] = 0
    spoilt.to_parquet(held, index=False)
    client = made.client(root)
    run_id = client.get_model_version("segops", "1").run_id
    client.set_tag(run_id, COUNTS, files.sha256_file(held))


def test_counts_that_the_ledger_does_not_name_are_not_used(
    root: Path, caplog: pytest.LogCaptureFixture
) -> None:
    release(root, seed=1, quality=0.95)
    with looking(root) as registry:
        version = versions.get(registry.store, "segops", "1")
        val_hash = version.tags[tag("val_hash")]
        known = registry.history().counts[version.bundle_digest, val_hash]
        before = recorded_counts(registry.store, version, val_hash, known)
        assert before is not None
        assert {pairing.digest(before)} == known
        alter_counts(root)
        assert recorded_counts(registry.store, version, val_hash, known) is None
        assert "not those that the ledger's decisions name" in caplog.text
        # A version from before decisions held digests: the page shows them, the gate scores it,
        # or takes the counts that it made here before.
        assert recorded_counts(registry.store, version, val_hash) is not None
        kept = kept_counts(root, version.bundle_digest, val_hash)
        kept.parent.mkdir(parents=True)
        # Those of an earlier segops, with a column of which no digest holds anything.
        model = files.read_json(root / paths.SEGMENTER / "model.json")
        trained = next(iter(model["training_pixels"].values()))
        before.assign(image_pixels=trained).to_parquet(kept, index=False)
        ours = of_version(root, registry.store, "segops", version, val_hash)
        assert {pairing.digest(ours.counts)} == known
        assert ours.trained_on == set(model["training_images"].values())


@pytest.mark.slow
def test_each_decision_names_the_counts_of_all_models(root: Path) -> None:
    release(root, seed=1, quality=0.7)
    release(root, seed=2, quality=0.9)
    decided = [entry["details"] for entry in lines(root) if entry["kind"] == "decision"]
    first, second = (one["bundle_digest"] for one in decided)
    assert set(decided[0]["counts"]) == {first}
    assert set(decided[1]["counts"]) == {first, second}
    assert decided[1]["counts"][first] == decided[0]["counts"][first]


@pytest.mark.slow
def test_counts_that_were_altered_in_mlflow_are_made_anew(root: Path) -> None:
    release(root, seed=1, quality=0.95)
    alter_counts(root)
    challenge(root, seed=2, quality=0.7)
    promotion.gate(root)
    assert list((root / ".segops/judged").iterdir())


def test_a_tampered_ledger_stops_everything(root: Path) -> None:
    release(root, seed=1, quality=0.7)
    challenge(root, seed=2, quality=0.8)
    client = made.client(root)
    line = client.get_model_version("segops-ledger", "3").tags[ENTRY]
    changed = line.replace("promote", "rollback")
    client.set_model_version_tag("segops-ledger", "3", ENTRY, changed)
    for step in (promotion.gate, status, lambda root: rollback(root, "why")):
        with pytest.raises(TamperedError, match="line 3 was changed"):
            step(root)
    assert aliases(root) == {"champion": "1", "challenger": "2"}


@pytest.mark.slow
def test_a_decision_on_a_champion_of_before_is_made_anew(root: Path) -> None:
    release(root, seed=1, quality=0.6)
    challenge(root, seed=2, quality=0.7)
    slow = promotion.gate(root)
    release(root, seed=3, quality=0.9)
    assert promotion.promote(root, slow).verdict == "unchanged"  # the workspace holds version 3
    assert aliases(root)["champion"] == "3"


@pytest.mark.slow
def test_a_champion_set_by_hand_is_not_trusted_until_it_is_adopted(root: Path) -> None:
    release(root, seed=1, quality=0.7)
    release(root, seed=2, quality=0.5)
    made.client(root).set_registered_model_alias("segops", "champion", "2")
    decision = release(root, seed=3, quality=0.55)
    assert failed(decision) == ["champion", "best release"]
    assert "`segops adopt 2 --reason WHY`" in decision.reason
    assert not (root / ".segops/judged").exists(), "its code was not run"
    promotion.gate(root)
    assert kinds(root).count(("observed", "observed", "2")) == 1
    assert "version 2 has the alias champion" in status(root).warnings[0].lower()

    with pytest.raises(SegopsError, match="version 2 has the alias champion, not 3"):
        adopt(root, "3", "why")
    adopt(root, "2", "it was tested in the field")
    assert kinds(root)[-1] == ("adopted", "adopt", "2")
    assert not status(root).warnings
    with pytest.raises(SegopsError, match="a release already"):
        adopt(root, "2", "again")
    decision = promotion.gate(root)
    assert failed(decision) == ["best release"]
    assert decision.champion_version == "2"


@pytest.mark.slow
def test_a_champion_set_by_hand_can_be_taken_back(root: Path) -> None:
    release(root, seed=1, quality=0.7)
    release(root, seed=2, quality=0.5)
    made.client(root).set_registered_model_alias("segops", "champion", "2")
    assert "segops rollback --reason WHY" in promotion.gate(root).reason
    result = rollback(root, "not ours")
    assert (result.withdrawn, result.champion) == ("2", "1")
    with pytest.raises(SegopsError, match="was withdrawn: not ours"):
        made.client(root).set_registered_model_alias("segops", "champion", "2")
        adopt(root, "2", "why not")


def test_few_images_that_cannot_decide_are_inconclusive(root: Path) -> None:
    """Much better on every other image and worse on the rest: eight images cannot tell."""
    release(root, seed=1, quality=0.7)
    made.train(root, seed=2, quality=None)
    made.evaluate(root, quality=0.72, wobble=0.25)
    register(root, record(root))
    decision = promotion.gate(root)
    promotion.promote(root, decision)
    assert decision.verdict == "inconclusive", decision.reason
    assert "smallest difference that these images could have shown" in decision.reason
    assert aliases(root) == {"champion": "1", "challenger": "2"}


def test_an_emptied_registry_is_noticed_and_what_to_do_is_said(root: Path) -> None:
    release(root, seed=1, quality=0.8)
    for name in ("segops-ledger", "segops"):
        made.client(root).delete_registered_model(name)
    with pytest.raises(TamperedError, match=r"line 3 is missing.* remove that copy"):
        promotion.gate(root)
    with made.ledger_of(root) as ledger:
        ledger.copy.unlink()
    assert release(root, seed=2, quality=0.9).verdict == "promoted"


@pytest.fixture
def server(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[subprocess.Popen[bytes]]:
    """A real tracking server; MLFLOW_TRACKING_URI names it."""
    with mlflow_server.serving(tmp_path / "server") as (address, process):
        monkeypatch.setenv("MLFLOW_TRACKING_URI", address)
        monkeypatch.setenv("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "0")
        yield process


@pytest.mark.slow
def test_over_a_real_server_until_it_goes_away(root: Path, server: subprocess.Popen[bytes]) -> None:
    assert release(root, seed=1, quality=0.7).verdict == "promoted"
    made.use_data(root, seed=4)
    assert release(root, seed=2, quality=0.8).verdict == "promoted"
    assert list((root / ".segops/judged").iterdir()), "the champion was fetched and scored anew"
    result = rollback(root, "worse")
    assert (result.withdrawn, result.champion) == ("2", "1")
    found = status(root)
    assert [(one.alias, one.version) for one in found.versions] == [("champion", "1")]
    assert {line["registry"] for line in made.lines(root)} == {found.tracking_uri}
    assert not made.snapshot(root)["runs"], "nothing goes into the embedded database"

    os.killpg(server.pid, signal.SIGKILL)
    decision = promotion.gate(root)
    assert decision.verdict == "rejected"
    assert "does not answer" in decision.reason
    with pytest.raises(TransientError, match="does not answer"):
        rollback(root, "why")
