"""A version whose bundle is of format 1: the gate scores it, and it is rolled back to."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from segops import files, paths
from segops.predict.bundle import bundle_digest, load_bundle
from segops.predict.package import package
from segops.record import update
from segops.release import promotion
from segops.release.compare_models import compare
from segops.release.register import register
from segops.release.resolve import resolved
from segops.release.rollback import rollback
from tests.support import registry_workspace as made
from tests.support.bundles import weights_sha256

BUNDLES = Path(__file__).parents[1] / "bundles"


@pytest.fixture
def root(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A workspace whose champion, version 1, is the bundle of format 1."""
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    root = made.make(tmp_path / "checkout")
    made.train(root, seed=1, quality=None)
    shutil.rmtree(root / paths.SEGMENTER)
    shutil.copytree(BUNDLES / "format1", root / paths.SEGMENTER)
    weights = {"weights_sha256": weights_sha256(root / paths.SEGMENTER)}
    digest = {"bundle_digest": bundle_digest(root / paths.SEGMENTER)}
    for path, changed in ((paths.TRAINING, weights), (paths.PACKAGE, weights | digest)):
        files.write_json(root / path, files.read_json(root / path) | changed)
    made.evaluate(root, 0.6)
    with monkeypatch.context() as patch:
        # It was recorded by the code that packaged it, which knew where that was done.
        patch.setattr(update, "is_by_this_code", lambda *_: True)
        register(root, update.record(root))
    decision = promotion.gate(root)
    assert decision.verdict == "promoted", decision.reason
    promotion.promote(root, decision)
    return root


@pytest.mark.slow
def test_it_is_scored_compared_and_rolled_back_to(root: Path) -> None:
    made.use_data(root, seed=4)  # other images: the gate scores the champion from its artifact
    decision = made.release(root, seed=2, quality=0.8)
    assert decision.verdict == "promoted"
    assert len(list((root / ".segops/judged").iterdir())) == 1

    found = compare(["models:/segops@previous", "workspace"], root, root / "page.html")
    digests = [one["bundle_digest"] for one in found.evaluations]
    assert digests[0] == files.sha256_tree(BUNDLES / "format1") != digests[1]

    rollback(root, "worse in the field")
    assert made.aliases(root) == {"champion": "1"}
    with resolved("models:/segops@champion", root) as bundle:
        mask, _ = load_bundle(bundle).predict_bytes((BUNDLES / "picture.png").read_bytes())
    assert mask == (BUNDLES / "format1_mask.png").read_bytes()


@pytest.mark.slow
def test_packaging_its_weights_again_writes_format_2(root: Path) -> None:
    package(BUNDLES / "format1", root / paths.SEGMENTER)
    again = load_bundle(root / paths.SEGMENTER)
    assert again.model["format"] == 2
    mask, _ = again.predict_bytes((BUNDLES / "picture.png").read_bytes())
    assert mask == (BUNDLES / "format1_mask.png").read_bytes()
