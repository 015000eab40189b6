"""How images are divided into folds, and the store of a fold."""

from __future__ import annotations

import pickle
from pathlib import Path

import pytest

from segops.data.packing import pack
from segops.data.store import PackedStore
from segops.label_check.folds import FoldStore, divide, for_folds
from segops.params.file import parse_params
from segops.runtime.classes import VOC_CLASSES
from segops.runtime.errors import SegopsError
from segops.voc.layout import open_layout
from segops.voc.mask_ids import MaskIds
from segops.voc.reading import Reading


@pytest.fixture
def store(generated_voc: Path, tmp_path: Path) -> PackedStore:
    """12 images in train, 6 in val."""
    pack(open_layout(generated_voc), tmp_path / "packed", VOC_CLASSES)
    return PackedStore(tmp_path / "packed")


def test_every_image_is_judged_once_by_a_model_that_did_not_see_it(store: PackedStore) -> None:
    for splits, count in ((("train",), 3), (("train", "val"), 4)):
        ids = {one for split in splits for one in store.ids(split)}
        folds = divide(store, splits, count)
        assert len(folds) == count
        judged = [one for fold in folds for one in fold.judged]
        assert len(judged) == len(ids)
        assert set(judged) == ids
        for fold in folds:
            assert set(fold.trained) == ids - set(fold.judged)
            assert abs(len(fold.judged) - len(ids) / count) < 1
        assert divide(store, splits, count) == folds


def test_val_alone_is_judged_by_one_model_of_train(store: PackedStore) -> None:
    (fold,) = divide(store, ("val",), 3)
    assert (fold.trained, fold.judged) == (store.ids("train"), store.ids("val"))


def test_too_many_folds_are_refused(store: PackedStore) -> None:
    with pytest.raises(SegopsError, match="--folds 7: there are 12 images"):
        divide(store, ("train",), 7)


def test_a_fold_trains_on_its_images_wherever_it_is_opened(store: PackedStore) -> None:
    trained = (*store.ids("train")[:2], store.ids("val")[0])
    own = FoldStore(store.path, trained)
    for one in (own, pickle.loads(pickle.dumps(own))):
        assert one.ids("train") == trained
        assert one.ids("val") == store.ids("val")
        assert (one.image(trained[2]) == store.image(trained[2])).all()
        assert one.split_hash("train") == own.split_hash("train")
    other = FoldStore(store.path, trained[:2])
    assert len({one.split_hash("train") for one in (own, other, store)}) == 3
    assert FoldStore(store.path, store.ids("train")).split_hash("train") == store.split_hash(
        "train"
    )
    assert own.split_hash("val") == store.split_hash("val")


def test_a_model_to_start_from_may_have_seen_the_images() -> None:
    champion = "models:/segops@champion"
    train = {"teacher": champion, "pruning": 0.3}
    settings = parse_params({"model": {"start_from": champion}, "train": train})
    assert for_folds(settings, None).model.start_from is None
    assert for_folds(settings, None).train.teacher is None
    assert for_folds(settings, None).train.pruning is None
    short = for_folds(settings, 1).train
    assert (short.epochs, short.iterations, short.warmup_epochs) == (1, None, 0)


def test_the_mapping_of_ids_is_in_the_hash_of_a_fold(
    store: PackedStore, generated_voc: Path, tmp_path: Path
) -> None:
    mapped = MaskIds(ignore=(200,))
    layout = open_layout(generated_voc, Reading(mask_ids=mapped))
    pack(layout, tmp_path / "mapped", VOC_CLASSES)
    other, ids = PackedStore(tmp_path / "mapped"), store.ids("train")
    assert other.mapping == mapped.lines != store.mapping == ()
    hashes = [FoldStore(one.path, ids).split_hash("train") for one in (store, other)]
    assert hashes == [store.split_hash("train"), other.split_hash("train")]
    assert hashes[0] != hashes[1]
