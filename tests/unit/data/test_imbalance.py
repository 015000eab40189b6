"""Class counts, the weights made of them, and rare-class sampling, against literal formulas."""

from __future__ import annotations

import math
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from segops.data.imbalance import (
    LEAST_SHARE,
    RareFirst,
    class_weights,
    effective_number,
    image_counts,
    median_frequency,
    pixel_counts,
    rare_classes,
)
from segops.data.packing import pack
from segops.data.samplers import BatchStream, EpochSampler
from segops.data.store import PackedStore
from segops.runtime.classes import VOC_CLASSES, VOID
from segops.runtime.errors import SegopsError
from segops.voc.layout import open_layout


@pytest.fixture(scope="module")
def store(generated_voc: Path, tmp_path_factory: pytest.TempPathFactory) -> PackedStore:
    target = tmp_path_factory.mktemp("packed") / "packed"
    pack(open_layout(generated_voc), target, VOC_CLASSES)
    return PackedStore(target)


def literal_counts(store: PackedStore, ids: tuple[str, ...]) -> NDArray[np.int64]:
    masks = [store.mask(image_id) for image_id in ids]
    return np.array([[int((mask == c).sum()) for c in range(21)] for mask in masks])


def test_counts_are_those_of_the_stored_masks(store: PackedStore) -> None:
    ids = store.ids("train")[2:9]
    expected = literal_counts(store, ids)
    assert np.array_equal(image_counts(store, ids), expected)
    total = pixel_counts(store, ids)
    assert total.dtype == np.int64
    assert np.array_equal(total, expected.sum(axis=0))
    void = sum(int((store.mask(image_id) == VOID).sum()) for image_id in ids)
    assert void > 0
    assert total.sum() + void == sum(store.mask(image_id).size for image_id in ids)


def test_an_id_that_is_no_class_is_refused(
    store: PackedStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(store, "class_names", VOC_CLASSES[:1])
    with pytest.raises(SegopsError, match=r"the mask holds the ids .*expected 0 to 0, or 255"):
        image_counts(store, store.ids("train"))


def test_an_image_shows_a_class_that_covers_enough_of_it(store: PackedStore) -> None:
    ids = store.ids("train")
    shares = literal_counts(store, ids) / (64 * 80)
    numbers = [RareFirst.of(store, ids, least=least).images for least in (0.0, 0.05)]
    for c, (held, shown) in enumerate(zip(*numbers, strict=True)):
        assert held.tolist() == np.flatnonzero(shares[:, c] > 0).tolist()
        large = np.flatnonzero(shares[:, c] >= 0.05).tolist()
        assert shown.tolist() == (large or held.tolist())
    assert sum(map(len, numbers[1])) < sum(map(len, numbers[0]))


counts_of_images = st.lists(
    st.lists(st.one_of(st.just(0), st.integers(1, 10**9)), min_size=5, max_size=5),
    min_size=1,
    max_size=6,
).map(lambda rows: np.array(rows, dtype=np.int64))


@settings(deadline=None)
@given(counts_of_images)
def test_median_frequency_is_the_paper_s(counts: NDArray[np.int64]) -> None:
    frequency = {}
    for c in range(5):
        holding = [row for row in counts.tolist() if row[c] > 0]
        if holding:
            frequency[c] = sum(row[c] for row in holding) / sum(map(sum, holding))
    found = median_frequency(counts)
    assert np.isfinite(found).all()
    assert set(np.flatnonzero(found)) == set(frequency)
    if frequency:
        median = float(np.median(list(frequency.values())))
        expected = {c: median / f for c, f in frequency.items()}
        scale = np.mean(list(expected.values()))
        assert {c: found[c] for c in expected} == pytest.approx(
            {c: weight / scale for c, weight in expected.items()}
        )


@settings(deadline=None)
@given(counts_of_images)
def test_effective_number_is_the_paper_s(counts: NDArray[np.int64]) -> None:
    found = effective_number(counts)
    assert np.isfinite(found).all()
    total = counts.sum(axis=0)
    present = np.flatnonzero(total)
    assert set(np.flatnonzero(found)) == set(present)
    if not present.size:
        return
    beta = 1 - 1 / (total.sum() / present.size)
    expected = np.array([(1 - beta) / -math.expm1(_log(beta) * int(total[c])) for c in present])
    assert found[present] == pytest.approx(expected / expected.mean(), rel=1e-6)
    # The fewer pixels, the larger the weight.
    assert (np.diff(found[present][np.argsort(total[present])]) <= 1e-12).all()


def _log(beta: float) -> float:
    return math.log(beta) if beta else -math.inf


def test_effective_number_tells_classes_apart_at_any_size_of_the_data_set() -> None:
    counts = np.array([[730, 40, 4, 0]])
    weights = effective_number(counts)
    assert weights[2] / weights[1] == pytest.approx(10, rel=0.1)
    assert weights[1] / weights[0] > 4
    assert effective_number(counts * 10**6) == pytest.approx(weights, rel=0.02)


def test_no_pixels_give_no_weights() -> None:
    nothing = np.zeros((2, 3), dtype=np.int64)
    for weights in (median_frequency(nothing), effective_number(nothing)):
        assert weights.tolist() == [0, 0, 0]
    assert rare_classes(nothing) == ()


def test_class_weights_follow_the_scheme(store: PackedStore) -> None:
    ids = store.ids("train")
    counts = image_counts(store, ids)
    assert class_weights(store, ids, None) is None
    assert class_weights(store, ids, [1] * 21) == (1.0,) * 21
    assert class_weights(store, ids, "median_frequency") == tuple(median_frequency(counts))
    assert class_weights(store, ids, "effective_number") == tuple(effective_number(counts))
    with pytest.raises(SegopsError, match=r"2 weights for 21 classes \(background, aero"):
        class_weights(store, ids, [1.0, 2.0])


def test_rare_is_what_has_fewer_pixels_than_the_median_class() -> None:
    assert rare_classes(np.array([900, 0, 5, 40, 7, 60])) == (2, 4)
    assert rare_classes(np.array([900, 0, 5, 40, 7, 60]), background=2) == (4,)
    assert rare_classes(np.array([[900, 0, 5], [0, 0, 3]])) == (2,)
    assert rare_classes(np.array([0, 7, 0])) == ()


def test_rare_first_probabilities_are_the_paper_s(store: PackedStore) -> None:
    ids = store.ids("train")
    total = literal_counts(store, ids).sum(axis=0)
    for temperature in (0.01, 0.1, 10.0):
        odds = [
            math.exp((1 - n / total.sum()) / temperature - 1 / temperature) if n else 0.0
            for n in total
        ]
        found = RareFirst.of(store, ids, temperature)
        assert found.probabilities == pytest.approx(np.array(odds) / sum(odds))


def test_rare_first_falls_back_to_any_pixel(store: PackedStore) -> None:
    ids = store.ids("train")
    counts = literal_counts(store, ids)
    for column, images in zip(counts.T, RareFirst.of(store, ids, least=2.0).images, strict=True):
        assert images.tolist() == np.flatnonzero(column).tolist()


def test_rare_first_raises_the_share_of_a_rare_class_as_predicted(store: PackedStore) -> None:
    """The share of samples that show a class, foretold from the probabilities alone."""
    ids = store.ids("train")
    rare_first = RareFirst.of(store, ids, temperature=0.05)
    shown = literal_counts(store, ids) >= LEAST_SHARE * 64 * 80
    each_image = np.zeros(len(ids))
    for chance, images in zip(rare_first.probabilities, rare_first.images, strict=True):
        each_image[images] += chance / max(1, len(images))
    assert each_image.sum() == pytest.approx(1)
    rare = max(np.flatnonzero(shown.any(axis=0)), key=lambda c: rare_first.probabilities[c])
    predicted = float(each_image @ shown[:, rare])
    assert predicted > 1.2 * shown[:, rare].mean()
    sampler = EpochSampler(len(ids), 4, seed=3, rare_first=rare_first)
    drawn = np.concatenate([sampler.order(epoch) for epoch in range(400)]) % len(ids)
    deviation = math.sqrt(predicted * (1 - predicted) / len(drawn))
    assert shown[drawn, rare].mean() == pytest.approx(predicted, abs=4 * deviation)


def test_rare_first_is_a_function_of_seed_and_epoch_and_augments_repeats_apart(
    store: PackedStore,
) -> None:
    ids = store.ids("train")
    rare_first = RareFirst.of(store, ids)
    first, second = (EpochSampler(len(ids), 5, 1, rare_first) for _ in range(2))
    assert list(first.batches(3)) == list(second.batches(3))
    assert [first.batch(3, k) for k in range(len(first))] == list(first.batches(3))
    stream = list(BatchStream(first, 4))
    for done in range(len(stream)):
        assert list(BatchStream(second, 4, *divmod(done, len(first)))) == stream[done:]
    assert first.order(3).tolist() != first.order(4).tolist()
    assert first.order(3).tolist() != EpochSampler(len(ids), 5, 2, rare_first).order(3).tolist()
    for epoch in range(20):
        order = first.order(epoch).tolist()
        assert len(set(order)) == len(order) == 10
        for index in order:  # the k-th time of an image comes after the others, with its own index
            before = order[: order.index(index)]
            assert sum(one % len(ids) == index % len(ids) for one in before) == index // len(ids)


def test_a_uniform_order_is_what_it_was() -> None:
    """Orders of earlier versions, so that a training resumed by this one goes on as it began."""
    assert EpochSampler(10, 4, seed=7).order(2).tolist() == [5, 2, 7, 0, 3, 8, 9, 1]
    assert EpochSampler(3, 4, seed=7).order(0).tolist() == [1, 2, 0, 5]
