"""Three data sets of other shapes, by import and by parameters, up to the packed store."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import yaml
from numpy.typing import NDArray
from PIL import Image

from segops import paths
from segops.data.store import PackedStore
from segops.runtime.classes import palette
from segops.runtime.errors import SegopsError
from segops.stages import prepare, validate
from tests.support.streets import CLASSES, UNLABELLED, street, write_streets
from tests.unit.importers.conftest import Run

COLORS = {"road": (128, 64, 128), "car": (0, 0, 142)}


def set_data(root: Path, **values: object) -> None:
    """Set parameters of section `data`; no class must occur, and one image is enough."""
    tree = yaml.safe_load((root / "params.yaml").read_text())
    tree["data"] |= values
    tree["validate"] |= {"required_classes": "all", "min_train_images": 1, "min_val_images": 1}
    tree["gate"]["min_class_iou"] = {}
    (root / "params.yaml").write_text(yaml.safe_dump(tree, sort_keys=False))


def packed(root: Path) -> PackedStore:
    validate.run(root)
    prepare.run(root)
    return PackedStore(root / paths.PACKED)


def picture(seed: int, ids: int) -> tuple[NDArray[np.uint8], NDArray[np.uint8]]:
    """A photograph and a mask of `ids` ids."""
    random = np.random.default_rng(seed)
    mask = np.kron(random.integers(0, ids, (4, 5)), np.ones((8, 8))).astype(np.uint8)
    mask[:8, :8], mask[:8, 8:16] = 0, 1
    return random.integers(0, 256, (*mask.shape, 3), np.uint8), mask


def save(path: Path, pixels: NDArray[np.uint8]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(pixels).save(path)


def in_voc_layout(root: Path, masks: dict[str, NDArray[np.uint8]], splits: list[str]) -> None:
    for (name, mask), seed in zip(masks.items(), range(len(masks)), strict=True):
        save(root / f"JPEGImages/{name}.png", picture(seed, 2)[0])
        save(root / f"SegmentationClass/{name}.png", mask)
    lists = root / "ImageSets/Segmentation"
    lists.mkdir(parents=True)
    for split in ("train", "val"):
        own = [name for name, one in zip(masks, splits, strict=True) if one == split]
        (lists / f"{split}.txt").write_text("".join(f"{name}\n" for name in own))


def test_colour_masks_with_a_yaml_split(source: Path, root: Path, run_import: Run) -> None:
    set_data(root)
    expected = {}
    for seed in range(4):
        image, expected[f"p{seed}"] = picture(seed, 2)
        save(source / f"images/p{seed}.png", image)
        table = np.array([*COLORS.values()], np.uint8)
        save(source / f"labels/p{seed}.png", table[expected[f"p{seed}"]])
    (source / "split.yaml").write_text("train: [p0, p1, p3]\nval: [p2]\n")
    (source / "colors.txt").write_text(
        "".join(f"{name} {r} {g} {b}\n" for name, (r, g, b) in COLORS.items())
    )
    run_import("folder", source, colors=source / "colors.txt", lists=source / "split.yaml")
    store = packed(root)
    assert store.class_names == ("road", "car")
    assert (store.ids("train"), store.ids("val")) == (("p0", "p1", "p3"), ("p2",))
    for name, mask in expected.items():
        assert (store.mask(name) == mask).all()


def test_colour_masks_of_voc_by_parameters(root: Path) -> None:
    masks = {f"p{seed}": picture(seed, 4)[1] for seed in range(3)}
    colours = {name: palette()[mask] for name, mask in masks.items()}
    in_voc_layout(root / "data/voc", colours, ["train", "train", "val"])
    # Ids 2 and 0 are one class; 3 is void.
    set_data(root, classes=[{"name": "ground", "ids": [2, 0]}, "car"], ignore=[3])
    store = packed(root)
    assert store.class_names == ("ground", "car")
    for name, mask in masks.items():
        assert (store.mask(name) == np.array([0, 1, 0, 255])[mask]).all()


def test_binary_masks_in_class_folders(source: Path, root: Path, run_import: Run) -> None:
    set_data(root)
    for seed in range(6):
        image, mask = picture(seed, 2)
        split = "train" if seed < 4 else "val"
        save(source / split / f"images/crack/c{seed}.png", image)
        save(source / split / f"masks/crack/c{seed}.png", 255 * mask)
    run_import("folder", source, values="0=background,255=crack")
    store = packed(root)
    assert store.class_names == ("background", "crack")
    assert [len(store.ids(split)) for split in ("train", "val")] == [4, 2]
    for name in store.ids("val"):
        assert np.unique(store.mask(name)).tolist() == [0, 1]


def test_binary_masks_in_place_say_what_mends_them(root: Path, run_import: Run) -> None:
    masks = {f"p{seed}": picture(seed, 2)[1] for seed in range(3)}
    target = root / "data/voc"
    in_voc_layout(target, {name: 255 * mask for name, mask in masks.items()},
                  ["train", "train", "val"])  # fmt: skip
    set_data(root, classes=["sound", "crack"])
    with pytest.raises(SegopsError) as caught:
        validate.run(root)
    first, advice = str(caught.value).splitlines()[:2]
    assert first.startswith("data/voc: not fit for training. 1 of ")
    assert "2 of 2 masks of train hold 0 and 255 alone" in advice
    assert (
        "`segops data import folder data/voc --values 0=sound,255=crack --lists "
        "data/voc/ImageSets/Segmentation`" in advice
    )
    assert "look like binary masks" in (root / paths.VALIDATION_PAGE).read_text()
    run_import(
        "folder", target, values="0=sound,255=crack", lists=target / "ImageSets/Segmentation"
    )
    store = packed(root)
    for name, mask in masks.items():
        assert (store.mask(name) == mask).all()


def test_eleven_classes_without_background(source: Path, root: Path, run_import: Run) -> None:
    splits = write_streets(root / "data/voc", train=4, val=2)
    set_data(root)
    with pytest.raises(SegopsError, match="ids 0 to 11 and no other: these do not look like VOC's"):
        validate.run(root)
    set_data(root, classes=list(CLASSES), ignore=[UNLABELLED])
    store = packed(root)
    found = {name: store.mask(name).copy() for name in (*splits["train"], *splits["val"])}
    by_parameters = store.data_hash
    for seed, name in enumerate(found):
        mask = street(seed)[1]
        assert (found[name] == np.where(mask == UNLABELLED, 255, mask)).all()
    for name, mask in found.items():
        split = "train" if name in splits["train"] else "val"
        save(source / split / f"images/{name}.png", store.image(name))
        save(source / split / f"masks/{name}.png", np.where(mask == 255, UNLABELLED, mask))
    run_import("folder", source, classes=CLASSES, ignore=(str(UNLABELLED),))
    assert yaml.safe_load((root / "params.yaml").read_text())["data"]["ignore"] == []
    store = packed(root)
    assert store.class_names == CLASSES
    assert store.data_hash != by_parameters
    for name, mask in found.items():
        assert (store.mask(name) == mask).all()
