"""Corruptions of photographs, and the scores under them."""

from __future__ import annotations

import pickle
import tracemalloc
from itertools import pairwise
from pathlib import Path
from types import SimpleNamespace

import cv2
import numpy as np
import pytest
from numpy.typing import NDArray

from segops.data.store import PackedStore
from segops.evaluate import robustness as module
from segops.evaluate.corruptions import CORRUPTIONS, CorruptedStore, corrupt, corrupt_mask
from segops.evaluate.robustness import robustness
from segops.evaluate.score import LONGEST_CORRUPTED, require_corruptible, score_corrupted
from segops.metrics.confusion import confusion_matrix
from segops.metrics.iou import class_pixels, miou
from segops.predict.bundle import load_bundle
from segops.runtime.classes import VOC_CLASSES
from segops.runtime.errors import SegopsError
from tests.support.bundles import write_bundle
from tests.unit.evaluate.test_score import SPEC, lively, store

__all__ = ["store"]

EVERY = pytest.mark.parametrize("name", list(CORRUPTIONS))


def photograph(height: int = 60, width: int = 90) -> NDArray[np.uint8]:
    grid = np.random.default_rng(0).integers(30, 220, (6, 9, 3)).astype(np.uint8)
    return np.asarray(cv2.resize(grid, (width, height), interpolation=cv2.INTER_CUBIC), np.uint8)


def test_there_are_the_fifteen_of_the_paper() -> None:
    assert len(CORRUPTIONS) == 15


@EVERY
def test_a_corruption_depends_on_image_and_strength_alone(name: str) -> None:
    image = photograph()
    before = image.copy()
    found = [corrupt(image, name, strength, "a") for strength in range(1, 6)]
    assert (image == before).all()
    for one in found:
        assert one.dtype == np.uint8
        assert one.shape == image.shape
        assert (one != image).any()
    assert all((one != other).any() for one, other in pairwise(found))
    assert (corrupt(image, name, 3, "a") == found[2]).all()
    drawn = (corrupt(image, name, 3, "b") != found[2]).any()
    fixed = {"defocus blur", "zoom blur", "brightness", "contrast", "pixelate", "jpeg"}
    assert drawn == (name not in fixed)


@EVERY
@pytest.mark.parametrize("shape", [(1, 1), (3, 200), (200, 3)])
def test_images_of_any_size_are_corrupted(name: str, shape: tuple[int, int]) -> None:
    for strength in (1, 5):
        found = corrupt(photograph(*shape), name, strength, "a")
        assert found.shape == (*shape, 3)


@EVERY
def test_a_corruption_takes_little_memory(name: str) -> None:
    image = photograph(500, 1000)
    corrupt(image[:8], name, 5, "a")  # what is imported and kept does not count
    tracemalloc.start()
    try:
        corrupt(image, name, 5, "a")
        bytes_a_pixel = tracemalloc.get_traced_memory()[1] / (500 * 1000)
    finally:
        tracemalloc.stop()
    assert 15 < bytes_a_pixel < 60


def test_noise_has_the_strength_of_the_paper() -> None:
    grey = np.full((400, 400, 3), 128, np.uint8)
    noise = corrupt(grey, "gaussian noise", 1, "a") / 255.0
    assert noise.std() == pytest.approx(0.08, rel=0.02)
    assert noise.mean() == pytest.approx(128 / 255, abs=0.002)
    shot = corrupt(grey, "shot noise", 1, "a") / 255.0
    assert shot.std() == pytest.approx((128 / 255 / 60) ** 0.5, rel=0.02)
    impulse = corrupt(grey, "impulse noise", 5, "a")
    assert (impulse == 0).mean() == pytest.approx(0.135, abs=0.005)
    assert (impulse == 255).mean() == pytest.approx(0.135, abs=0.005)


def test_light_is_changed_as_in_the_paper() -> None:
    image = photograph()
    mean = image.mean(axis=(0, 1))
    contrast = (image - mean) * 0.4 + mean
    assert np.abs(corrupt(image, "contrast", 1, "a") - contrast).max() <= 1
    grey = np.full((8, 8, 3), 100, np.uint8)
    assert (corrupt(grey, "brightness", 2, "a") == 151).all()
    assert (corrupt(grey, "elastic", 5, "a") == 100).all()


def test_labels_move_with_the_pixels_of_elastic_alone() -> None:
    mask = np.zeros((60, 90), np.uint8)
    mask[20:40, 30:60] = 255
    image = np.repeat(mask[..., None], 3, axis=2)
    for strength in (1, 3, 5):
        moved = corrupt_mask(mask, "elastic", strength, "a")
        assert (moved != mask).any()
        # Bilinear and nearest differ by half a pixel at most: they agree away from the edge.
        known = np.isin(corrupt(image, "elastic", strength, "a")[..., 0], (0, 255))
        assert known.mean() > 0.8
        assert (corrupt(image, "elastic", strength, "a")[..., 0] == moved)[known].all()
    for name in set(CORRUPTIONS) - {"elastic"}:
        assert corrupt_mask(mask, name, 3, "a") is mask


@pytest.fixture(scope="module")
def bundle(store: PackedStore, tmp_path_factory: pytest.TempPathFactory) -> Path:
    place = tmp_path_factory.mktemp("model") / "bundle"
    write_bundle(place, lively(store), SPEC, VOC_CLASSES, {}, {})
    return place


def test_a_store_of_corrupted_images_stays_one_in_another_process(store: PackedStore) -> None:
    image_id = store.ids("val")[0]
    corrupted = CorruptedStore(store.path, "elastic", 5)
    again = pickle.loads(pickle.dumps(corrupted))
    assert type(again) is CorruptedStore
    image, mask = again.private(image_id)
    assert (image == corrupt(store.image(image_id), "elastic", 5, image_id)).all()
    assert (image != store.image(image_id)).any()
    assert (mask == corrupt_mask(store.mask(image_id), "elastic", 5, image_id)).all()
    image[:], mask[:] = 0, 0
    assert again.image(image_id).any()
    _, plain = CorruptedStore(store.path, "fog", 1).private(image_id)
    plain[:] = 7
    assert (CorruptedStore(store.path, "fog", 1).mask(image_id) != 7).any()


def test_every_mean_is_over_the_classes_of_the_plain_truth(
    store: PackedStore, bundle: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Class 2 leaves the truth of the one corruption, and is still predicted there."""
    plain = np.array([[90, 0, 0], [0, 50, 0], [5, 0, 5]])
    moved = np.array([[90, 0, 0], [0, 50, 10], [0, 0, 0]])
    gone = np.array([[90, 0, 0], [0, 50, 0], [0, 0, 0]])

    def scored(*_: object, **__: object) -> list[SimpleNamespace]:
        return [SimpleNamespace(confusion=one, images=("a",)) for one in (plain, moved, gone)]

    monkeypatch.setattr(module, "score_corrupted", scored)
    monkeypatch.setattr(module, "CORRUPTIONS", dict.fromkeys(["elastic"]))
    monkeypatch.setattr(module, "STRENGTHS", (1, 3))
    told = robustness(bundle, store, "val")
    assert told["clean"] == pytest.approx((90 / 95 + 1 + 0.5) / 3)
    assert told["corruptions"][0]["miou"] == pytest.approx([(1 + 50 / 60 + 0) / 3, 1])


@pytest.mark.slow
def test_the_scores_are_those_of_the_corrupted_images(
    store: PackedStore, bundle: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "CORRUPTIONS", dict.fromkeys(["fog", "elastic"]))
    monkeypatch.setattr(module, "STRENGTHS", (3, 5))
    told = robustness(bundle, store, "val", threads=1, limit=3, device="cpu")
    predictor = load_bundle(bundle)

    def score_of(shown: PackedStore) -> float:
        confusion = sum(
            confusion_matrix(
                shown.mask(one), predictor.predict(shown.image(one)).mask, len(VOC_CLASSES)
            )
            for one in store.ids("val")[:3]
        )
        return float(miou(*class_pixels(np.asarray(confusion))))

    assert told["clean"] == score_of(store)
    assert [one["name"] for one in told["corruptions"]] == ["fog", "elastic"]
    for one in told["corruptions"]:
        expected = [score_of(CorruptedStore(store.path, one["name"], s)) for s in (3, 5)]
        assert one["miou"] == expected
        assert one["mean"] == pytest.approx(np.mean(expected))
        assert told["clean"] not in expected
    every = [value for one in told["corruptions"] for value in one["miou"]]
    assert told["mean"] == pytest.approx(np.mean(every))
    assert told["retained"] == pytest.approx(np.mean(every) / told["clean"])
    assert (told["images"], told["strengths"]) == (3, [3, 5])


def test_images_that_are_too_long_are_named_before_any_scoring(
    store: PackedStore, bundle: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    longest = photograph(1, LONGEST_CORRUPTED)
    assert corrupt(longest, "elastic", 1, "a").shape == longest.shape
    first, second = store.ids("val")[:2]
    size = store.size
    monkeypatch.setattr(store, "size", lambda one: (4, 32_767) if one == second else size(one))
    with pytest.raises(SegopsError, match="sides of at most 32766 pixels") as raised:
        score_corrupted(bundle, store, "val", tmp_path / "out", [("fog", 1)])
    assert str(raised.value).endswith(f"\n  {second}: 32767 x 4 pixels")
    require_corruptible(store, [first])
    assert not (tmp_path / "out").exists()


def test_other_images_than_rgb_are_refused(
    store: PackedStore, bundle: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(PackedStore, "channels", 4)
    with pytest.raises(SegopsError, match=r"4 channels\. The corruptions are made for photographs"):
        score_corrupted(bundle, store, "val", tmp_path / "out", [("fog", 1)])
    assert not (tmp_path / "out").exists()
