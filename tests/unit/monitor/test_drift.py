"""The comparison: planted drifts are found, and samples of the same kind raise no alarm."""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from segops.files import sha256_file
from segops.monitor import sample as samples
from segops.monitor.drift import (
    CLASSES,
    CONFIDENCE,
    FEATURES,
    LOOK,
    TESTS,
    Drift,
    Watched,
    compare,
)
from segops.monitor.reference import Images, Reference, kept_path, measure, read_kept
from segops.predict.bundle import BundledPredictor, load_bundle
from segops.predict.log import PredictionLog, read_log
from segops.predict.observe import Observation, Predicted, observe, observing
from segops.predict.package import package
from segops.predict.trained import write_trained
from segops.runtime.errors import SegopsError
from segops.runtime.networks.zoo import build
from segops.voc.hashes import pixel_hash
from tests.support.drifting import DRIFTS, Pixels, ordinary
from tests.support.folder_runs import NAMES, SPEC, make_bundle, picture, save

TRAIN, VAL, SAMPLE = 60, 60, 30
Observe = Callable[[Sequence[Pixels]], list[Observation]]


@pytest.fixture(scope="module", autouse=True)
def one_thread() -> Iterator[None]:
    """Tiny networks on a busy machine: threads that wait for one another cost far more."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture(scope="module")
def predictor(tmp_path_factory: pytest.TempPathFactory) -> BundledPredictor:
    return load_bundle(make_bundle(tmp_path_factory.mktemp("bundle")))


@pytest.fixture(scope="module")
def observed(predictor: BundledPredictor) -> Iterator[Observe]:
    with observing(predictor) as predict:
        yield lambda images: [predict(one)[1] for one in images]


@pytest.fixture(scope="module")
def reference(observed: Observe) -> Reference:
    train = tuple(observe(ordinary(seed)) for seed in range(TRAIN))
    return Reference(train, tuple(observed([ordinary(1000 + seed) for seed in range(VAL)])))


def compared(reference: Reference, observations: Sequence[Observation], **changes: int) -> Drift:
    watched = [Watched(f"{number}.png", one) for number, one in enumerate(observations)]
    least = changes.pop("least", 20)
    return compare(reference, watched, NAMES, 3, 0.01, least)


def found(drift: Drift) -> set[str]:
    return {test.name for test in drift.tests if test.drifted}


def test_ten_samples_of_the_same_kind_raise_no_alarm(
    reference: Reference, observed: Observe
) -> None:
    for number in range(10):
        start = 10_000 + number * SAMPLE
        drift = compared(reference, observed([ordinary(start + seed) for seed in range(SAMPLE)]))
        assert [test.name for test in drift.tests] == list(TESTS)
        assert not drift.drifted, (number, drift.tests)


@pytest.mark.parametrize("kind", DRIFTS)
def test_a_planted_drift_is_found(kind: str, reference: Reference, observed: Observe) -> None:
    images = [DRIFTS[kind](ordinary(20_000 + seed)) for seed in range(SAMPLE)]
    drift = compared(reference, observed(images))
    # Untrained features of these pictures hardly feel a blur.
    assert found(drift) >= ({LOOK} if kind == "blur" else {LOOK, FEATURES})
    look = next(test for test in drift.tests if test.name == LOOK)
    changed = {one.name for one in look.changes if one.p <= 0.01}
    expected = {"night": "brightness", "blur": "sharpness", "other camera": "noise",
                "new class": "contrast"}  # fmt: skip
    assert expected[kind] in changed


def test_a_label_shift_is_found_and_named(reference: Reference) -> None:
    random = np.random.default_rng(0)

    def with_shares(one: Observation, share: float) -> Observation:
        assert one.predicted is not None
        cat = random.uniform(0.1, 0.4) * (random.random() < share)
        return replace(one, predicted=replace(one.predicted, shares=(1 - cat, cat, 0.0)))

    val = tuple(with_shares(one, 0.2) for one in reference.val)
    sample = [with_shares(one, 0.7) for one in reference.val[:SAMPLE]]
    drift = compared(replace(reference, val=val), sample)
    assert found(drift) == {CLASSES}
    [classes] = [test for test in drift.tests if test.name == CLASSES]
    assert {one.name for one in classes.changes if one.p <= 0.01} == {"background", "cat"}
    assert classes.changes[-1].name == "dog"


def test_a_model_that_is_less_sure_is_found(reference: Reference) -> None:
    sample = []
    for one in reference.val[:SAMPLE]:
        assert one.predicted is not None
        doubt = replace(one.predicted, confidence=one.predicted.confidence * 0.8)
        sample.append(replace(one, predicted=doubt))
    assert found(compared(reference, sample)) == {CONFIDENCE}


def test_the_most_unusual_image_comes_first_with_the_reason(
    reference: Reference, observed: Observe
) -> None:
    images = [ordinary(30_000 + seed) for seed in range(SAMPLE)]
    images[7] = np.zeros_like(images[7])
    first = compared(reference, observed(images)).unusual[0]
    assert (first.name, first.score) == ("7.png", 1.0)
    assert "noise below the usual" in first.reasons


def test_images_that_were_trained_on_are_compared_by_their_look_alone(
    reference: Reference, observed: Observe
) -> None:
    observations = observed([ordinary(40_000 + seed) for seed in range(SAMPLE)])
    watched = [Watched(str(place), one, place < 15) for place, one in enumerate(observations)]
    drift = compare(reference, watched, NAMES, 3, 0.01, 20)
    assert [test.name for test in drift.tests] == [LOOK]
    assert set(drift.left_out) == {FEATURES, CLASSES, CONFIDENCE}
    assert "trained on 15 of the 30 images" in drift.left_out[CLASSES]
    by_ten = compare(reference, watched, NAMES, 3, 0.01, 10)
    assert [test.images for test in by_ten.tests] == [30, 15, 15, 15]


def test_without_features_the_rest_is_compared(reference: Reference) -> None:
    def plain(one: Observation) -> Observation:
        assert one.predicted is not None
        return replace(one, predicted=replace(one.predicted, embedding=None, entropy=None))

    drift = compared(reference, [plain(one) for one in reference.val[:SAMPLE]])
    assert [test.name for test in drift.tests] == [LOOK, CLASSES, CONFIDENCE]
    assert drift.left_out[FEATURES] == (
        "an export of the model predicted 30 of the 30 images, and an export gives no access to "
        "its network"
    )
    assert len(drift.unusual) == SAMPLE
    mixed = [plain(reference.val[0]), *reference.val[1:SAMPLE]]
    assert "predicted 1 of the 30 images" in compared(reference, mixed).left_out[FEATURES]
    old = replace(reference, val=tuple(map(plain, reference.val)))
    sentence = "the model's bundle gives no access to its network"
    assert compared(old, mixed).left_out[FEATURES] == sentence


def test_features_of_two_networks_are_refused(reference: Reference) -> None:
    shares = (1.0, 0.0, 0.0)
    other = Predicted(shares, 0.5, 0.5, np.zeros(3, np.float16))
    sample = [replace(one, predicted=other) for one in reference.val[:SAMPLE]]
    with pytest.raises(SegopsError, match="log was changed"):
        compared(reference, sample)


def test_a_reference_is_kept_and_a_damaged_one_is_not_taken(
    predictor: BundledPredictor, tmp_path: Path
) -> None:
    images = {f"i{number}": ordinary(number) for number in range(8)}
    images["copy"] = images["i0"]
    ids = {"train": (*tuple(images)[:5], "copy"), "val": tuple(images)[5:8]}
    path = kept_path(tmp_path, "a" * 64, "b" * 64)

    made = measure(predictor, Images(ids, images.__getitem__, lambda _: (40, 56)), path, "a" * 64)
    assert (len(made.train), len(made.val)) == (5, 3)
    again = read_kept(path, "a" * 64)
    assert again is not None
    # What is kept equals what is observed again: other digits would be a drift.
    assert set(again.train) == {observe(images[f"i{one}"]) for one in range(5)}
    content = path.read_bytes()
    measure(predictor, Images(ids, images.__getitem__, lambda _: (40, 56)), path, "a" * 64)
    assert path.read_bytes() == content
    path.write_bytes(content[:-40])
    assert read_kept(path, "a" * 64) is None


def test_a_log_gives_the_images_of_its_model(
    predictor: BundledPredictor, observed: Observe, tmp_path: Path
) -> None:
    observations = observed([ordinary(seed) for seed in range(6)])
    own, other = PredictionLog(tmp_path, "own", names=True), PredictionLog(tmp_path, "other")
    for number, one in enumerate(observations):
        (other if number == 2 else own).add(one, f"{number}.jpg")
    sample = samples.of_log(predictor, "own", tmp_path)
    assert (len(sample.images), sample.total, sample.others) == (5, 5, 1)
    assert {one.name for one in sample.images} == {f"{number}.jpg" for number in (0, 1, 3, 4, 5)}
    assert samples.of_log(predictor, "own", tmp_path, days=1).total == 5
    assert samples.of_log(predictor, "own", tmp_path, days=0).total == 0
    assert len(list(read_log(tmp_path))) == 6
    for _ in range(2):
        own.add(observations[5], "again.jpg")
    sample = samples.of_log(predictor, "own", tmp_path)
    assert (len(sample.images), sample.total, sample.repeated) == (5, 7, 2)
    assert {one.name for one in sample.images} >= {"0.jpg", "again.jpg"}
    own.add(replace(observations[0], statistics=(1.0,)), "bad.jpg")
    with pytest.raises(SegopsError, match="1 statistics"):
        samples.of_log(predictor, "own", tmp_path)


def test_of_a_long_log_the_same_images_are_chosen_whatever_their_order(
    predictor: BundledPredictor,
    observed: Observe,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(samples, "MOST", 4)
    observations = observed([ordinary(seed) for seed in range(20)])
    for name, order in (("up", 1), ("down", -1)):
        log = PredictionLog(tmp_path / name, "own", names=True)
        for one in [*observations, *observations][::order]:
            log.add(one, one.pixels)
    up, down = (samples.of_log(predictor, "own", tmp_path / name) for name in ("up", "down"))
    assert {one.name for one in up.images} == {one.name for one in down.images}
    assert (len(up.images), up.total, up.repeated) == (4, 40, 20)


def test_a_copy_of_an_image_counts_once_and_comes_when_it_is_copied(
    predictor: BundledPredictor, tmp_path: Path
) -> None:
    taken = [save(tmp_path / f"photos/{seed}.png", seed) for seed in range(3)]
    shutil.copy(taken[0], tmp_path / "photos/copy.png")
    for path in taken:
        os.utime(path, (1e9, 1e9))
    sample = samples.of_folder(predictor, tmp_path / "photos", days=1)
    assert (len(sample.images), sample.total, sample.repeated) == (3, 4, 1)
    assert samples.of_folder(predictor, tmp_path / "photos", days=0).total == 0


def test_images_that_were_trained_on_are_known_by_their_file_and_by_their_pixels(
    tmp_path: Path,
) -> None:
    files = [save(tmp_path / f"photos/{seed}.png", seed) for seed in range(3)]
    pixels = pixel_hash([picture(1)], 50, 37)
    trained = {"a": sha256_file(files[0])}
    write_trained(tmp_path / "bundle", build(SPEC), SPEC, NAMES, trained, {}, {"b": pixels})
    package(tmp_path / "bundle", tmp_path / "bundle")
    sample = samples.of_folder(load_bundle(tmp_path / "bundle"), tmp_path / "photos")
    seen = {one.name: one.is_seen for one in sample.images}
    assert seen == {"0.png": True, "1.png": True, "2.png": False}
