"""The judgement of images by a bundle."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from segops.data.packing import pack
from segops.data.store import PackedStore
from segops.label_check.judge import judge
from segops.predict import parts as dividing
from segops.predict.bundle import BundledPredictor, load_bundle
from segops.runtime.errors import SegopsError
from segops.runtime.masks import write_mask
from segops.voc.layout import Layout, open_layout
from tests.support.folder_runs import NAMES, make_bundle, picture


@pytest.fixture
def predictor(tmp_path: Path, one_thread: None) -> BundledPredictor:
    return load_bundle(make_bundle(tmp_path / "bundle"))


def stored(root: Path, mask: np.ndarray) -> PackedStore:
    """One image with this mask, in train and under another name in val."""
    for part in ("JPEGImages", "SegmentationClass"):
        (root / part).mkdir(parents=True)
    for name, split in (("a", "train"), ("b", "val")):
        image = picture(1, *mask.shape)
        Image.fromarray(image).save(root / f"JPEGImages/{name}.png")
        write_mask(root / f"SegmentationClass/{name}.png", mask)
        Layout(root).write_list(split, [name])
    pack(open_layout(root), root.parent / "packed", NAMES)
    return PackedStore(root.parent / "packed")


def test_the_score_is_that_of_the_given_classes(
    predictor: BundledPredictor, tmp_path: Path
) -> None:
    shape = (64, 48)
    probabilities = predictor.predict_probabilities(picture(1, *shape))
    best, worst = probabilities.argmax(axis=0), probabilities.argmin(axis=0)
    good = stored(tmp_path / "good" / "voc", best.astype(np.uint8))
    bad = stored(tmp_path / "bad" / "voc", worst.astype(np.uint8))
    one, other = judge(predictor, good, "a"), judge(predictor, bad, "a")
    assert one.score is not None
    assert other.score is not None
    assert probabilities.max(axis=0).min() <= one.score <= 1
    assert probabilities.min() <= other.score <= probabilities.min(axis=0).max()
    assert (one.prediction == best).all()
    assert one.segments == []
    assert other.segments


def test_an_image_without_a_label_has_no_score(predictor: BundledPredictor, tmp_path: Path) -> None:
    found = judge(predictor, stored(tmp_path / "voc", np.full((32, 40), 255, np.uint8)), "a")
    assert found.score is None
    assert found.segments == []


def test_a_large_image_is_predicted_in_parts(
    predictor: BundledPredictor, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    store = stored(tmp_path / "voc", (np.indices((300, 24)).sum(axis=0) // 40 % 3).astype(np.uint8))
    whole = judge(predictor, store, "a")
    sizes = []
    predict = predictor.predict_probabilities

    def watched(image: np.ndarray) -> np.ndarray:
        sizes.append(image.shape[:2])
        return predict(image)

    monkeypatch.setattr(predictor, "predict_probabilities", watched)
    monkeypatch.setattr(dividing, "LARGEST", 1)
    monkeypatch.setattr(dividing, "SIDE", 40)
    monkeypatch.setattr(dividing, "MARGIN", 64)
    parts = judge(predictor, store, "a")
    assert len(sizes) == 8
    assert max(sizes) == (40 + 2 * 64, 24)
    assert (parts.prediction == whole.prediction).all()
    assert parts.score == pytest.approx(whole.score, abs=1e-5)


def test_an_id_that_the_model_does_not_know_is_named(
    predictor: BundledPredictor, tmp_path: Path
) -> None:
    store = stored(tmp_path / "voc", np.full((32, 40), 7, np.uint8))
    with pytest.raises(SegopsError, match="a: the mask holds the id 7; expected 0 to 2"):
        judge(predictor, store, "a")
