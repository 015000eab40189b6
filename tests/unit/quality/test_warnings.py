"""Warnings about data that pass: each with data that call for it, and data that do not."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from numpy.typing import NDArray
from PIL import Image

from segops.quality.borders import count_pixels
from segops.quality.checks import Notice
from segops.quality.facts import scan
from segops.quality.split_differences import superiority
from segops.quality.warnings import warnings
from segops.runtime.classes import VOID
from segops.voc.layout import Layout, open_layout

NAMES = ("ground", "cat", "dog", "bird")
SIDE = 100


def row(index: int, split: str, held: Mapping[int, int], **more: Any) -> dict[str, Any]:
    """Facts of an image whose mask holds so many pixels of each id; solid areas, usual colours."""
    rng = np.random.default_rng(index)
    return {
        "image_id": f"{split}{index}",
        "split": split,
        "width": 100,
        "height": 80,
        "mode": "RGB",
        "label_ids": list(held),
        "label_pixels": list(held.values()),
        "label_border": [min(4 * int(pixels**0.5), pixels // 2) for pixels in held.values()],
        "label_loose": [0 for _ in held],
        "band_means": (120 + 20 * rng.standard_normal(3)).tolist(),
        "band_deviations": (50 + 5 * rng.standard_normal(3)).tolist(),
    } | more


def rows(split: str, count: int, *held: Mapping[int, int]) -> list[dict[str, Any]]:
    """Facts of so many images, their masks in turn."""
    return [row(index, split, held[index % len(held)]) for index in range(count)]


EVEN = (
    {0: 5000, 1: 3000},
    {0: 5000, 2: 3000, VOID: 9},
    {0: 5000, 3: 3000},
    {0: 4000, 1: 1, 2: 900},
)


def found(facts: Sequence[Mapping[str, Any]], **more: Any) -> dict[str, Notice]:
    frame = pd.DataFrame(facts).astype({"width": "Int32", "height": "Int32"})
    told = warnings(frame, NAMES, more.pop("background", "ground"), **more)
    return {one.name: one for one in told}


def test_even_data_call_for_nothing() -> None:
    data = [*rows("train", 60, *EVEN), *rows("val", 24, *EVEN), *rows("test", 24, *EVEN)]
    assert found(data) == {}


def test_a_test_that_is_left_out_is_told() -> None:
    (one,) = found(
        [*rows("train", 60, *EVEN), *rows("val", 24, *EVEN)], unlabelled=["x", "y"]
    ).values()
    assert "test is left out: 2 images of its list without a mask: x, y." in one.found


def test_classes_that_one_split_lacks() -> None:
    some = [*EVEN[:2], {0: 5000, 1: 3000, 2: 500}]
    untrained = found([*rows("train", 60, *some), *rows("val", 24, *EVEN)])
    assert set(untrained) == {"classes that train lacks"}
    assert "val holds bird: no mask of train does" in untrained["classes that train lacks"].found
    unscored = found([*rows("train", 60, *EVEN), *rows("val", 24, *some)])
    assert set(unscored) == {"classes that val lacks"}
    assert "train holds bird: no mask of val does" in unscored["classes that val lacks"].found


@pytest.mark.parametrize(("count", "told"), [(4, True), (5, False)])
def test_a_class_in_few_images_of_val(count: int, told: bool) -> None:
    val = [*rows("val", 20, *EVEN[:2], EVEN[3]), *rows("more", count, EVEN[2])]
    for one in val:
        one["split"] = "val"
    names = found([*rows("train", 60, *EVEN), *val])
    assert (set(names) == {"val cannot judge a class"}) is told
    assert not told or "bird (4)" in names["val cannot judge a class"].found


def test_a_rare_class_of_train_names_the_parameters() -> None:
    train = rows("train", 200, *EVEN[:2], EVEN[3])
    train[0] = row(0, "train", {0: 5000, 3: 3000})
    told = found([*train, *rows("val", 24, *EVEN)])
    assert set(told) == {"imbalance"}
    assert "bird (0.21% of the pixels, 1 image)" in told["imbalance"].found
    assert told["imbalance"].parameter == "train.sampling, train.class_weights, gate.min_class_iou"
    train[::2] = [row(index, "train", {0: 9000, 3: 2}) for index in range(0, 200, 2)]
    specks = found([*train, *rows("val", 24, *EVEN)])["imbalance"].found
    assert "bird (0.013% of the pixels, 100 images)" in specks


def test_empty_masks() -> None:
    some = [*rows("train", 60, *EVEN), *rows("val", 24, *EVEN, {0: 8000})]
    assert found(some) == {}
    many = [*rows("train", 60, *EVEN), *rows("val", 40, *EVEN, {0: 8000}, {0: 8000})]
    assert set(found(many)) == {"empty masks in val"}
    assert "12 of 40 masks of val hold ground alone" in found(many)["empty masks in val"].found
    assert found(many, background=None) == {}
    void = [*rows("train", 60, *EVEN), row(99, "train", {VOID: 8000}), *rows("val", 24, *EVEN)]
    assert set(found(void)) == {"masks of void alone"}
    assert "train99 in train" in found(void)["masks of void alone"].found


def test_classes_that_never_come_apart() -> None:
    pair = ({0: 5000, 1: 900, 2: 900}, {0: 5000, 3: 900})
    told = found([*rows("train", 60, *pair), *rows("val", 24, *pair)])
    assert set(told) == {"classes never apart"}
    assert "cat and dog (42 images)" in told["classes never apart"].found
    # Seen once without the other, and classes that are everywhere: nothing.
    apart = [*rows("train", 60, *pair), row(99, "train", {0: 5000, 1: 90}), *rows("val", 24, *pair)]
    assert found(apart) == {}
    everywhere = ({0: 5000, 1: 900, 2: 900},)
    assert "classes never apart" not in found([*rows("train", 60, *everywhere)])


@pytest.mark.parametrize(
    ("change", "name", "words"),
    [
        (
            {"width": 400, "height": 320},
            "sizes differ",
            "the image of val is larger than that of train",
        ),
        (
            {"width": 50, "height": 160},
            "sizes differ",
            "the image of train is wider than that of val",
        ),
        ({"band_means": [220.0]}, "colours differ", "the image of val is brighter"),
        ({"band_means": [200.0, 60.0, 60.0]}, "colours differ", "the image of val is redder"),
        (
            {"band_deviations": [9.0] * 3},
            "colours differ",
            "the image of train is richer in contrast",
        ),
    ],
)
def test_splits_that_differ(change: dict[str, Any], name: str, words: str) -> None:
    val = [one | change for one in rows("val", 24, *EVEN)]
    told = found([*rows("train", 60, *EVEN), *val])
    assert set(told) == {f"{name} between splits"}
    assert words in told[f"{name} between splits"].found


def test_superiority_is_an_effect_and_not_a_number_of_images() -> None:
    rng = np.random.default_rng(0)
    one = rng.standard_normal(100_000)
    assert superiority(one + 0.1, rng.standard_normal(100_000)) == pytest.approx(0.528, abs=0.01)
    assert superiority(np.ones(3), np.zeros(50)) == 0.5  # three images prove nothing
    assert superiority(np.ones(30), np.zeros(50)) == 1.0
    assert superiority(np.array([np.nan]), np.zeros(50)) is None
    with_outlier = np.append(one, 1e12)
    assert superiority(with_outlier, one) == 0.5


def test_border_pixels_of_a_mask() -> None:
    mask = np.zeros((1100, 40), np.uint8)
    mask[500:600, 10:30] = 3  # over the edge between two parts
    mask[5, 5] = 7
    _, border, loose = count_pixels(mask)
    assert border[3] == 2 * 100 + 2 * 18
    assert (border[7], loose[7]) == (1, 1)
    assert border[0] == 2 * (100 + 20) + 4
    assert loose.sum() == 1
    rng = np.random.default_rng(0)
    for shape in ((1, 1), (1, 4), (512, 1), (513, 2), (1025, 3)):
        noise = rng.integers(0, 3, shape).astype(rng.choice([np.uint8, np.uint16]))
        both = zip(count_pixels(noise), _slowly(noise), strict=True)
        assert all(np.array_equal(*pair) for pair in both)


def _slowly(mask: NDArray[np.uint8]) -> tuple[NDArray[np.int64], ...]:
    every, border, loose = (np.zeros(256, np.int64) for _ in range(3))
    height, width = mask.shape
    for y in range(height):
        for x in range(width):
            near = [
                mask[b, a]
                for b, a in ((y - 1, x), (y + 1, x), (y, x - 1), (y, x + 1))
                if 0 <= b < height and 0 <= a < width
            ]
            every[mask[y, x]] += 1
            own = sum(one == mask[y, x] for one in near)
            if own < len(near):
                border[mask[y, x]] += 1
                loose[mask[y, x]] += own <= 1
    return every, border, loose


def disk(value: int, radius: int = 30) -> NDArray[np.uint8]:
    y, x = np.mgrid[:SIDE, :SIDE]
    return ((x - 50) ** 2 + (y - 50) ** 2 < radius**2).astype(np.uint8) * value


def write(root: Path, masks: Sequence[NDArray[np.uint8]]) -> Layout:
    """Half of the masks in train, half in val; the photographs are grey, RGB and palette images."""
    layout = Layout(root)
    for name in ("JPEGImages", "SegmentationClass"):
        (root / name).mkdir(parents=True)
    for index, mask in enumerate(masks):
        Image.fromarray(mask).save(layout.mask_path(f"i{index:02d}"))
        image = Image.new("RGB", (SIDE, SIDE), (10, 20, 30 + index))
        mode = ("RGB", "L", "P")[index % 3]
        image.convert(mode).save(root / f"JPEGImages/i{index:02d}.png")
    half = len(masks) // 2
    layout.write_list("train", [f"i{index:02d}" for index in range(half)])
    layout.write_list("val", [f"i{index:02d}" for index in range(half, len(masks))])
    return open_layout(root)


def test_files_that_cannot_be_read_are_left_to_the_checks(tmp_path: Path) -> None:
    layout = write(tmp_path / "voc", [disk(1)] * 4)
    for image_id in layout.ids("train"):
        layout.mask_path(image_id).write_bytes(b"no mask")
        layout.image_path(image_id).write_bytes(b"no image")
    told = warnings(scan(layout), NAMES, "ground")
    assert {one.name for one in told} == {"classes that train lacks", "val cannot judge a class"}
    for image_id in layout.ids("val"):
        layout.mask_path(image_id).unlink()
        layout.image_path(image_id).unlink()
    assert warnings(scan(layout), NAMES, "ground") == ()


def test_a_fourth_band_that_rgb_leaves_out_is_told(tmp_path: Path) -> None:
    layout = write(tmp_path / "voc", [disk(1)] * 4)
    Image.new("RGBA", (SIDE, SIDE)).save(layout.image_path("i00"))
    path = layout.image_path("i01")
    image = Image.open(path).convert("RGBA")
    assert "a fourth band is not read" not in {one.name for one in warnings(scan(layout), NAMES)}
    image.paste((0, 0, 0, 9), (20, 20, 60, 60))
    image.save(path)
    (told,) = (one for one in warnings(scan(layout), NAMES) if "fourth" in one.name)
    assert told.found == "The fourth band of 1 image is left out: i01."
    assert told.parameter == "data.channels"


def test_soft_and_noisy_masks_are_seen_in_the_pixels(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    clean = [disk(1 + index % 3, 20 + index // 2) for index in range(32)]
    noisy = [mask.copy() for mask in clean]
    soft = []
    for mask in noisy:
        flipped = rng.random(mask.shape) < 0.02
        mask[flipped] = 0
    for index in range(32):
        image = Image.fromarray(disk(255, 20 + index // 2)).resize(
            (50, 50), Image.Resampling.BILINEAR
        )
        soft.append(np.asarray(image.resize((SIDE, SIDE), Image.Resampling.BILINEAR)))
    told = {}
    for name, masks in (("clean", clean), ("noisy", noisy), ("soft", soft)):
        facts = scan(write(tmp_path / name, masks))
        told[name] = {one.name: one for one in warnings(facts, NAMES, "ground")}
        if name == "clean":
            assert facts["band_means"][0].tolist() == [10, 20, 30]
            assert len(facts["band_means"][1]) == 1
            assert facts["band_means"][2] is None
    assert told["clean"] == {}
    assert set(told["noisy"]) == {"label noise at borders"}
    assert "soft masks" in told["soft"]
    assert "32 masks with 4 or more values" in told["soft"]["soft masks"].found
    assert "between those of two areas" in told["soft"]["soft masks"].found
