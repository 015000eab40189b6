"""Images that show the same picture are found; others are not."""

from __future__ import annotations

from io import BytesIO

import cv2
import numpy as np
import pandas as pd
import pytest
from numpy.typing import NDArray
from PIL import Image

from segops.quality.checks import MOST_PAIRS, Validation
from segops.quality.duplicate_rules import allowed, notices
from segops.quality.duplicates import Duplicate, candidates, find, halved, perceptual_hash
from segops.voc.hashes import pixel_hash

Pixels = NDArray[np.uint8]


def scene(seed: int, size: tuple[int, int] = (300, 400)) -> Pixels:
    """A smooth random picture with edges."""
    random = np.random.default_rng(seed)
    coarse = random.integers(0, 256, (7, 9, 3)).astype(np.uint8)
    image = cv2.resize(coarse, size[::-1], interpolation=cv2.INTER_CUBIC)
    for _ in range(6):
        center = (int(random.integers(size[1])), int(random.integers(size[0])))
        color = [int(one) for one in random.integers(0, 256, 3)]
        cv2.circle(image, center, int(random.integers(15, 60)), color, -1)
    return image


def compressed(image: Pixels) -> Pixels:
    stream = BytesIO()
    Image.fromarray(image).save(stream, "JPEG", quality=50)
    return np.array(Image.open(stream))


TWINS = {
    "compressed": compressed,
    "half": lambda one: cv2.resize(one, None, fx=0.5, fy=0.5, interpolation=cv2.INTER_AREA),
    "cropped": lambda one: one[3:-3, 4:-4],
    "brighter": lambda one: np.clip(one * 1.05, 0, 255).astype(np.uint8),
    "mirrored": lambda one: one[:, ::-1],
}


def hashed(image: Pixels) -> str | None:
    return perceptual_hash(halved(Image.fromarray(image)))


def table(images: dict[str, tuple[str, Pixels]]) -> pd.DataFrame:
    rows = [
        (name, split, pixel_hash([one], *one.shape[1::-1]), hashed(one), *one.shape[1::-1])
        for name, (split, one) in images.items()
    ]
    columns = ["image_id", "split", "image_pixels", "perceptual_hash", "width", "height"]
    return pd.DataFrame(rows, columns=columns)


def found(images: dict[str, tuple[str, Pixels]]) -> tuple[Duplicate, ...]:
    return find(table(images), lambda name: images[name][1])


@pytest.mark.parametrize("name", TWINS)
def test_a_twin_is_found_among_strangers(name: str) -> None:
    images = {f"s{seed}": ("train", scene(seed)) for seed in range(12)}
    images["twin"] = ("val", np.ascontiguousarray(TWINS[name](scene(3))))
    (pair,) = found(images)
    assert (pair.image_id, pair.other_id, pair.across) == ("s3", "twin", True)
    assert pair.mirrored is (name == "mirrored")
    assert not pair.same_pixels


def test_equal_pixels_are_a_pair_with_the_first() -> None:
    images = {name: ("train", scene(1)) for name in "abc"}
    pairs = found(images)
    assert [(one.image_id, one.other_id) for one in pairs] == [("a", "b"), ("a", "c")]
    assert all(one.same_pixels and one.similarity == 1 for one in pairs)


def test_a_pair_is_found_beside_another_picture_of_its_hash() -> None:
    grey = scene(1)[..., :1]
    red, blue = (np.where(np.arange(3) == channel, grey, 0) for channel in (0, 2))
    again = blue.copy()
    again[0, 0, 2] ^= 1
    images = {"red": ("train", red), "blue": ("train", blue), "again": ("val", again)}
    facts = table(images)
    facts["perceptual_hash"] = facts["perceptual_hash"].iloc[0]
    (pair,) = find(facts, lambda name: images[name][1])
    assert (pair.image_id, pair.other_id) == ("blue", "again")


@pytest.mark.parametrize(("share", "is_pair"), [(0.35, False), (0.05, True)])
def test_a_picture_with_a_share_of_another_is_a_pair_while_it_is_small(
    share: float, is_pair: bool
) -> None:
    blend = ((1 - share) * scene(1) + share * scene(2)).astype(np.uint8)
    images = {"one": ("train", scene(1)), "blend": ("val", blend)}
    facts = table(images)
    facts["perceptual_hash"] = facts["perceptual_hash"].iloc[0]
    assert bool(find(facts, lambda name: images[name][1])) is is_pair


def test_flat_images_are_compared_by_their_pixels_alone() -> None:
    flat = {f"f{grey}": ("train", np.full((40, 50, 3), grey, np.uint8)) for grey in range(9)}
    assert found(flat) == ()
    assert hashed(flat["f3"][1]) is None


def test_each_of_many_similar_images_is_read_once() -> None:
    random, base = np.random.default_rng(0), scene(1, (96, 96)).astype(int)
    images = {
        f"i{number:02}": ("train", np.clip(base + noise, 0, 255).astype(np.uint8))
        for number, noise in enumerate(random.integers(-9, 10, (40, 96, 96, 3)))
    }
    read: list[str] = []

    def counted(name: str) -> Pixels:
        read.append(name)
        return images[name][1]

    pairs = find(table(images), counted)
    assert len(pairs) > 40
    assert len(read) == len(set(read)) <= 40
    several = Validation((), duplicates=pairs * 40).to_json()
    assert len(several["near_duplicates"]) == MOST_PAIRS < several["all_near_duplicates"]


def test_what_is_compared_grows_with_the_number_of_images_alone() -> None:
    alike = np.random.default_rng(0).choice(2**12, 2000, replace=False).astype(np.uint64)
    assert len(candidates(alike)) <= 2000 * 200
    assert candidates(np.zeros(0, dtype=np.uint64)) == []


@pytest.mark.parametrize("size", [(5, 3), (255, 700), (2047, 2053), (4099, 1030)])
def test_a_large_image_ishalved_strip_by_strip(
    size: tuple[int, int], monkeypatch: pytest.MonkeyPatch
) -> None:
    image = np.random.default_rng(0).integers(0, 256, (*size, 3)).astype(np.uint8)
    whole = halved(Image.fromarray(image))
    times = max(0, min(size).bit_length() - 8)
    assert whole.shape == (size[0] >> times, size[1] >> times)
    first = cv2.cvtColor(image[: 1 << times, : 1 << times], cv2.COLOR_RGB2GRAY)
    assert abs(float(whole[0, 0]) - first.mean()) < 2
    monkeypatch.setattr("segops.runtime.rgb._STRIP", 70_000)
    np.testing.assert_array_equal(halved(Image.fromarray(image)), whole)


def test_equal_pixels_of_any_mode_have_equal_hashes() -> None:
    grey = scene(5)[..., 0]
    image = Image.fromarray(grey)
    forms = [image, *(image.convert(mode) for mode in ("RGB", "RGBA", "LA", "RGBX", "P"))]
    assert len({halved(one).tobytes() for one in forms}) == 1


def test_the_hash_of_pixels_is_that_of_their_strips_and_size() -> None:
    image = scene(5)
    whole = pixel_hash([image], 400, 300)
    assert pixel_hash([image[:70], image[70:]], 400, 300) == whole
    assert pixel_hash([image], 300, 400) != whole


def test_the_bound_counts_pairs_across_splits() -> None:
    pairs = (
        Duplicate("a", "train", "b", "val", False, 0.99),
        Duplicate("c", "train", "d", "train", False, 0.98),
    )
    (refused,), (passed,) = allowed(pairs, 0), allowed(pairs, 1)
    assert not refused.passed
    assert passed.passed
    assert passed.findings == ()
    assert "b shows the same picture as a of train" in refused.findings[0].message
    assert allowed(pairs, None) == ()
    assert [one.name for one in notices(pairs, None)] == [
        "near-duplicates across splits",
        "near-duplicates within a split",
    ]
    assert len(notices(pairs, 0)) == 1
