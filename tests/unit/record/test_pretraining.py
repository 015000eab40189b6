"""The run of a pretraining in MLflow: what it holds, and that no result takes another's place."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import pytest
from mlflow import MlflowClient
from mlflow.artifacts import download_artifacts

from segops import files, paths
from segops.params.file import load_params
from segops.record import pretraining, started
from segops.record.lineage import tag
from segops.record.pretraining import ENCODER, record_pretraining
from segops.record.tracking import session, tracking_uri
from segops.release import unnamed
from segops.release.named import Held
from segops.release.versions import Version
from tests.support.registry_workspace import git, put_database


@pytest.fixture
def root(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    put_database(tmp_path)
    (tmp_path / "params.yaml").write_text("data: {classes: voc}\n")
    return tmp_path


def pretrained(root: Path, weights: bytes) -> dict[str, Any]:
    """What `segops pretrain` leaves, with these bytes as weights."""
    result: dict[str, Any] = {
        "fingerprint": "f" * 64,
        "parts": {"data": "d" * 64},
        "weights_sha256": files.sha256_bytes(weights),
        "images": 3,
        "epochs": [{"epoch": 1, "train_loss": 0.5, "lr": 0.1}],
    }
    (root / paths.PRETRAINED).mkdir(parents=True, exist_ok=True)
    (root / paths.PRETRAINED_WEIGHTS).write_bytes(weights)
    files.write_json(root / paths.PRETRAINING, result)
    return result


def client(root: Path) -> MlflowClient:
    return MlflowClient(tracking_uri(root))


def held(root: Path, run: str) -> bytes:
    """The weights that a run holds."""
    name = paths.PRETRAINED_WEIGHTS.name
    got = download_artifacts(run_id=run, artifact_path=name, tracking_uri=tracking_uri(root))
    return Path(got).read_bytes()


def test_each_result_has_a_run_that_holds_its_weights(root: Path) -> None:
    first = pretrained(root, b"first")
    one = record_pretraining(root, first)
    assert record_pretraining(root, first) == one
    second = pretrained(root, b"second")
    two = record_pretraining(root, second)
    assert two != one
    assert [held(root, run) for run in (one, two)] == [b"first", b"second"]
    tags = [client(root).get_run(run).data.tags[ENCODER] for run in (one, two)]
    assert tags == [first["weights_sha256"], second["weights_sha256"]]
    listed = {one.path for one in client(root).list_artifacts(two)}
    assert listed >= {paths.PRETRAINING.name, paths.PRETRAINED_WEIGHTS.name}
    assert record_pretraining(root, pretrained(root, b"first")) == one


def test_a_record_that_was_cut_off_is_continued(
    root: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    result = pretrained(root, b"weights")
    with monkeypatch.context() as cut:
        cut.setattr(pretraining, "ENCODER", "segops.other")  # the last tag is not set
        begun = record_pretraining(root, result)
    assert record_pretraining(root, result) == begun
    assert client(root).get_run(begun).data.tags[ENCODER] == result["weights_sha256"]


def test_a_clean_up_leaves_the_encoder_that_a_version_or_a_workspace_needs(root: Path) -> None:
    results = [pretrained(root, content) for content in (b"released", b"here", b"nobody's")]
    made = [record_pretraining(root, pretrained(root, b"released"))]
    made += [record_pretraining(root, pretrained(root, b"here"))]
    made += [record_pretraining(root, pretrained(root, b"nobody's"))]
    released, here, _ = (one["weights_sha256"] for one in results)
    tags = {"segops.start_sha256": released}
    version = Held("segops", Version("1", "", tags), 0.0, "", ("released",))

    def going(kept: set[str], weights: set[str], since: float = math.inf) -> set[str]:
        scope = unnamed.Scope(root, (), weights, since)
        with session(root, load_params(root).registry) as store:
            found = list(unnamed.find(store, scope, [version], kept))
        return {run for one in found for run in made if run in one.name}

    assert going({"segops version 1"}, {here}) == {made[2]}
    assert going({"segops version 1"}, set()) == {*made[1:]}
    assert going(set(), set()) == {*made}
    assert going(set(), set(), since=-1.0) == {*made[1:]}, "a young version may be named next"


def test_it_names_the_code_from_which_it_started(root: Path) -> None:
    git(root, "init", "-q")
    git(root, "commit", "-q", "--allow-empty", "-m", "first")
    result = pretrained(root, b"weights")
    started.keep(root, result["fingerprint"], goes_on=False)
    before = git(root, "rev-parse", "HEAD").strip()
    git(root, "commit", "-q", "--allow-empty", "-m", "while it ran")
    run = client(root).get_run(record_pretraining(root, result))
    assert run.data.tags[tag("code_commit")] == before
