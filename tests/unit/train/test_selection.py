"""The score that chooses the checkpoint counts what evaluation counts."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from lightning_fabric import Fabric
from numpy.typing import NDArray
from torch import Tensor

from segops.data.store import PackedStore, pack
from segops.metrics.confusion import confusion_matrix
from segops.predict import parts as dividing
from segops.runtime.classes import VOC_CLASSES
from segops.runtime.torch_predictor import TorchPredictor
from segops.train import selection
from segops.voc.layout import open_layout
from tests.support.large_image import Brightest
from tests.unit.evaluate.test_score import lively


@pytest.mark.parametrize("images_a_fetch", [1, 2, 32])
def test_each_image_counts_once(
    images_a_fetch: int, generated_voc: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pack(open_layout(generated_voc), tmp_path / "packed", VOC_CLASSES)
    store = PackedStore(tmp_path / "packed")
    predictor, ids = TorchPredictor(lively(store), VOC_CLASSES), store.ids("val")
    expected = sum(
        confusion_matrix(store.mask(one), predictor.predict_mask(store.image(one)), 21)
        for one in ids
    )
    monkeypatch.setattr(selection, "IMAGES_A_FETCH", images_a_fetch)
    alone = Fabric(accelerator="cpu", devices=1)
    found = selection.selection_confusion(predictor, store, ids, alone)
    assert len(ids) > 2
    np.testing.assert_array_equal(found, expected)


def test_a_large_image_is_predicted_in_parts(
    generated_voc: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A network that looks at each pixel alone predicts the same in parts."""
    pack(open_layout(generated_voc), tmp_path / "packed", VOC_CLASSES)
    store = PackedStore(tmp_path / "packed")
    predictor, ids = TorchPredictor(Brightest(21), VOC_CLASSES), store.ids("val")
    sizes: list[tuple[int, int]] = []
    predict = predictor.predict_ids

    def noted(image: NDArray[np.uint8]) -> Tensor:
        sizes.append(image.shape[:2])
        return predict(image)

    monkeypatch.setattr(predictor, "predict_ids", noted)
    alone = Fabric(accelerator="cpu", devices=1)
    whole = selection.selection_confusion(predictor, store, ids, alone)
    assert sizes == [store.size(one) for one in ids]
    sizes.clear()
    monkeypatch.setattr(dividing, "LARGEST", 1)
    monkeypatch.setattr(dividing, "SIDE", 50)
    monkeypatch.setattr(dividing, "MARGIN", 7)
    parts = selection.selection_confusion(predictor, store, ids, alone)
    np.testing.assert_array_equal(parts, whole)
    assert len(sizes) > len(ids)
    assert max(map(max, sizes)) <= 50 + 2 * 7
