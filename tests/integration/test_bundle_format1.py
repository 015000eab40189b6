"""A version whose bundle is of format 1: scored by the gate, compared, predicted with, rolled back."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from segops import files, paths
from segops.predict.bundle import load_bundle
from segops.predict.trained import weights_sha256
from segops.registry import promotion
from segops.registry.compare import compare
from segops.registry.record import record
from segops.registry.register import register
from segops.registry.resolve import resolved
from segops.predict.package import package

from . import registry_workspace as made

BUNDLES = Path(__file__).parents[1] / "bundles"


@pytest.fixture
def root(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A workspace whose champion, version 1, is the bundle of format 1."""
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    root = made.make(tmp_path / "checkout")
    made.train(root, seed=1, quality=None)
    shutil.rmtree(root / paths.SEGMENTER)
    shutil.copytree(BUNDLES / "format1", root / paths.SEGMENTER)
    training = files.read_json(root / paths.TRAINING)
    training["weights_sha256"] = weights_sha256(root / paths.SEGMENTER)
    files.write_json(root / paths.TRAINING, training)
    made.evaluate(root, 0.6)
    register(root, record(root))
    promotion.promote(root, promotion.gate(root))
    assert made.aliases(root) == {"champion": "1"}
    return root


def test_it_is_scored_compared_and_rolled_back_to(root: Path) -> None:
    made.use_data(root, seed=4)  # other images: the gate scores the champion from its artifact
    decision = made.release(root, seed=2, quality=0.8)
    assert decision.verdict == "promoted"
    assert len(list((root / ".segops/judged").iterdir())) == 1

    found = compare(["models:/segops@previous", "workspace"], root, root / "page.html")
    digests = [one["bundle_digest"] for one in found.evaluations]
    assert digests[0] == files.sha256_tree(BUNDLES / "format1") != digests[1]

    promotion.rollback(root, "worse in the field")
    assert made.aliases(root) == {"champion": "1"}
    with resolved("models:/segops@champion", root) as bundle:
        mask, _ = load_bundle(bundle).predict_bytes((BUNDLES / "picture.png").read_bytes())
    assert mask == (BUNDLES / "format1_mask.png").read_bytes()


def test_packaging_its_weights_again_writes_format_2(root: Path) -> None:
    package(BUNDLES / "format1", root / paths.SEGMENTER)
    again = load_bundle(root / paths.SEGMENTER)
    assert again.model["format"] == 2
    mask, _ = again.predict_bytes((BUNDLES / "picture.png").read_bytes())
    assert mask == (BUNDLES / "format1_mask.png").read_bytes()
