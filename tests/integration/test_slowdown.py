"""The time of an image, measured on real bundles in processes of their own."""

from __future__ import annotations

from pathlib import Path

import pytest

from segops import paths
from segops.data.store import PackedStore
from segops.evaluate.speed import measure
from segops.predict.bundle import bundle_digest
from segops.release import promotion
from segops.runtime.errors import SegopsError
from segops.runtime.networks.zoo import ModelSpec
from tests.support import registry_workspace as made

WIDE = ModelSpec("plain_cnn", "", 21, {"width": 64})


@pytest.mark.slow
def test_a_slower_network_is_refused_and_measured_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    root = made.make(tmp_path / "checkout")
    made.set_params(root, gate={"max_slowdown": 2})
    first = made.release(root, seed=1, quality=0.8)
    assert first.verdict == "promoted"
    assert "no champion to measure against" in " ".join(one.sentence for one in first.checks)
    monkeypatch.setattr(made, "SPEC", WIDE)
    made.challenge(root, seed=2, quality=0.8)
    assert made.failed(promotion.gate(root)) == ["slowdown"]
    last = made.lines(root)[-1]["details"]
    speed = last["evidence"]["speed"]
    assert speed["milliseconds"] > 2 * speed["reference_milliseconds"] > 0
    assert (speed["version"], speed["threads"], speed["images"]) == ("1", 1, 4)
    entries = len(made.lines(root))
    promotion.gate(root)  # measured anew, the times would differ and be written down
    assert len(made.lines(root)) == entries
    made.set_params(root, gate={"max_slowdown": 1000})
    assert promotion.gate(root).verdict == "promoted"


@pytest.mark.slow
def test_what_cannot_be_measured_is_told_with_the_bundle(tmp_path: Path) -> None:
    root = made.make(tmp_path / "checkout", database=False)
    made.train(root, seed=1, quality=None)
    bundle, store = root / paths.SEGMENTER, PackedStore(root / paths.PACKED)
    with pytest.raises(SegopsError, match="digest"):
        measure([(bundle, "0" * 64)], store, "val")
    predictor = bundle / "runtime/predictor.py"
    predictor.write_text("import os; os._exit(7)\n")
    with pytest.raises(SegopsError, match=r"segmenter: the process .* ended with status 7"):
        measure([(bundle, bundle_digest(bundle))], store, "val")
