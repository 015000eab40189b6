"""One training packaged twice: two bundles of the same weights, two versions, one run."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest
import yaml

from segops import files, paths
from segops.params.file import load_params
from segops.predict import package as bundles
from segops.record import artifact, kept_lineage, lineage, runs
from segops.record.lineage import PACKAGE_FIELDS, tag
from segops.record.reproduce import TRAINED_WITH
from segops.record.tracking import session
from segops.record.update import record
from segops.release.paired_counts import recorded_counts
from segops.release.register import Registered, register
from segops.release.versions import Version, get
from segops.runtime.errors import SegopsError
from segops.stages import package
from tests.support import registry_workspace as made


@pytest.fixture
def root(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A workspace whose model, packaged plainly, is version 1."""
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    root = made.make(tmp_path / "checkout")
    made.train(root, seed=1)
    assert registered(root).version == "1"
    return root


def registered(root: Path) -> Registered:
    return register(root, record(root))


def version(root: Path, number: str) -> Version:
    with session(root, load_params(root).registry) as store:
        return get(store, "segops", number)


def test_each_version_says_what_is_true_of_its_own_bundle(root: Path) -> None:
    first = version(root, "1")
    plain = files.read_json(root / paths.PACKAGE)
    weights = files.sha256_file(root / paths.SEGMENTER / "weights.safetensors")
    made.set_params(root, predict={"flip": True})
    package.run(root)
    mirrored = files.read_json(root / paths.PACKAGE)
    assert mirrored["weights_sha256"] == plain["weights_sha256"] == weights
    assert mirrored["bundle_digest"] != plain["bundle_digest"] == first.bundle_digest

    # Not evaluated yet: nothing of the other bundle's evaluation is said of it.
    assert registered(root).version == "2"
    second = version(root, "2")
    assert second.run_id == first.run_id
    assert second.bundle_digest == mirrored["bundle_digest"]
    assert second.miou is None
    assert {"bundle_digest", "val_hash", "params"} & set(lineage.missing(second.tags)) == {
        "val_hash",
        "params",
    }

    made.evaluate(root, quality=0.6)
    assert registered(root).version == "2"
    second = version(root, "2")
    assert second.miou is not None
    assert second.miou != first.miou
    assert lineage.missing(second.tags) == []
    for name, field in PACKAGE_FIELDS.items():
        assert second.tags.get(tag(name)) == second.tags.get(tag(field))
    assert version(root, "1").tags == first.tags

    # Both bundles' parameters are kept, and no version is judged by the other's counts.
    client = made.client(root)
    for one, flip in ((first, None), (second, True)):
        path = f"lineage/{one.bundle_digest[:12]}/params.yaml"
        local = client.download_artifacts(first.run_id, path)
        tree = yaml.safe_load(Path(local).read_text())
        assert tree.get("predict", {}).get("flip") is flip
        assert files.sha256_file(Path(local)) == one.tags[tag("params")]
    kept = client.download_artifacts(first.run_id, f"lineage/{TRAINED_WITH}")
    assert "flip" not in yaml.safe_load(Path(kept).read_text()).get("predict", {})
    with session(root, load_params(root).registry) as store:
        for one, flip in ((first, "false"), (second, "true")):
            model = artifact.find(store, first.run_id, one.bundle_digest)
            assert model is not None
            assert model.params["predict.flip"] == flip
        assert recorded_counts(store, first, first.tags[tag("val_hash")]) is None
        assert recorded_counts(store, second, second.tags[tag("val_hash")]) is not None


def test_code_that_changed_after_the_training_is_told_apart(root: Path) -> None:
    trained_at = version(root, "1").tags[tag("code_commit")]
    (root / "constraints.txt").write_text("torch==2.15.0\n# another\n")
    made.git(root, "commit", "-qam", "predicts in another way")
    made.set_params(root, predict={"flip": True})
    package.run(root)
    made.evaluate(root, quality=0.8)
    assert registered(root).version == "2"
    tags = version(root, "2").tags
    assert tags[tag("code_commit")] == trained_at
    again = version(root, "2")
    with session(root, load_params(root).registry) as store:
        kept = kept_lineage.fetch(store, "it", again.run_id, again.tags, root)
        first = kept.artifacts[TRAINED_WITH]
        assert files.sha256_bytes(first) == tags[tag("trained_with")] != tags[tag("params")]
        runs.put(store, again.run_id, f"lineage/{TRAINED_WITH}", first + b"# other\n")
        with pytest.raises(SegopsError, match=r"trained_with\.yaml of its run has the digest"):
            kept_lineage.fetch(store, "it", again.run_id, again.tags, root)
    assert tags[tag("package_commit")] == made.git(root, "rev-parse", "HEAD").strip() != trained_at


def test_words_that_changed_after_the_packaging_are_not_where_it_was_made(
    root: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The bundle holds copies of the code, words and all; other words make another bundle."""
    first = version(root, "1").tags
    reworded = tmp_path / "src" / "runtime"
    shutil.copytree(bundles.ROOM, reworded, ignore=shutil.ignore_patterns("__pycache__"))
    with (reworded / "windows.py").open("a") as file:
        file.write("# In other words.\n")
    shutil.copy(bundles.ROOM.with_name("__init__.py"), reworded.parent)
    monkeypatch.setattr(bundles, "ROOM", reworded)
    (root / "constraints.txt").write_text("torch==2.15.0\n# another\n")
    made.git(root, "commit", "-qam", "other words")
    made.evaluate(root, quality=0.7)
    record(root)
    run_tags = made.client(root).get_run(version(root, "1").run_id).data.tags
    for name in ("package_commit", "reproduce"):
        assert run_tags[tag(name)] == first[tag(name)], name
    assert run_tags[tag("val_hash")]

    # A bundle that is new to the run: nothing is said where nothing is known.
    monkeypatch.undo()
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    made.set_params(root, predict={"flip": True})
    package.run(root)
    monkeypatch.setattr(bundles, "ROOM", reworded)
    made.evaluate(root, quality=0.8)
    assert {"reproduce"} <= set(lineage.missing(version(root, registered(root).version).tags))
