"""What the gate counts and looks up beside the scores, on a real registry."""

from __future__ import annotations

import hashlib
from pathlib import Path
from typing import Any

import pytest
import yaml

from segops import files, paths
from segops.record.lineage import PREFIX, tag
from segops.record.update import record
from segops.record.weights import LICENCE
from segops.release import promotion, statement
from segops.release.register import register
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


@pytest.mark.slow
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


def from_version(root: Path, number: str, seed: int) -> None:
    """Leave a training that started from a version, recorded and registered."""
    parent = made.client(root).get_model_version("segops", number).tags[tag("weights_sha256")]
    made.train(root, seed)
    tree = files.read_json(root / paths.TRAINING)
    tree |= {"start_model": f"models:/segops/{number}", "start_sha256": parent}
    files.write_json(root / paths.TRAINING, tree)
    register(root, record(root))


def licence_of(root: Path) -> dict[str, Any]:
    promotion.promote(root, promotion.gate(root))
    licence: dict[str, Any] = decided(root)[0]["licence"]
    return licence


def test_the_licence_of_the_weights_is_recorded_and_inherited(root: Path) -> None:
    mlflow = made.client(root)
    pretrained = {"architecture": "unet", "encoder_weights": "swsl"}
    made.set_params(root, model=pretrained, gate={"allowed_weight_licences": ["mit"]})
    registered = made.challenge(root, seed=1, quality=0.8)
    version = mlflow.get_model_version("segops", registered.version)
    assert version.tags[LICENCE] == "cc-by-nc-4.0"
    assert mlflow.get_run(version.run_id).data.tags[LICENCE] == "cc-by-nc-4.0"
    assert licence_of(root)["weights"] == "resnet18/swsl"
    assert decided(root)[1] == ["weights licence"]
    # A tag that was edited by hand decides nothing, here or of versions that start from this one.
    mlflow.set_model_version_tag("segops", registered.version, LICENCE, "mit")
    made.set_params(root, model={"encoder_weights": None})
    from_version(root, registered.version, seed=2)
    found = licence_of(root)
    assert (found["weights"], found["name"]) == ("models:/segops/1", "cc-by-nc-4.0")


@pytest.mark.slow
def test_a_version_of_before_has_an_unknown_licence(root: Path) -> None:
    """It was registered before licences were recorded, and no decision holds one."""
    registered = made.challenge(root, seed=1, quality=0.8)
    made.client(root).delete_model_version_tag("segops", registered.version, LICENCE)
    from_version(root, registered.version, seed=2)
    assert licence_of(root)["name"] == "unknown"
    # A model of another name with the same weights states no licence for it.
    client, version = made.client(root), registered.version
    client.create_registered_model("other")
    tags = client.get_model_version("segops", version).tags | {LICENCE: "apache-2.0"}
    client.create_model_version("other", "file:///nowhere", tags=tags)
    assert licence_of(root)["name"] == "unknown"


def test_a_file_has_the_licence_that_the_user_states(root: Path) -> None:
    own = "weights/own.safetensors"
    made.set_params(
        root,
        model={"architecture": "unet", "encoder_weights": own},
        gate={"allowed_weight_licences": ["Apache-2.0"]},
    )
    registered = made.challenge(root, seed=1, quality=0.8)
    assert made.failed(promotion.gate(root)) == ["weights licence"]
    assert licence_of(root)["name"] == "unknown"
    made.set_params(root, gate={"stated_weight_licences": {own: "Apache-2.0"}})
    assert licence_of(root) == {
        "kind": "Licence", "weights": own, "name": "apache-2.0", "stated": True,
    }  # fmt: skip
    assert made.aliases(root)["champion"] == registered.version
    tags = made.client(root).get_model_version("segops", registered.version).tags
    assert tags[LICENCE] == "unknown"


def test_the_digests_of_what_a_model_was_made_from_are_materials(root: Path) -> None:
    made.train(root, seed=1)
    tree = files.read_json(root / paths.TRAINING)
    made_from = {"start_sha256": "5" * 64, "teacher_model": "models:/segops/9"}
    files.write_json(root / paths.TRAINING, tree | made_from | {"teacher_digest": "6" * 64})
    made.set_params(root, model={"architecture": "unet", "encoder_weights": "swsl"})
    registered = register(root, record(root))
    promotion.promote(root, promotion.gate(root))
    tags = made.client(root).get_model_version("segops", registered.version).tags
    materials = {one.name: one for one in statement.materials(tags, PREFIX)}
    assert materials["encoder weights"].digest == {"sha256": "5" * 64}
    assert materials["encoder weights"].annotations == {"licence": "cc-by-nc-4.0"}
    assert materials["teacher"].digest == {"sha256": "6" * 64}
    assert tags[tag("teacher_model")] == "models:/segops/9"


def test_params_that_were_edited_after_the_training_do_not_count(root: Path) -> None:
    made.challenge(root, seed=1, quality=0.8)
    digest = hashlib.md5((root / paths.TRAINING).read_bytes(), usedforsecurity=False).hexdigest()
    locked = {
        "outs": [{"path": paths.TRAINING.as_posix(), "hash": "md5", "md5": digest}],
        "params": {"params.yaml": {"model": {"encoder": "mit_b0", "encoder_weights": "imagenet"}}},
    }
    (root / "dvc.lock").write_text(yaml.safe_dump({"schema": "2.0", "stages": {"train": locked}}))
    assert licence_of(root)["name"] == "nvidia-source-code-license"
    made.train(root, seed=2)  # outside DVC: the lock is of another training
    register(root, record(root))
    found = licence_of(root)
    assert found["name"] == "unknown"
    assert found["weights"] == "metrics/training.json (dvc.lock names another)"
