"""Sources that do not mean what they seem to mean: each is read rightly or refused by name."""

from __future__ import annotations

import base64
import json
import os
import struct
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image, ImageDraw
from pycocotools import mask as rle

from segops.importers import cvat, label_studio
from segops.importers.coco import decompressed, split_of
from segops.importers.files import Photographs, files_below
from segops.importers.json_files import read_object
from segops.importers.labelling import Rules, labelling
from segops.importers.polygons import Fill, Shape, by_coco, by_opencv, by_pillow, draw
from segops.importers.source import Drawn, Source, SourceImage
from segops.importers.splits import Division
from segops.importers.write import write
from segops.runtime.errors import SegopsError
from segops.runtime.masks import read_mask
from segops.voc.layout import open_layout
from tests.unit.importers.conftest import Run, greyscale, photograph

WIDTH, HEIGHT = 20, 10
TRIANGLE = [1.0, 1.0, 10.0, 1.0, 10.0, 8.0]
ONES = np.ones((HEIGHT, WIDTH), np.uint8)


def pictures(folder: Path, *names: str) -> None:
    for number, name in enumerate(names):
        photograph(folder / name, WIDTH, HEIGHT, shade=20 * number)


def write_json(path: Path, tree: Any) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(tree))
    return path


def coco(*names: str, segmentation: Any = None) -> dict[str, Any]:
    return {
        "images": [{"id": n, "file_name": name} for n, name in enumerate(names)],
        "categories": [{"id": 1, "name": "cat"}],
        "annotations": [
            {"id": n, "image_id": n, "category_id": 1, "segmentation": segmentation or [TRIANGLE]}
            for n in range(len(names))
        ],
    }


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


@pytest.mark.parametrize("far", [float("nan"), float("inf"), 1e8, -1e9, 10**30, 201])
@pytest.mark.parametrize("fill", [by_pillow, by_opencv, by_coco])
def test_far_corners_are_refused_before_a_library_crashes(far: float, fill: Fill) -> None:
    outline = np.array([[1, 1], [far, 1], [5, 5]], np.float64)
    with pytest.raises(ValueError, match="no number or over 10 times"):
        draw([Shape("a", [outline])], (WIDTH, HEIGHT), fill)


def test_far_corners_of_coco(source: Path, run_import: Run) -> None:
    pictures(source, "a.png")
    write_json(source / "x.json", coco("a.png", segmentation=[[1, 1, 1e9, 1, 5, 5]]))
    with pytest.raises(SegopsError, match=r"annotation 0, `segmentation`: .*over 10 times"):
        run_import("coco", source)


def by_pillow_whole(outline: NDArray[np.float64]) -> NDArray[np.bool_]:
    canvas = Image.new("1", (WIDTH, HEIGHT))
    ImageDraw.Draw(canvas).polygon([tuple(p) for p in outline.tolist()], outline=1, fill=1)
    return np.array(canvas, bool)


def by_opencv_whole(outline: NDArray[np.float64]) -> NDArray[np.bool_]:
    canvas = np.zeros((HEIGHT, WIDTH), np.uint8)
    cv2.fillPoly(canvas, [np.rint(outline).astype(np.int32)], 1)
    return canvas.astype(bool)


def by_coco_whole(outline: NDArray[np.float64]) -> NDArray[np.bool_]:
    parts = rle.frPyObjects([outline.ravel().tolist()], HEIGHT, WIDTH)
    filled: NDArray[np.bool_] = rle.decode(parts)[..., 0].astype(bool)
    return filled


@pytest.mark.parametrize(
    ("fill", "whole"),
    [(by_pillow, by_pillow_whole), (by_opencv, by_opencv_whole), (by_coco, by_coco_whole)],
)
def test_an_outline_is_drawn_as_in_the_whole_image(
    fill: Fill, whole: Callable[[NDArray[np.float64]], NDArray[np.bool_]]
) -> None:
    """Also outlines that lie partly or wholly outside, and corners at halves and tenths."""
    numbers = np.random.default_rng(0)
    for digits in (0, 1, 1, 3) * 60:
        outline = np.round(numbers.uniform(-6, 26, (numbers.integers(3, 7), 2)), digits)
        drawn = draw([Shape("a", [outline])], (WIDTH, HEIGHT), fill).indices
        np.testing.assert_array_equal(drawn > 0, whole(outline), err_msg=str(outline.tolist()))


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


def test_a_name_in_label_studio(tmp_path: Path) -> None:
    """Of its own prefix of eight digits alone is the name read without."""
    pictures(tmp_path, "0001.png", "2.png")
    task = {"annotations": [{"result": []}]}

    def found(**data: str) -> str:
        write_json(tmp_path / "e.json", [{**task, "id": 1, "data": data}])
        source = label_studio.read(tmp_path)
        return source.images[0].photograph.name if source.images else source.problems[0]

    assert found(image="/data/upload/1/0a1b2c3d-0001.png") == "0001.png"
    assert found(csv="x.csv", text="A cat. Nice", image="s3://b/2.png") == "2.png"
    assert "its image x/siteB-0001.png is not below" in found(image="/x/siteB-0001.png")
    assert "one photograph in `data`: 2.png, 0001.png" in found(thumb="2.png", image="0001.png")
    assert "task 1: cannot be read" in found(image="http://[x/a.png")


CVAT = '<annotations><image name="a.png" width="{}" height="{}">{}</image></annotations>'
POLYGON = '<polygon label="cat" points="1,1;10,1;10,8"/>'


def sources(folder: Path, width: Any, height: Any) -> None:
    """Write a source of each format, whose annotations state this size for a.png."""
    tree = coco("a.png")
    tree["images"][0] |= {"width": width, "height": height}
    write_json(folder / "coco/x.json", tree)
    write_json(folder / "labelme/a.json", {
        "imagePath": "a.png", "imageWidth": width, "imageHeight": height, "shapes": [],
    })  # fmt: skip
    (folder / "cvat").mkdir()
    (folder / "cvat/annotations.xml").write_text(CVAT.format(width, height, POLYGON))
    write_json(folder / "supervisely/meta.json", {"classes": [{"title": "cat"}]})
    write_json(folder / "supervisely/ds/ann/a.png.json",
               {"size": {"width": width, "height": height}, "objects": []})  # fmt: skip
    result = {
        "type": "polygonlabels", "original_width": width, "original_height": height,
        "value": {"points": [[5, 10], [50, 10], [50, 80]], "polygonlabels": ["cat"]},
    }  # fmt: skip
    task = {"id": 1, "data": {"image": "a.png"}, "annotations": [{"result": [result]}]}
    write_json(folder / "label-studio/e.json", [task])
    for form in ("coco", "labelme", "cvat", "label-studio", "supervisely/ds/img"):
        pictures(folder / form, "a.png")


@pytest.mark.parametrize("form", ["coco", "labelme", "cvat", "label-studio", "supervisely"])
def test_a_stated_size_that_is_another(source: Path, run_import: Run, form: str) -> None:
    sources(source, 40, 20)
    with pytest.raises(SegopsError, match=r"40 x 20 pixels, its photograph .*a\.png 20 x 10"):
        run_import(form, source / form, classes=("background", "cat"))


@pytest.mark.parametrize("form", ["coco", "labelme", "cvat", "label-studio", "supervisely"])
def test_a_stated_size_that_is_none(source: Path, run_import: Run, form: str) -> None:
    sources(source, "x", [10])
    with pytest.raises(SegopsError, match=r"1 problem\(s\)[\s\S]*(whole|expected a) number"):
        run_import(form, source / form)


def drawn_by_cvat(shape: str) -> NDArray[np.int32]:
    image = cvat.ElementTree.fromstring(CVAT.format(WIDTH, HEIGHT, shape)).find("image")
    assert image is not None
    return cvat._draw(cvat._shapes(image, "x"), (WIDTH, HEIGHT)).indices


def test_a_box_of_cvat_is_turned_about_its_centre() -> None:
    box = drawn_by_cvat('<box label="a" xtl="4" ytl="4" xbr="14" ybr="6" rotation="90"/>')
    expected = np.zeros((HEIGHT, WIDTH), bool)
    expected[0:10, 8:10] = True
    np.testing.assert_array_equal(box > 0, expected)
    turned = drawn_by_cvat('<box label="a" xtl="4" ytl="4" xbr="14" ybr="6" rotation="30"/>')
    assert (turned[7, 12], turned[2, 12]) == (1, 0)  # clockwise: its right end goes down


def test_an_ellipse_of_cvat_is_that_of_its_export() -> None:
    values = 'cx="9.6" cy="5.2" rx="6.5" ry="2.4" rotation="20.5"'
    expected = np.zeros((HEIGHT, WIDTH), np.uint8)
    cv2.ellipse(expected, (10, 5), (6, 2), 20.5, 0, 360, 1, -1)
    np.testing.assert_array_equal(drawn_by_cvat(f'<ellipse label="a" {values}/>'), expected)


@pytest.mark.parametrize(
    ("shape", "words"),
    [
        ('<mask label="a" rle="0, 4" left="-2" top="2" width="2" height="2"/>', "at -2, 2 of"),
        ('<mask label="a" rle="0, 4" left="19" top="2" width="2" height="2"/>', "is not within"),
        ('<mask label="a" rle="0, 3" left="9" top="2" width="2" height="2"/>', "runs are of 3"),
        ('<mask label="a" rle="0, 9999" left="1" top="2" width="99" height="101"/>', "larger"),
        ('<polygon label="a" points="nan,1;2,3;4,5"/>', "no number"),
        ('<polygon label="a" points="1,2,3;4,5,6;7,8,9"/>', "pairs of x and y"),
        ('<polygon points="1,1;10,1;10,8"/>', "without a label"),
        ('<box label="a" xtl="x" ytl="4" xbr="14" ybr="6"/>', "`xtl` of box is x"),
    ],
)
def test_shapes_that_cvat_does_not_write(shape: str, words: str) -> None:
    with pytest.raises(ValueError, match=words):
        drawn_by_cvat(shape)


@pytest.mark.parametrize("encoding", ["utf-8", "utf-16"])
def test_a_document_type_is_refused(tmp_path: Path, encoding: str) -> None:
    text = f'<?xml version="1.0" encoding="{encoding}"?><!DOCTYPE a [<!ENTITY b "c">]><a>&b;</a>'
    (tmp_path / "annotations.xml").write_bytes(text.encode(encoding))
    with pytest.raises(SegopsError, match="declares a document type"):
        cvat.parsed(tmp_path / "annotations.xml")


def test_tracks_of_a_video(tmp_path: Path) -> None:
    (tmp_path / "annotations.xml").write_text("<annotations><track id='0'/></annotations>")
    with pytest.raises(SegopsError, match="tracks of a video"):
        cvat.read(tmp_path)


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
    assert split_of(Path(f"{name}.json")) == split


def test_splits_of_directories_of_coco(source: Path, run_import: Run) -> None:
    for split in ("train", "valid"):
        pictures(source / split, "1.png", "unused.png")
        write_json(source / split / "_annotations.coco.json", coco("1.png"))
    imported = run_import("coco", source)
    assert dict(imported.images) == {"train": 1, "val": 1}
    assert imported.notes == (
        "2 photographs that no annotation or list names left out, such as "
        f"{source}/train/unused.png.",
    )


def test_official_annotations_of_coco(source: Path, run_import: Run) -> None:
    """Captions have no outlines, keypoints repeat the persons of the instances."""
    for split in ("train", "val"):
        pictures(source / f"{split}2017", f"{split}.png")
        folder, tree = source / "annotations", coco(f"{split}.png")
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
    ("part", "change", "words"),
    [
        ("images", {"id": 1}, "image id 1 is given twice"),
        ("images", {"id": None}, "`id` is None; expected a whole number"),
        ("images", {"file_name": 3}, "`file_name` is 3; expected a text"),
        ("annotations", {"image_id": 77}, r"1 annotation\(s\) of images that are not there.*77"),
        ("annotations", {"image_id": "0"}, r"1 annotation\(s\) of images that are not there"),
        ("annotations", {"segmentation": []}, "a box and no outline"),
        ("annotations", {"category_id": "1"}, "`category_id` is 1; expected a whole"),
        ("categories", {"name": ""}, "`name` is empty; expected a text"),
        ("categories", {"name": None}, "`name` is None; expected a text"),
        ("categories", {"id": 1.5}, r"`id` is 1\.5; expected a whole number"),
    ],
)
def test_values_of_coco(
    source: Path, run_import: Run, part: str, change: dict[str, Any], words: str
) -> None:
    pictures(source, "a.png", "b.png")
    tree = coco("a.png", "b.png")
    tree[part][0] |= change
    write_json(source / "x.json", tree)
    with pytest.raises(SegopsError, match=words):
        run_import("coco", source)


def test_a_category_given_twice(source: Path, run_import: Run) -> None:
    pictures(source, "a.png")
    tree = coco("a.png")
    tree["categories"] *= 2
    write_json(source / "x.json", tree)
    with pytest.raises(SegopsError, match="category id 1 is given twice"):
        run_import("coco", source)


def test_run_lengths_of_coco(source: Path, run_import: Run) -> None:
    numbers = np.random.default_rng(0)
    for share in (0.0, 0.02, 0.5, 1.0):
        region = np.asfortranarray((numbers.random((97, 61)) < share).astype(np.uint8))
        runs = decompressed(rle.encode(region)["counts"].decode())
        flat = np.repeat(np.arange(len(runs)) % 2, runs)
        np.testing.assert_array_equal(flat, region.ravel(order="F"))
    pictures(source, "a.png")
    for counts in ([50, 20], [-1, 201], [], "", "x", "o" * 50, [4294967295, 201], [10**30]):
        wrong = {"size": [HEIGHT, WIDTH], "counts": counts}
        write_json(source / "x.json", coco("a.png", segmentation=wrong))
        with pytest.raises(
            SegopsError, match=r"annotation 0, `segmentation`: cannot be read: .*run"
        ):
            run_import("coco", source)


def png(size: int) -> bytes:
    path = cv2.imencode(".png", np.full((size, size), 255, np.uint8))[1]
    return path.tobytes()


@pytest.mark.parametrize("at", [(-2, 2), (19, 2), (3, 9)])
def test_masks_outside_the_image(source: Path, run_import: Run, at: tuple[int, int]) -> None:
    pictures(source / "lm", "a.png")
    write_json(source / "lm/a.json", {"imagePath": "a.png", "shapes": [
        {"label": "c", "shape_type": "mask", "points": [list(at), [9, 9]],
         "mask": base64.b64encode(png(2)).decode()}]})  # fmt: skip
    pictures(source / "sly/ds/img", "a.png")
    write_json(source / "sly/meta.json", {"classes": [{"title": "c"}]})
    bitmap = {"origin": list(at), "data": base64.b64encode(zlib.compress(png(2))).decode()}
    one = {"classTitle": "c", "geometryType": "bitmap", "bitmap": bitmap}
    write_json(source / "sly/ds/ann/a.png.json", {"objects": [one]})
    for form, folder in (("labelme", "lm"), ("supervisely", "sly")):
        with pytest.raises(SegopsError, match=f"a mask of 2 x 2 pixels at {at[0]}, {at[1]} of"):
            run_import(form, source / folder)


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


@pytest.mark.parametrize("shapes", [5, [5], [{"label": 5, "points": []}], [{"points": []}]])
def test_values_of_labelme(source: Path, run_import: Run, shapes: Any) -> None:
    pictures(source, "a.png")
    write_json(source / "a.json", {"imagePath": "a.png", "shapes": shapes})
    with pytest.raises(SegopsError, match=r"1 problem\(s\):\n.*a\.json: "):
        run_import("labelme", source)


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


def test_a_brush_that_claims_many_values() -> None:
    code = [*(1 << 30).to_bytes(4, "big"), 0b00111000, 0, 0, 0]
    with pytest.raises(ValueError, match=r"of 1073741824 values .* expected 800"):
        label_studio.decode_brush(code, 200)


def test_results_without_an_area(source: Path, root: Path, run_import: Run) -> None:
    pictures(source, "a.png", "b.png")
    polygon = {"points": [[5, 10], [50, 10], [50, 80]], "polygonlabels": ["cat"]}
    results = [{"type": "polygonlabels", "value": polygon},
               {"type": "relation", "from_id": "a", "to_id": "b"},
               {"type": "rating", "value": {"rating": 3}}]  # fmt: skip
    tasks = [{"id": n, "data": {"image": f"{name}.png"}, "annotations": [{"result": results}]}
             for n, name in enumerate("ab")]  # fmt: skip
    write_json(source / "e.json", tasks)
    assert run_import("label-studio", source).classes == ("background", "cat")
    polygon["polygonlabels"] = "cat"
    write_json(source / "e.json", tasks)
    with pytest.raises(SegopsError, match="`polygonlabels` is cat; expected a list"):
        run_import("label-studio", source)
    write_json(source / "e.json", [{"id": 1, "image": "a.png", "tag": []}])
    with pytest.raises(SegopsError, match="not as JSON-MIN"):
        run_import("label-studio", source)


def test_many_labels_are_counted() -> None:
    table = labelling(Rules(), ())
    labels = tuple(f"#{number:06x}" for number in range(100))
    table.mask(Drawn(labels, np.arange(100, dtype=np.int32).reshape(10, 10)), "a")
    assert len(table.problems()) == 22
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
