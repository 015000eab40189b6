"""The generated sample: its form, its making, and that colour does not give it away."""

from __future__ import annotations

import hashlib
import json
import logging
import platform
import subprocess
import sys
from collections import Counter
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image, ImageFilter

from segops.metrics.confusion import confusion_matrix
from segops.metrics.iou import class_pixels, miou
from segops.runtime.classes import VOC_CLASSES, VOID, palette
from segops.runtime.images import read_image
from segops.runtime.masks import read_mask
from segops.voc.layout import Layout, open_layout
from tools.sample import CLASS_IDS, SHIPPED, SHIPPED_MD5, generate, scene
from tools.sample.scene import void_border

CLASSES = len(VOC_CLASSES)
REMOTE = Path(__file__).parents[3] / "data/sample/files/md5"
log = logging.getLogger("segops.test")


@pytest.fixture(scope="module")
def shipped(tmp_path_factory: pytest.TempPathFactory) -> Layout:
    """The shipped sample, made anew."""
    target = tmp_path_factory.mktemp("sample") / "voc"
    generate(target, **SHIPPED)
    return open_layout(target)


def contents(root: Path) -> dict[str, bytes]:
    return {
        path.relative_to(root).as_posix(): path.read_bytes()
        for path in sorted(root.rglob("*"))
        if path.is_file()
    }


def directory_md5(root: Path) -> str:
    """The hash by which DVC names a directory."""
    entries = [
        {"md5": hashlib.md5(content).hexdigest(), "relpath": name}
        for name, content in sorted(contents(root).items())
    ]
    return hashlib.md5(json.dumps(entries, sort_keys=True).encode()).hexdigest() + ".dir"


def test_form_is_that_of_voc(tiny_voc: Path) -> None:
    layout = open_layout(tiny_voc)
    assert {split: len(ids) for split, ids in layout.splits().items()} == {"train": 12, "val": 6}
    listed = sorted(layout.ids("train") + layout.ids("val"))
    assert [path.stem for path in sorted(tiny_voc.glob("JPEGImages/*.jpg"))] == listed
    assert [path.stem for path in sorted(tiny_voc.glob("SegmentationClass/*.png"))] == listed
    for image_id in listed:
        with Image.open(layout.image_path(image_id)) as image:
            assert (image.format, image.mode) == ("JPEG", "RGB")
            size = image.size
        with Image.open(layout.mask_path(image_id)) as mask:
            assert (mask.format, mask.mode, mask.size) == ("PNG", "P", size)
            colours = np.array(mask.getpalette("RGB"), dtype=np.uint8).reshape(-1, 3)
            used = np.unique(np.array(mask))
        np.testing.assert_array_equal(colours[used], palette()[used])


def test_same_seed_gives_the_same_bytes(tiny_voc: Path, tmp_path: Path) -> None:
    generate(tmp_path / "again", train=12, val=6, seed=3, size=(80, 64))
    assert contents(tmp_path / "again") == contents(tiny_voc)
    generate(tmp_path / "again", train=12, val=6, seed=4, size=(80, 64))
    assert contents(tmp_path / "again") != contents(tiny_voc)


def test_val_pictures_do_not_depend_on_how_many_are_trained_on(tmp_path: Path) -> None:
    generate(tmp_path / "few", train=1, val=2, seed=3, size=(80, 64))
    generate(tmp_path / "more", train=3, val=2, seed=3, size=(80, 64))
    few, more = open_layout(tmp_path / "few"), open_layout(tmp_path / "more")
    for one, other in zip(few.ids("val"), more.ids("val"), strict=True):
        assert few.image_path(one).read_bytes() == more.image_path(other).read_bytes()


def test_every_split_needs_an_image(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="at least one image in each split"):
        generate(tmp_path / "voc", train=0, val=1, seed=0)
    assert not (tmp_path / "voc").exists()


def test_command_makes_what_the_function_makes(tiny_voc: Path, tmp_path: Path) -> None:
    arguments = ["--train", "12", "--val", "6", "--seed", "3", "--width", "80", "--height", "64"]
    command = [sys.executable, "-m", "tools.sample", str(tmp_path / "made"), *arguments]
    subprocess.run(command, check=True, cwd=Path(__file__).parents[3])
    assert contents(tmp_path / "made") == contents(tiny_voc)


def test_even_the_smallest_set_holds_all_classes_in_train(tiny_voc: Path) -> None:
    layout = open_layout(tiny_voc)
    masks = [read_mask(layout.mask_path(image_id)) for image_id in layout.ids("train")]
    seen = set(np.unique(np.concatenate([mask.ravel() for mask in masks])).tolist())
    assert seen == {0, VOID, *CLASS_IDS}


def test_classes_are_the_eight_named() -> None:
    assert {VOC_CLASSES[class_id] for class_id in CLASS_IDS} == {
        "aeroplane",
        "bird",
        "boat",
        "bottle",
        "bus",
        "car",
        "pottedplant",
        "tvmonitor",
    }


@pytest.mark.parametrize("index", range(12))
def test_void_runs_along_outlines_and_between_all_labels(index: int) -> None:
    drawn = scene(5, 0, index)
    mask = drawn.mask()
    assert 1 <= drawn.border <= 3
    for one, other in ((mask[1:], mask[:-1]), (mask[:, 1:], mask[:, :-1])):
        assert not ((one != other) & (one != VOID) & (other != VOID)).any()
    expected = np.array([0, *drawn.class_ids])[drawn.objects]
    inner = mask != VOID
    np.testing.assert_array_equal(mask[inner], expected[inner])
    picture = Image.fromarray(drawn.objects)
    highest, lowest = (
        np.array(picture.filter(near(5))) for near in (ImageFilter.MaxFilter, ImageFilter.MinFilter)
    )
    assert (highest != lowest)[~inner].all(), "void farther than two pixels from any outline"


@pytest.mark.parametrize("width", [1, 2, 3])
def test_void_border_has_its_width(width: int) -> None:
    objects = np.zeros((20, 30), dtype=np.uint8)
    objects[5:15, 10:] = 1
    border = void_border(objects, width)
    assert border[10].sum() == width
    assert border[:, 20].sum() == 2 * width
    assert border[10].argmax() == {1: 10, 2: 9, 3: 8}[width]


@pytest.mark.slow
def test_sizes_vary_and_objects_overlap_and_touch_the_border(shipped: Layout) -> None:
    scenes = [scene(SHIPPED["seed"], 0, index) for index in range(48)]
    assert len({drawn.image.shape for drawn in scenes}) == 3
    touching = overlapping = 0
    for drawn in scenes:
        objects = drawn.objects
        rim = np.concatenate([objects[0], objects[-1], objects[:, 0], objects[:, -1]])
        touching += bool(rim.any())
        pairs = np.concatenate(
            [
                np.stack([objects[1:], objects[:-1]], -1).reshape(-1, 2),
                np.stack([objects[:, 1:], objects[:, :-1]], -1).reshape(-1, 2),
            ]
        )
        overlapping += bool(((pairs[:, 0] != pairs[:, 1]) & pairs.all(axis=1)).any())
    assert touching > len(scenes) // 4
    assert overlapping > len(scenes) // 4


@pytest.mark.slow
def test_classes_are_balanced(shipped: Layout) -> None:
    for split in ("train", "val"):
        images: Counter[int] = Counter()
        pixels: Counter[int] = Counter()
        for image_id in shipped.ids(split):
            ids, counts = np.unique(read_mask(shipped.mask_path(image_id)), return_counts=True)
            images.update(ids.tolist())
            pixels.update(dict(zip(ids.tolist(), counts.tolist(), strict=True)))
        assert set(images) == {0, VOID, *CLASS_IDS}
        share = len(shipped.ids(split)) / len(CLASS_IDS)
        assert min(images[class_id] for class_id in CLASS_IDS) >= share
        areas = [pixels[class_id] for class_id in CLASS_IDS]
        assert max(areas) < 3 * min(areas)
        assert 0.01 < pixels[VOID] / pixels.total() < 0.15


def look_up(shipped: Layout, bits: int) -> tuple[float, float]:
    """MIoU on val of the best class of each colour, and of background everywhere."""

    def codes(image: NDArray[np.uint8]) -> NDArray[np.int64]:
        steps = (image >> (8 - bits)).astype(np.int64)
        return (steps[..., 0] << 2 * bits) | (steps[..., 1] << bits) | steps[..., 2]

    def pairs(split: str) -> list[tuple[NDArray[np.int64], NDArray[np.uint8]]]:
        return [
            (codes(read_image(shipped.image_path(name))), read_mask(shipped.mask_path(name)))
            for name in shipped.ids(split)
        ]

    both = np.concatenate([code.ravel() * 256 + mask.ravel() for code, mask in pairs("train")])
    seen = np.bincount(both, minlength=(1 << 3 * bits) * 256)
    best = seen.reshape(-1, 256)[:, :CLASSES].argmax(axis=1).astype(np.uint8)
    coloured = np.zeros((CLASSES, CLASSES), dtype=np.int64)
    background = coloured.copy()
    for code, mask in pairs("val"):
        coloured += confusion_matrix(mask, best[code], CLASSES)
        background += confusion_matrix(mask, np.zeros_like(mask), CLASSES)
    return miou(*class_pixels(coloured)), miou(*class_pixels(background))


@pytest.mark.slow
@pytest.mark.parametrize("bits", [3, 4, 5])
def test_colour_alone_tells_next_to_nothing(
    shipped: Layout, bits: int, record_property: Callable[[str, object], None]
) -> None:
    coloured, background = look_up(shipped, bits)
    record_property("colour_look_up_miou", float(coloured))
    record_property("all_background_miou", float(background))
    log.info(
        "mIoU on val: colour look-up of %d bits a channel %.4f, all background %.4f",
        bits,
        coloured,
        background,
    )
    assert background < 0.1
    assert coloured < 0.25


@pytest.mark.slow
def test_shipped_sample_is_what_the_generator_makes(shipped: Layout) -> None:
    """Decoded pixels, because compressors may write other bytes on another machine."""
    entries = json.loads((REMOTE / SHIPPED_MD5[:2] / SHIPPED_MD5[2:]).read_text())
    made = {path.relative_to(shipped.root).as_posix() for path in shipped.root.rglob("*.*")}
    assert {entry["relpath"] for entry in entries} == made
    differing = []
    for entry in entries:
        stored, made_path = (
            REMOTE / entry["md5"][:2] / entry["md5"][2:],
            shipped.root / entry["relpath"],
        )
        if stored.read_bytes() == made_path.read_bytes():
            continue
        read = {".png": read_mask, ".jpg": read_image}.get(made_path.suffix)
        if read is None or not np.array_equal(read(stored), read(made_path)):
            differing.append(entry["relpath"])
    assert not differing


@pytest.mark.skipif(
    (platform.system(), platform.machine()) != ("Linux", "x86_64"),
    reason="compressors may write other bytes elsewhere",
)
@pytest.mark.slow
def test_shipped_sample_has_the_recorded_hash(shipped: Layout) -> None:
    assert directory_md5(shipped.root) == SHIPPED_MD5


def test_shipped_sample_is_small() -> None:
    size = sum(path.stat().st_size for path in REMOTE.rglob("*") if path.is_file())
    assert size < 2.5e6
