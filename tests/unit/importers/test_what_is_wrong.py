"""Annotations that do not mean what they seem to mean: read rightly, or refused by name."""

from __future__ import annotations

import base64
import zlib
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image, ImageDraw
from pycocotools import mask as rle

from segops.importers import cvat, label_studio
from segops.importers.coco import decompressed
from segops.importers.polygons import Fill, Shape, by_coco, by_opencv, by_pillow, draw
from segops.runtime.errors import SegopsError
from tests.unit.importers import conftest
from tests.unit.importers.conftest import Run, small_coco, write_json

WIDTH, HEIGHT = 20, 10
pictures = partial(conftest.pictures, width=WIDTH, height=HEIGHT)


@pytest.mark.parametrize("far", [float("nan"), float("inf"), 1e8, -1e9, 10**30, 201])
@pytest.mark.parametrize("fill", [by_pillow, by_opencv, by_coco])
def test_far_corners_are_refused_before_a_library_crashes(far: float, fill: Fill) -> None:
    outline = np.array([[1, 1], [far, 1], [5, 5]], np.float64)
    with pytest.raises(ValueError, match="no number or over 10 times"):
        draw([Shape("a", [outline])], (WIDTH, HEIGHT), fill)


def test_far_corners_of_coco(source: Path, run_import: Run) -> None:
    pictures(source, "a.png")
    write_json(source / "x.json", small_coco("a.png", segmentation=[[1, 1, 1e9, 1, 5, 5]]))
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
    assert found(image="s3://b/2.png", thumb="https://x/small.png", note="http://[x") == "2.png"
    assert "one photograph in `data`: none" in found(image="http://[x/a.png")


def test_annotations_of_label_studio_that_count(tmp_path: Path) -> None:
    """That of the ground truth, else the latest, of the same time the last; of none a task."""
    pictures(tmp_path, "0.png", "1.png", "2.png", "3.png")
    shared = {"type": "rectanglelabels", "original_width": WIDTH, "original_height": HEIGHT}

    def annotation(label: str, **given: Any) -> dict[str, Any]:
        value = {"x": 0, "y": 0, "width": 9, "height": 9, "rectanglelabels": [label]}
        return {"result": [{**shared, "value": value}], **given}

    given = [
        [annotation("a", ground_truth=True), annotation("b", updated_at="2026-01-02")],
        [annotation("c", updated_at="2026-01-02"), annotation("d", updated_at="2026-01-01")],
        [annotation("e"), annotation("f")],
        [annotation("g", was_cancelled=True)],
    ]
    tasks = [
        {"id": number, "data": {"image": f"{number}.png"}, "annotations": annotations}
        for number, annotations in enumerate(given)
    ]
    file = write_json(tmp_path / "e.json", tasks)
    source = label_studio.read(tmp_path)
    assert (source.labels, source.problems) == (("background", "a", "c", "f"), ())
    assert source.notes[1:] == (
        f"1 task without annotation left out, such as {file}: task 3.",
        (f"3 tasks with several annotations, such as {file}: task 0: that of the ground truth is "
         "taken, else the latest."),
    )  # fmt: skip


CVAT = '<annotations><image name="a.png" width="{}" height="{}">{}</image></annotations>'


POLYGON = '<polygon label="cat" points="1,1;10,1;10,8"/>'


def sources(folder: Path, width: Any, height: Any) -> None:
    """Write a source of each format, whose annotations state this size for a.png."""
    tree = small_coco("a.png")
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
        ('<polygon label="a" points="1,1;2"/>', "expected pairs of x and y"),
        ('<polygon label="a" points=""/>', "`points` of polygon is empty; expected pairs as in"),
        ('<polygon label="a"/>', "`points` of polygon is empty; expected pairs as in"),
        ('<polygon label="a" points="1,x;2,2;3,1"/>', "`points` of polygon is 1,x;2,2;3,1; exp"),
        ('<ellipse label="a" cx="5" cy="5" rx="inf" ry="2"/>', "`rx` of ellipse is inf; expected"),
        (
            '<mask label="a" left="0" top="0" width="2" height="2" rle="1,x"/>',
            "`rle` of mask is 1,x; expected runs as in 3,4,1",
        ),
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
    tree = small_coco("a.png", "b.png")
    tree[part][0] |= change
    write_json(source / "x.json", tree)
    with pytest.raises(SegopsError, match=words):
        run_import("coco", source)


def test_a_category_given_twice(source: Path, run_import: Run) -> None:
    pictures(source, "a.png")
    tree = small_coco("a.png")
    tree["categories"] *= 2
    write_json(source / "x.json", tree)
    with pytest.raises(SegopsError, match="category id 1 is given twice"):
        run_import("coco", source)


def test_a_photograph_of_two_images(source: Path, run_import: Run) -> None:
    pictures(source, "a.png")
    write_json(source / "x.json", small_coco("a.png", "a.png"))
    with pytest.raises(SegopsError, match=r"a\.png: named by two images of .*x\.json\. Import one"):
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
        write_json(source / "x.json", small_coco("a.png", segmentation=wrong))
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


@pytest.mark.parametrize("shapes", [5, [5], [{"label": 5, "points": []}], [{"points": []}]])
def test_values_of_labelme(source: Path, run_import: Run, shapes: Any) -> None:
    pictures(source, "a.png")
    write_json(source / "a.json", {"imagePath": "a.png", "shapes": shapes})
    with pytest.raises(SegopsError, match=r"1 problem\(s\):\n.*a\.json: "):
        run_import("labelme", source)


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


@pytest.mark.parametrize(
    ("segmentation", "words"),
    [
        (7, "expected a list of outlines, or an object with `size` and `counts`"),
        ("abc", "expected a list of outlines, or an object with `size` and `counts`"),
        ({"size": [HEIGHT, WIDTH]}, "expected a list of outlines, or an object with `size`"),
        ({"size": [HEIGHT, WIDTH], "counts": 5}, "expected `counts` as a text or as a list"),
        ({"size": [HEIGHT, WIDTH], "counts": ["a"]}, "its runs are not those of 20 x 10 pixels"),
        ([["a", 1, 2, 2, 3, 1]], "expected pairs of x and y"),
        ([[None, 1, 2, 2, 3, 1]], "expected pairs of x and y"),
        ([5], "expected a list of outlines, each x, y, x, y"),
    ],
)
def test_objects_of_coco_without_an_outline(
    source: Path, run_import: Run, segmentation: Any, words: str
) -> None:
    pictures(source, "a.png", "b.png")
    tree = small_coco("a.png", "b.png")
    tree["annotations"][1]["segmentation"] = segmentation
    write_json(source / "instances.json", tree)
    with pytest.raises(SegopsError, match=words) as refused:
        run_import("coco", source)
    assert "Error" not in str(refused.value)
    tree["annotations"][1].pop("segmentation")
    write_json(source / "instances.json", tree)
    with pytest.raises(SegopsError, match=r"annotation 1.*expected a list of outlines"):
        run_import("coco", source)


def test_all_problems_are_listed_and_counted_at_once(source: Path, run_import: Run) -> None:
    """Those of files that are missing, of annotations, and of labels."""
    pictures(source, "a.png", "b.png", "c.png")
    tree = small_coco("a.png", "b.png", "c.png", "gone.png")
    tree["annotations"][0]["segmentation"] = [[1, 1, 2]]
    tree["annotations"][1]["segmentation"] = []
    write_json(source / "instances.json", tree)
    with pytest.raises(SegopsError, match=r"; 3 problem\(s\):") as refused:
        run_import("coco", source)
    for words in ("gone.png", "annotation 0", "annotation 1"):
        assert words in str(refused.value)
    pictures(source / "f/images", "a.png", "b.gif.png")
    for name, value in (("a", 0), ("b.gif", 9)):
        mask = np.full((HEIGHT, WIDTH), value, np.uint8)
        conftest.greyscale(source / f"f/masks/{name}.png", mask)
    with pytest.raises(SegopsError, match=r"; 1 problem\(s\):\n  label 9 .*\n  Name the classes"):
        run_import("folder", source / "f", values="0=a,1=b")


def test_a_far_off_share_is_told_of_also_where_none_was_given(
    source: Path, run_import: Run
) -> None:
    """Images whose split is given, as of test here, have no share in it."""

    def notes(*numbers: int) -> tuple[str, ...]:
        for number in numbers:
            split = "test/" if number >= 100 else ""
            photograph = conftest.photograph(source / f"images/{split}{number}.png", WIDTH, HEIGHT)
            values = np.eye(HEIGHT, WIDTH, dtype=np.uint8)
            conftest.greyscale(source / "masks" / photograph.relative_to(source / "images"), values)
        return run_import("folder", source, values="0=a,1=b").notes

    # The hashes of 3, 17, 31, ... are below 0.2, those of 1 and 2 above.
    assert notes(1, 2, 3, *range(100, 130)) == ()  # one of three is the nearest that there is
    (note,) = notes(17, 31, 32, 33, 37)
    assert note.startswith("val has 6 of 8 images and should have 20%: a hash divides a few images")
