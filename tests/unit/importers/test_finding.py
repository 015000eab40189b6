"""Which files belong together, what they are called, and what is left out."""

from __future__ import annotations

import os
import struct
import zlib
from functools import partial
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray

from segops.importers.coco import split_of
from segops.importers.files import Photographs, files_below
from segops.importers.json_files import read_object
from segops.importers.labelling import Rules, labelling
from segops.importers.source import Drawn, Source, SourceImage
from segops.importers.splits import Division
from segops.importers.write import write
from segops.runtime.errors import SegopsError
from segops.runtime.masks import read_mask
from segops.voc.layout import open_layout
from tests.unit.importers import conftest
from tests.unit.importers.conftest import Run, greyscale, small_coco, write_json

WIDTH, HEIGHT = 20, 10
pictures = partial(conftest.pictures, width=WIDTH, height=HEIGHT)
ONES = np.ones((HEIGHT, WIDTH), np.uint8)


def png_of_bits(values: NDArray[np.uint8], depth: int) -> bytes:
    """A greyscale PNG of 2 or 4 bits, which Pillow cannot write."""
    bits = np.unpackbits(values[..., None], axis=2)[..., 8 - depth :]
    rows = b"".join(b"\0" + np.packbits(row).tobytes() for row in bits.reshape(len(values), -1))
    chunks = (
        (b"IHDR", struct.pack(">IIBBBBB", *values.shape[::-1], depth, 0, 0, 0, 0)),
        (b"IDAT", zlib.compress(rows)),
        (b"IEND", b""),
    )
    return b"\x89PNG\r\n\x1a\n" + b"".join(
        struct.pack(">I", len(data)) + name + data + struct.pack(">I", zlib.crc32(name + data))
        for name, data in chunks
    )


@pytest.mark.parametrize("depth", [1, 2, 4])
def test_masks_of_few_bits(source: Path, root: Path, run_import: Run, depth: int) -> None:
    values = (np.arange(WIDTH * HEIGHT, dtype=np.uint8) % (1 << depth)).reshape(HEIGHT, WIDTH)
    pictures(source / "images", "a.png", "b.png")
    (source / "masks").mkdir()
    for name in "ab":
        (source / f"masks/{name}.png").write_bytes(png_of_bits(values, depth))
    run_import("folder", source, classes=("voc",))
    np.testing.assert_array_equal(read_mask(root / "data/voc/SegmentationClass/a.png"), values)


def test_a_photograph_is_found_by_its_path(tmp_path: Path) -> None:
    pictures(tmp_path, "train/1.png", "val/1.png", "val/2.png")
    photographs = Photographs(tmp_path, None)
    near = tmp_path / "json"
    for name, expected in (
        ("val/1.png", "val/1.png"),
        ("../train/1.png", "train/1.png"),
        ("..\\train\\1.png", "train/1.png"),
        ("/home/me/val/1.png", "val/1.png"),
        ("elsewhere/2.png", "val/2.png"),
    ):
        assert photographs.find(name, near, "x") == tmp_path / expected
    with pytest.raises(SegopsError, match=r"x: its image 1\.png may be .*train/1\.png, .*val/1"):
        photographs.find("1.png", near, "x")
    with pytest.raises(SegopsError, match=r"x: its image 3\.png is not below"):
        photographs.find("3.png", near, "x")
    assert photographs.find("1.png", tmp_path / "train", "x") == tmp_path / "train/1.png"
    in_val = Photographs(tmp_path, "val")
    assert in_val.find("1.png", tmp_path / "train", "x") == tmp_path / "val/1.png"


def test_files_of_one_name(source: Path, run_import: Run) -> None:
    for name in ("images/0.png", "photos/0.png"):
        pictures(source, name)
    greyscale(source / "masks/0.png", ONES)
    with pytest.raises(SegopsError, match=r"images/0\.png, .*photos/0\.png: the same name; --im"):
        run_import("folder", source, values="0=a,1=b")


def test_a_mask_of_two_photographs(source: Path, run_import: Run) -> None:
    pictures(source / "images", "A/1.png", "B/1.png")
    greyscale(source / "masks/1.png", ONES)
    with pytest.raises(SegopsError, match=r"masks/1\.png: the mask of .*A/1\.png and of .*B/1"):
        run_import("folder", source, values="0=a,1=b")


@pytest.mark.parametrize("name", ["9.41\u202fAM", "a ", "z\\q", "\udcff", "n" * 252, "x\ny"])
def test_names_that_can_be_no_id(source: Path, root: Path, run_import: Run, name: str) -> None:
    (root / "data/voc").mkdir(parents=True)
    (root / "data/voc/mine").write_text("kept")
    if len(name) > 200:  # a file's name is short enough, an id of several directories is not
        name = f"{'d' * 200}/{'e' * 52}"
    pictures(source / "images", "0.png", f"{name}.png")
    for one in ("0", name):
        greyscale(source / f"masks/{one}.png", ONES)
    with pytest.raises(SegopsError, match="would have the id"):
        run_import("folder", source, values="0=a,1=b")
    assert (root / "data/voc/mine").read_text() == "kept"


def test_names_of_splits_are_those_of_directories(
    source: Path, root: Path, run_import: Run
) -> None:
    pictures(source / "images", "train/0.png", "val/0.png", "val/train.png")
    for one in ("train/0", "val/0", "val/train"):
        greyscale(source / f"masks/{one}.png", ONES)
    run_import("folder", source, values="0=a,1=b")
    layout = open_layout(root / "data/voc")
    assert layout.ids("train") == ("train_0",)
    assert layout.ids("val") == ("train", "val_0")


def test_lists_of_names_that_nothing_has(source: Path, run_import: Run) -> None:
    pictures(source / "images", "0.png")
    greyscale(source / "masks/0.png", ONES)
    (source / "train.txt").write_text("x\ny\n")
    with pytest.raises(SegopsError, match="2 listed images are not there: x, y"):
        run_import("folder", source, values="0=a,1=b", lists=source)


def test_lists_of_an_export_of_cvat(source: Path, root: Path, run_import: Run) -> None:
    pictures(source / "JPEGImages", "a.png", "b.png", "c.png")
    (source / "labelmap.txt").write_text("background:0,0,0::\ncat:255,0,0::\n")
    for one in "abc":
        greyscale(source / f"SegmentationClass/{one}.png", np.zeros((HEIGHT, WIDTH, 3), np.uint8))
    lists = source / "ImageSets/Segmentation"
    lists.mkdir(parents=True)
    (lists / "Train.txt").write_text("a\n")
    (lists / "Validation.txt").write_text("b\nc\n")
    (lists / "default.txt").write_text("a\nb\nc\n")
    assert dict(run_import("cvat", source).images) == {"train": 1, "val": 2}
    greyscale(source / "SegmentationClass/a.png", np.full((HEIGHT, WIDTH, 3), 9, np.uint8))
    with pytest.raises(SegopsError) as error:
        run_import("cvat", source)
    assert "label #090909 is not mapped" in str(error.value)
    assert "--values" not in str(error.value)


@pytest.mark.parametrize(
    ("name", "split"),
    [
        ("instances_val2017", "val"), ("train", "train"), ("my-test.v2", "test"),
        ("trainval", None), ("device_annotations", None), ("values", None),
        ("latest_train", "train"),
    ],
)  # fmt: skip
def test_splits_are_whole_words(name: str, split: str | None) -> None:
    assert split_of(name) == split


def test_splits_of_directories_of_coco(source: Path, run_import: Run) -> None:
    for split in ("train", "valid"):
        pictures(source / split, "1.png", "unused.png")
        write_json(source / split / "_annotations.coco.json", small_coco("1.png"))
    imported = run_import("coco", source)
    assert dict(imported.images) == {"train": 1, "val": 1}
    assert imported.notes == (
        "2 photographs that no annotation or list names left out, such as "
        f"{source}/train/unused.png.",
    )


def test_the_split_of_an_annotation_file_tells_of_two(source: Path, run_import: Run) -> None:
    for split in ("train", "val"):
        pictures(source / f"{split}2017", "0.png")
        write_json(source / f"annotations/instances_{split}2017.json", small_coco("0.png"))
    layout = run_import("coco", source).layout
    assert (layout.ids("train"), layout.ids("val")) == (("train_0",), ("val_0",))


@pytest.mark.parametrize("form", ["coco", "cvat", "labelme"])
def test_photographs_of_one_name_get_their_directories(
    source: Path, root: Path, run_import: Run, form: str
) -> None:
    names = ["cam1/0.png", "cam1/1.png", "cam2/train/0.png"]
    pictures(source, *names)
    if form == "coco":
        write_json(source / "instances.json", small_coco(*names))
    for name in names if form == "labelme" else ():
        shape = {"label": "cat", "points": [[1, 1], [10, 1], [10, 8]]}
        tree = {"imagePath": Path(name).name, "shapes": [shape]}
        write_json((source / name).with_suffix(".json"), tree)
    if form == "cvat":
        shape = '<polygon label="cat" points="1,1;10,1;10,8"/>'
        images = "".join(f'<image name="{name}">{shape}</image>' for name in names)
        (source / "annotations.xml").write_text(f"<annotations>{images}</annotations>")
    # labelme's directories tell the split of one image, so val is taken from the others.
    run_import(form, source, share="val=0.4", group="(cam1_0|cam)")
    found = {path.stem for path in (root / "data/voc/JPEGImages").iterdir()}
    assert found == {"cam1_0", "cam1_1", "cam2_0"}


def test_official_annotations_of_coco(source: Path, run_import: Run) -> None:
    """Captions have no outlines, keypoints repeat the persons of the instances."""
    for split in ("train", "val"):
        pictures(source / f"{split}2017", f"{split}.png")
        folder, tree = source / "annotations", small_coco(f"{split}.png")
        write_json(folder / f"instances_{split}2017.json", tree)
        captions = {**tree, "annotations": [{"image_id": 0, "caption": "x"}]}
        write_json(folder / f"captions_{split}2017.json", captions)
        persons = {**tree, "categories": [{"id": 1, "name": "person", "keypoints": []}]}
        write_json(folder / f"person_keypoints_{split}2017.json", persons)
    assert run_import("coco", source).classes == ("background", "cat")
    (source / "other.json").write_text("[1]")
    assert dict(run_import("coco", source).images) == {"train": 1, "val": 1}
    # Of a file, photographs are searched in the directory above its own too.
    with pytest.raises(SegopsError, match="no image is in train"):
        run_import("coco", source / "annotations/instances_val2017.json")


@pytest.mark.parametrize(
    ("form", "name"),
    [("coco", "x.json"), ("labelme", "x.json"), ("cvat", "annotations.xml"),
     ("label-studio", "x.json"), ("supervisely", "meta.json")],
)  # fmt: skip
def test_pipes_are_no_annotations(source: Path, run_import: Run, form: str, name: str) -> None:
    pictures(source, "a.png")
    os.mkfifo(source / name)
    with pytest.raises(SegopsError, match=f"{name}: not a file"):
        run_import(form, source)


def test_what_a_library_raises_names_the_file(tmp_path: Path) -> None:
    def raising(size: tuple[int, int]) -> Drawn:
        raise ZeroDivisionError("of a library")

    pictures(tmp_path, "a.png")
    image = SourceImage("a", tmp_path / "a.png", (tmp_path / "a.json",), raising)
    words = r"a\.json: the labels of a\.png: cannot be read: ZeroDivisionError: of a library"
    with pytest.raises(SegopsError, match=words):
        write(Source((image,), ("a", "b")), tmp_path / "out", Rules(), Division(), {})
    assert not (tmp_path / "out").exists()


def test_linked_directories_are_read(tmp_path: Path) -> None:
    pictures(tmp_path / "store", "a.png")
    (tmp_path / "d/x").mkdir(parents=True)
    for name in ("d/x/one", "d/x/two"):
        (tmp_path / name).symlink_to(tmp_path / "store")
    (tmp_path / "store/back").symlink_to(tmp_path / "d")
    found = [str(path.relative_to(tmp_path)) for path in files_below(tmp_path / "d", (".png",))]
    assert found == ["d/x/one/a.png", "d/x/two/a.png"]


def test_a_directory_here_or_below_the_source(
    tmp_path: Path, source: Path, run_import: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    pictures(tmp_path / "here", "a.png", "b.png")
    for one in "ab":
        greyscale(source / f"gt/{one}.png", ONES)
    monkeypatch.chdir(tmp_path)
    for images in ("here", "here/*.png", str(tmp_path / "here"), f"{tmp_path}/he*/[ab].png"):
        imported = run_import("folder", source, images=images, masks="gt", values="0=a,1=b")
        assert sum(imported.images.values()) == 2
    for images in ("**.png", "n" * 300, "nowhere"):
        with pytest.raises(SegopsError, match=str(source)):
            run_import("folder", source, images=images, masks="gt", values="0=a,1=b")


def test_a_record_of_another_tool(source: Path, root: Path, run_import: Run) -> None:
    (root / "data/voc").mkdir(parents=True)
    (root / "data/voc/import.json").write_text("[1]")
    pictures(source / "images", "a.png", "b.png")
    for one in "ab":
        greyscale(source / f"masks/{one}.png", ONES)
    assert sum(run_import("folder", source, values="0=a,1=b").images.values()) == 2


def test_many_labels_are_counted() -> None:
    table = labelling(Rules(), ())
    labels = tuple(f"#{number:06x}" for number in range(100))
    table.mask(Drawn(labels, np.arange(100, dtype=np.int32).reshape(10, 10)), "a")
    assert len(table.problems()) == 21
    assert table.problems()[20] == "80 more labels are not mapped"


def test_masks_as_jpeg(source: Path, run_import: Run) -> None:
    pictures(source, "images/a.png", "images/b.png", "masks/a.jpg", "masks/b.jpg")
    with pytest.raises(SegopsError, match=r"a\.jpg: a JPEG, .* Save masks as PNG"):
        run_import("folder", source)


def test_json_that_is_none(tmp_path: Path) -> None:
    for text in ("[" * 100_000, "{", "[]"):
        (tmp_path / "x.json").write_text(text)
        with pytest.raises(SegopsError, match=r"x\.json: "):
            read_object(tmp_path / "x.json")
