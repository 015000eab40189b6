"""Pasted objects: image and mask stay together, void stays void, and rare classes gain."""

from __future__ import annotations

import pickle
from pathlib import Path

import cv2
import numpy as np
import pytest
import torch
from numpy.typing import NDArray

from segops.augment.policy import build_policy, sample_seed
from segops.data import copy_paste as module
from segops.data.copy_paste import CopyPaste, Source, cut_out
from segops.data.datasets import TrainDataset, train_loader
from segops.data.device.augmentation import device_batches
from segops.data.imbalance import pixel_counts, rare_classes
from segops.data.packing import pack
from segops.data.samplers import BatchStream, EpochSampler
from segops.data.store import PackedStore
from segops.files import sha256_tree
from segops.params.augment import AugmentParams
from segops.params.samples import CopyPasteParams
from segops.runtime.classes import VOC_CLASSES, VOID, palette
from segops.runtime.errors import SegopsError
from segops.voc.layout import open_layout


class PaintedStore(PackedStore):
    """A store whose images show the palette's colour of the mask, so that a bond can be seen."""

    def image(self, image_id: str) -> NDArray[np.uint8]:
        return palette()[self.mask(image_id)]

    def private(self, image_id: str) -> tuple[NDArray[np.uint8], NDArray[np.uint8]]:
        return self.image(image_id), self.mask(image_id).copy()


@pytest.fixture(scope="module")
def store(generated_voc: Path, tmp_path_factory: pytest.TempPathFactory) -> PackedStore:
    target = tmp_path_factory.mktemp("packed") / "packed"
    pack(open_layout(generated_voc), target, VOC_CLASSES)
    return PackedStore(target)


def params(**changes: object) -> CopyPasteParams:
    return CopyPasteParams.model_validate({"p": 1.0, "min_area": 20, **changes})


def of(store: PackedStore, **changes: object) -> CopyPaste:
    return CopyPaste.of(store, store.ids("train"), params(**changes))


def dataset(store: PackedStore, copy_paste: CopyPaste | None) -> TrainDataset:
    policy = build_policy(AugmentParams(crop=(48, 48)))
    return TrainDataset(store, store.ids("train"), policy, seed=5, copy_paste=copy_paste)


def test_without_it_and_where_it_is_not_drawn_samples_are_what_they_were(
    store: PackedStore,
) -> None:
    plain, never = dataset(store, None), dataset(store, of(store, p=0.0))
    half = dataset(store, of(store, p=0.5))
    changed = 0
    for key in [(epoch, index) for epoch in range(5) for index in range(12)]:
        image_id = plain.image_id(key[1])
        crop, crop_mask = plain.policy(
            store.image(image_id), store.mask(image_id), sample_seed(5, *key)
        )
        for one in (plain, never):
            image, mask = one[key]
            assert np.array_equal(image.permute(1, 2, 0), crop)
            assert np.array_equal(mask, crop_mask)
        drawn = not np.array_equal(half.source(key)[1], store.mask(image_id))
        changed += drawn
        if not drawn:
            assert np.array_equal(half[key][0].permute(1, 2, 0), crop)
    assert 15 < changed < 45


@pytest.mark.parametrize("scale", [(1.0, 1.0), (0.8, 1.25), (2.0, 3.0)])
def test_image_and_mask_are_pasted_alike(store: PackedStore, scale: tuple[float, float]) -> None:
    """Each pixel has its label's colour; where objects are scaled, all but those at an edge."""
    painted = PaintedStore(store.path)
    # One object at a time: where two of a class overlap, an edge lies within a label.
    copy_paste = CopyPaste(**{**vars(of(painted, max_objects=1)), "scale": scale})
    colours = palette().astype(int)
    for number, image_id in enumerate(painted.ids("train") * 5):
        image, mask = copy_paste(image_id, number)
        off = (np.abs(image.astype(int) - colours[mask]) > 0).any(axis=2)
        inner = mask != VOID
        if scale != (1.0, 1.0):
            around = np.ones((5, 5), dtype=np.uint8)
            inner &= cv2.dilate(mask, around) == cv2.erode(mask, around)
            inner[[0, 1, -2, -1]] = inner[:, [0, 1, -2, -1]] = False
        assert inner.any()
        assert not off[inner].any()


def test_pixels_that_change_are_of_the_pasted_classes_or_their_void_border(
    store: PackedStore,
) -> None:
    copy_paste = of(store)
    rare = set(rare_classes(pixel_counts(store, store.ids("train"))))
    assert {c for c, _ in copy_paste.sources} <= rare
    gained = 0
    for number, image_id in enumerate(store.ids("train")):
        before = store.mask(image_id)
        image, mask = copy_paste(image_id, number)
        moved = (image != store.image(image_id)).any(axis=2) | (mask != before)
        assert set(np.unique(mask[moved])) <= rare | {VOID}
        gained += int(np.isin(mask[moved], list(rare)).sum())
        assert np.array_equal(mask[~moved], before[~moved])
        assert image.shape == store.image(image_id).shape
        assert image.dtype == mask.dtype == np.uint8
    assert gained > 0


def scene() -> tuple[NDArray[np.uint8], NDArray[np.uint8]]:
    """Two objects of class 3, one with a void line around it, and void far from both."""
    mask = np.zeros((60, 80), dtype=np.uint8)
    mask[8:32, 8:32] = VOID
    mask[10:30, 10:30] = 3
    mask[40:44, 50:60] = 3
    mask[55:, 70:] = VOID
    image = np.random.default_rng(0).integers(0, 256, (60, 80, 3)).astype(np.uint8)
    return image, mask


def test_an_object_is_cut_out_with_its_void_line_alone() -> None:
    image, mask = scene()
    cutout = cut_out(image, mask, 3, 100, np.random.default_rng(0))
    assert cutout is not None
    assert int((cutout.labels[cutout.shape] == 3).sum()) == 400
    assert int((cutout.labels[cutout.shape] == VOID).sum()) == 24 * 24 - 400
    rows, columns = np.nonzero(cutout.shape)
    assert (np.ptp(rows), np.ptp(columns)) == (23, 23)
    assert np.array_equal(cutout.image[cutout.shape], image[8:32, 8:32].reshape(-1, 3))


def test_objects_are_components_of_at_least_the_smallest_area() -> None:
    image, mask = scene()
    areas = set()
    for seed in range(20):
        cutout = cut_out(image, mask, 3, 40, np.random.default_rng(seed))
        assert cutout is not None
        areas.add(int((cutout.labels[cutout.shape] == 3).sum()))
    assert areas == {400, 40}
    assert cut_out(image, mask, 3, 401, np.random.default_rng(0)) is None
    assert cut_out(image, mask, 4, 1, np.random.default_rng(0)) is None


@pytest.mark.parametrize("room", [(200, 200), (16, 90), (5, 5), (1, 1)])
def test_a_paste_lies_within_the_image(room: tuple[int, int]) -> None:
    image, mask = scene()
    cutout = cut_out(image, mask, 3, 100, np.random.default_rng(0))
    assert cutout is not None
    for seed in range(10):
        into, labels = np.zeros((*room, 3), np.uint8), np.zeros(room, np.uint8)
        module._paste(into, labels, cutout, np.random.default_rng(seed))
        pasted = int((labels == 3).sum())
        if min(room) > 40:
            assert pasted == 400
        assert np.array_equal(into.any(axis=2) & (labels == 0), np.zeros(room, bool))


def test_no_object_comes_from_the_image_itself(store: PackedStore) -> None:
    copy_paste = of(store)
    c, holding = copy_paste.sources[0]
    alone = CopyPaste(**{**vars(copy_paste), "sources": ((c, holding[:1]),)})
    image_id = holding[0].image_id
    for seed in range(5):
        assert np.array_equal(alone(image_id, seed)[1], store.mask(image_id))


@pytest.mark.parametrize("tile", [None, 20])
def test_samples_are_those_of_copying_the_whole_image(
    store: PackedStore, tile: int | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    if tile is not None:
        monkeypatch.setattr(module, "TILE", tile)
    copy_paste = of(store, p=0.6, max_objects=3)
    before = sha256_tree(store.path)
    changed = 0
    for number, image_id in enumerate(store.ids("train") * 3):
        generator = np.random.default_rng(sample_seed(number, 0, -2))
        image, mask = store.image(image_id).copy(), store.mask(image_id).copy()
        if generator.random() < 0.6:
            for _ in range(int(generator.integers(1, 4))):
                if cutout := copy_paste._draw(image_id, generator):
                    module._paste(image, mask, cutout, generator)
        found = copy_paste(image_id, number)
        assert np.array_equal(found[0], image)
        assert np.array_equal(found[1], mask)
        changed += not np.array_equal(mask, store.mask(image_id))
    assert changed > 10
    assert sha256_tree(store.path) == before


def test_large_images_are_searched_tile_by_tile(
    store: PackedStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole = of(store)
    assert {(one.top, one.left) for _, holding in whole.sources for one in holding} == {(0, 0)}
    monkeypatch.setattr(module, "TILE", 20)
    for c, holding in of(store).sources:
        seen = dict.fromkeys(holding, 0)
        for image_id in store.ids("train"):
            mask = store.mask(image_id)
            for top in range(0, mask.shape[0], 20):
                for left in range(0, mask.shape[1], 20):
                    pixels = int((mask[top : top + 20, left : left + 20] == c).sum())
                    source = Source(image_id, top, left)
                    assert (pixels >= 20) == (source in seen)
                    if source in seen:
                        tile = source.tile(mask)
                        assert tile.size <= 400
                        assert int((tile == c).sum()) == pixels


def test_it_is_a_function_of_the_key_and_independent_of_workers(store: PackedStore) -> None:
    one = dataset(store, of(store, p=0.7))
    twin = pickle.loads(pickle.dumps(one))
    keys = [(epoch, index) for epoch in range(2) for index in range(12)]
    masks = [one.source(key)[1].tobytes() for key in keys]
    assert masks == [twin.source(key)[1].tobytes() for key in keys]
    assert masks[:12] != masks[12:]
    sampler = EpochSampler(len(one), 4, seed=1)
    inline, forked = (list(train_loader(one, BatchStream(sampler, 2), workers=n)) for n in (0, 2))
    assert all(
        torch.equal(first, second)
        for batch, other in zip(inline, forked, strict=True)
        for first, second in zip(batch, other, strict=True)
    )


def test_batches_augmented_on_a_device_hold_the_same_objects(store: PackedStore) -> None:
    data = dataset(store, of(store))
    sampler = EpochSampler(len(data), 4, seed=1)
    on_device = device_batches(data, BatchStream(sampler, 1), device=torch.device("cpu"))
    for (_, masks), (_, expected) in zip(
        on_device, train_loader(data, BatchStream(sampler, 1)), strict=True
    ):
        assert torch.equal(masks, expected)


def test_the_share_of_rare_classes_rises(store: PackedStore) -> None:
    copy_paste = of(store)
    rare = [c for c, _ in copy_paste.sources]
    with_it, without = (
        np.concatenate(
            [data.source((epoch, k))[1].ravel() for epoch in range(8) for k in range(12)]
        )
        for data in (dataset(store, copy_paste), dataset(store, None))
    )
    shares = [np.isin(labels, rare).sum() / (labels != VOID).sum() for labels in (with_it, without)]
    assert shares[0] > 1.5 * shares[1]
    # In crops, after the policy, as well.
    seen = [
        torch.cat([data[epoch, k][1].ravel() for epoch in range(8) for k in range(12)])
        for data in (dataset(store, copy_paste), dataset(store, None))
    ]
    after = [
        float(torch.isin(labels, torch.tensor(rare)).sum() / (labels != VOID).sum())
        for labels in seen
    ]
    assert after[0] > 1.5 * after[1]


def test_classes_by_name(store: PackedStore) -> None:
    found = pixel_counts(store, store.ids("train"))
    c = int(np.flatnonzero(found > 200)[-1])
    assert [one for one, _ in of(store, classes=(VOC_CLASSES[c],)).sources] == [c]
    missing = VOC_CLASSES[int(np.flatnonzero(found == 0)[0])]
    with pytest.raises(SegopsError, match=f"no training image has .* pixels or more of {missing}"):
        of(store, classes=(missing,))
    with pytest.raises(SegopsError, match="no class 'unicorn'; expected names out of background,"):
        of(store, classes=("unicorn",))
    with pytest.raises(SegopsError, match="no class with fewer pixels than the median"):
        of(store, min_area=10**6)


def test_the_background_is_no_rare_object(store: PackedStore) -> None:
    rare = [c for c, _ in of(store).sources]
    without = CopyPaste.of(store, store.ids("train"), params(), background=rare[0])
    assert [c for c, _ in without.sources] == rare[1:]
