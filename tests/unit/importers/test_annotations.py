"""Annotations of other tools, each compared pixel by pixel with the rule of its tool."""

from __future__ import annotations

import base64
import zlib
from collections.abc import Sequence
from io import BytesIO
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image, ImageDraw
from pycocotools import mask as rle
from pycocotools.coco import COCO

from segops.importers.label_studio import decode_brush
from segops.runtime.errors import SegopsError
from segops.runtime.masks import read_mask
from segops.voc.layout import Layout, open_layout
from tests.unit.importers.conftest import Run, pictures, small_coco, write_json

WIDTH, HEIGHT = 40, 30
STAR = [3.2, 2.1, 20.7, 4.4, 36.0, 1.5, 30.3, 14.8, 35.5, 27.2, 18.0, 20.1, 4.9, 26.6, 9.1, 13.3]
INNER = [12.0, 8.0, 24.0, 8.0, 24.0, 16.0, 12.0, 16.0]
PART = [1.0, 1.0, 6.5, 1.0, 6.5, 6.5, 1.0, 6.5]


def points(flat: Sequence[float]) -> list[list[float]]:
    return np.asarray(flat).reshape(-1, 2).tolist()


def box(x0: int, y0: int, x1: int, y1: int) -> NDArray[np.bool_]:
    """The pixels of columns x0 to x1 - 1 and rows y0 to y1 - 1."""
    region = np.zeros((HEIGHT, WIDTH), bool)
    region[y0:y1, x0:x1] = True
    return region


def png(region: NDArray[np.bool_], mode: str = "L") -> bytes:
    stream = BytesIO()
    image = Image.fromarray(region.astype(np.uint8) * 255)
    if mode == "LA":
        image = Image.merge("LA", (image, image))
    image.save(stream, "PNG")
    return stream.getvalue()


def masks(root: Path) -> dict[str, NDArray[np.uint8]]:
    layout: Layout = open_layout(root / "data/voc")
    ids = [image_id for split in ("train", "val") for image_id in layout.ids(split)]
    return {image_id: read_mask(layout.mask_path(image_id)) for image_id in ids}


def coco_tree() -> dict[str, Any]:
    """Overlaps, several parts, a crowd as uncompressed runs, and an encoded region."""
    crowd = rle.encode(np.asfortranarray(box(10, 20, 30, 28).astype(np.uint8)))
    runs = np.flatnonzero(np.diff(box(0, 10, 8, 19).ravel(order="F"), prepend=False, append=False))
    counts = np.diff([0, *runs.tolist(), WIDTH * HEIGHT]).tolist()
    regions = [
        (1, 1, 7, [INNER], 0),  # small, before the large one that it lies over
        (2, 1, 3, [STAR, PART], 0),
        (3, 1, 3, {"size": [HEIGHT, WIDTH], "counts": counts}, 1),
        (4, 2, 7, {"size": [HEIGHT, WIDTH], "counts": crowd["counts"].decode()}, 1),
    ]
    return {
        "images": [
            {"id": number, "file_name": f"{name}.png", "width": WIDTH, "height": HEIGHT}
            for number, name in ((1, "a"), (2, "b"), (3, "c"))
        ],
        "categories": [{"id": 7, "name": "dog"}, {"id": 3, "name": "cat"}],
        "annotations": [
            {"id": i, "image_id": image, "category_id": category, "segmentation": seg,
             "iscrowd": crowd, "area": 1, "bbox": [0, 0, 1, 1]}
            for i, image, category, seg, crowd in regions
        ],
    }  # fmt: skip


def test_coco(source: Path, root: Path, run_import: Run) -> None:
    pictures(source / "images", "a.png", "b.png", "c.png")
    file = write_json(source / "annotations/instances.json", coco_tree())
    imported = run_import("coco", source)
    assert imported.classes == ("background", "cat", "dog")
    api, found = COCO(str(file)), masks(root)
    for number, name in ((1, "a"), (2, "b"), (3, "c")):
        expected = np.zeros((HEIGHT, WIDTH), np.uint8)
        regions = [
            (api.annToMask(one).astype(bool), 1 if one["category_id"] == 3 else 2)
            for one in api.loadAnns(api.getAnnIds(imgIds=number))
        ]
        for region, label in sorted(regions, key=lambda pair: -pair[0].sum()):
            expected[region] = label
        np.testing.assert_array_equal(found[name], expected)
    assert (found["a"][INNER_PIXELS] == 2).all()
    assert set(np.unique(found["a"])) == {0, 1, 2}
    assert not found["c"].any()


INNER_PIXELS = (slice(9, 15), slice(13, 23))


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"category_id": 99}, "annotation 1: category 99 is not in `categories`"),
        (
            {"segmentation": {"size": [9, 9], "counts": [81]}},
            "annotation 1, `segmentation`: cannot be read: its size is",
        ),
        ({"segmentation": None}, "annotation 1, `segmentation`: cannot be read"),
        ({"segmentation": [["x"]]}, "annotation 1, `segmentation`: cannot be read"),
    ],
)
def test_coco_that_is_damaged(
    source: Path, root: Path, run_import: Run, change: dict[str, Any], words: str
) -> None:
    pictures(source / "images", "a.png", "b.png", "c.png")
    tree = coco_tree()
    tree["annotations"][0] |= change
    write_json(source / "instances.json", tree)
    with pytest.raises(SegopsError, match=words):
        run_import("coco", source)
    assert not (root / "data/voc").exists()


@pytest.mark.parametrize(
    ("segmentation", "expected"),
    [
        # By columns: 305 pixels before the ring, 5 of its left side, its upper and lower pixel
        # around 3 of the hole, twice, and 5 of its right side.
        (
            {"size": [HEIGHT, WIDTH], "counts": [305, 5, 25, 1, 3, 1, 25, 1, 3, 1, 25, 5, 800]},
            box(10, 5, 14, 10) & ~box(11, 6, 13, 9),
        ),
        # COCO joins outlines, so a hole is cut from the border: the cut has no width.
        (
            [[4, 4, 20, 4, 20, 16, 4, 16, 4, 4, 8, 8, 8, 12, 14, 12, 14, 8, 8, 8]],
            box(4, 4, 20, 16) & ~box(8, 8, 14, 12),
        ),
    ],
)
def test_a_hole_in_coco_stated_by_hand(
    segmentation: Any, expected: NDArray[np.bool_], source: Path, root: Path, run_import: Run
) -> None:
    pictures(source, "a.png", "b.png")
    write_json(source / "instances.json", small_coco("a.png", "b.png", segmentation=segmentation))
    run_import("coco", source)
    np.testing.assert_array_equal(masks(root)["a"], expected.astype(np.uint8))


def test_coco_of_several_files_and_a_missing_photograph(
    source: Path, root: Path, run_import: Run
) -> None:
    for split, name in (("train2017", "a"), ("val2017", "b")):
        pictures(source / split, f"{name}.png")
        tree = coco_tree()
        tree["images"] = [one for one in tree["images"] if one["file_name"] == f"{name}.png"]
        own = tree["images"][0]["id"]
        tree["annotations"] = [one for one in tree["annotations"] if one["image_id"] == own]
        write_json(source / f"annotations/instances_{split}.json", tree)
    assert dict(run_import("coco", source).images) == {"train": 1, "val": 1}
    (source / "val2017/b.png").unlink()
    with pytest.raises(SegopsError, match=r"instances_val2017.json: its image b.png is not below"):
        run_import("coco", source)


def test_coco_panoptic(source: Path, root: Path, run_import: Run) -> None:
    pictures(source / "val2017", "a.png", "b.png")
    segments = np.zeros((HEIGHT, WIDTH, 3), np.uint8)
    segments[box(0, 0, 20, 30)] = (1, 2, 0)  # id 513
    segments[box(10, 5, 30, 25)] = (7, 0, 1)  # id 65543
    for name in ("a", "b"):
        target = source / f"annotations/panoptic_val2017/{name}.png"
        target.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(segments).save(target)
    tree = {
        "images": [{"id": n, "file_name": f"{name}.png"} for n, name in enumerate("ab")],
        "categories": [{"id": 90, "name": "sky"}, {"id": 5, "name": "boat"}],
        "annotations": [
            {"image_id": n, "file_name": f"{name}.png", "segments_info": [
                {"id": 513, "category_id": 90, "iscrowd": 0},
                {"id": 65543, "category_id": 5, "iscrowd": 1}]}
            for n, name in enumerate("ab")
        ],
    }  # fmt: skip
    file = write_json(source / "annotations/panoptic.json", tree)
    file.with_suffix("").symlink_to(source / "annotations/panoptic_val2017")
    imported = run_import("coco-panoptic", file, images=str(source / "val2017"), share="val=0.5")
    assert imported.classes == ("boat", "sky")
    expected = np.full((HEIGHT, WIDTH), 255, np.uint8)
    expected[box(0, 0, 20, 30)] = 1
    expected[box(10, 5, 30, 25)] = 0
    np.testing.assert_array_equal(masks(root)["a"], expected)
    (source / "annotations/panoptic_val2017/one").mkdir()
    first = tree["annotations"][0]
    (file.with_suffix("") / "a.png").rename(file.with_suffix("") / "one/a.png")
    for number, words in ((0, "0, which is void"), (513, "513, which is given twice")):
        more = {"id": number, "category_id": 5}
        part = {"file_name": "one/a.png", "segments_info": [*first["segments_info"], more]}
        write_json(file, {**tree, "annotations": [{**first, **part}, tree["annotations"][1]]})
        with pytest.raises(SegopsError, match=rf"a\.png: a segment has the id {words}"):
            run_import("coco-panoptic", file, images=str(source / "val2017"), share="val=0.5")
    first |= {"segments_info": [], "file_name": "one/a.png"}
    write_json(file, tree)
    with pytest.raises(SegopsError, match=r"a.png: segments 513, 65543 are not in panoptic.json"):
        run_import("coco-panoptic", file, images=str(source / "val2017"), share="val=0.5")


def test_cityscapes(source: Path, root: Path, run_import: Run) -> None:
    ids = np.zeros((HEIGHT, WIDTH), np.uint8)
    ids[5:], ids[10:], ids[20:], ids[:2] = 7, 26, 33, 4
    for split, city in (("train", "aachen"), ("val", "ulm"), ("test", "bonn")):
        for number in range(2):
            name = f"{city}_{number:06d}_000019"
            pictures(source / f"leftImg8bit/{split}/{city}", f"{name}_leftImg8bit.png")
            target = source / f"gtFine/{split}/{city}/{name}_gtFine_labelIds.png"
            target.parent.mkdir(parents=True, exist_ok=True)
            # The benchmark publishes no labels of test.
            given = np.full_like(ids, 3) if split == "test" else np.roll(ids, number, axis=1)
            Image.fromarray(given).save(target)
    imported = run_import("cityscapes", source)
    assert dict(imported.images) == {"train": 2, "val": 2}
    assert imported.notes == ("2 images of the test split without labels left out.",)
    assert len(imported.classes) == 19
    # Of cityscapesScripts: road 0, car 13, bicycle 18; "static" and "unlabeled" are not scored.
    expected = [255] * 5 + [0] * 5 + [13] * 10 + [18] * 10
    assert masks(root)["ulm_000000_000019"][:, 0].tolist() == expected


def test_own_data_in_the_layout_of_cityscapes(source: Path, run_import: Run) -> None:
    """Names may be the same in all splits, and test may have labels."""
    for split in ("train", "val", "test"):
        for number in range(2):
            pictures(source / f"leftImg8bit/{split}/ulm", f"{number}_leftImg8bit.png")
            target = source / f"gtFine/{split}/ulm/{number}_gtFine_labelIds.png"
            target.parent.mkdir(parents=True, exist_ok=True)
            Image.fromarray(np.full((HEIGHT, WIDTH), 7 + number, np.uint8)).save(target)
    imported = run_import("cityscapes", source)
    assert dict(imported.images) == {"train": 2, "val": 2, "test": 2}
    assert imported.notes == ()
    assert imported.layout.ids("val") == ("val_0", "val_1")
    (source / "leftImg8bit").rename(source / "photographs")
    with pytest.raises(SegopsError, match=r"leftImg8bit: no such directory of photographs\. --im"):
        run_import("cityscapes", source)


def test_labelme(source: Path, root: Path, run_import: Run) -> None:
    pictures(source, "a.png", "b.png")
    shapes = [
        {"label": "cat", "points": points(STAR), "shape_type": "polygon"},
        {"label": "dog", "points": [[24, 16], [12, 8]], "shape_type": "rectangle"},
        {"label": "cat", "points": [[30.0, 20.0], [30.0, 25.5]], "shape_type": "circle"},
        {"label": "dog", "points": [[2, 3], [9, 7]], "shape_type": "mask",
         "mask": base64.b64encode(png(box(0, 0, 8, 5)[:5, :8])).decode()},
        {"label": "__ignore__", "points": points(PART), "shape_type": None},
        {"label": "cat", "points": [[3, 20], [6, 20], [6, 24], [3, 24]], "shape_type": "rectangle"},
        {"label": "dog", "points": [[1, 25], [3, 27], [2, 29], [0, 27]],
         "shape_type": "oriented_rectangle"},
    ]  # fmt: skip
    for name in ("a", "b"):
        tree = {"version": "5.5.0", "imagePath": f"..\\{name}.png", "shapes": shapes}
        write_json(source / f"{name}.json", tree)
    imported = run_import("labelme", source)
    assert imported.classes == ("background", "cat", "dog")
    canvas = Image.new("L", (WIDTH, HEIGHT))
    pen = ImageDraw.Draw(canvas)  # what labelme.utils.shape_to_mask does
    pen.polygon([tuple(point) for point in points(STAR)], outline=1, fill=1)
    pen.rectangle([(12, 8), (24, 16)], outline=2, fill=2)
    pen.ellipse([30 - 5.5, 20 - 5.5, 30 + 5.5, 20 + 5.5], outline=1, fill=1)
    pen.rectangle([(2, 3), (9, 7)], outline=2, fill=2)
    pen.polygon([tuple(point) for point in points(PART)], outline=255, fill=255)
    pen.rectangle([(3, 20), (6, 24)], outline=1, fill=1)
    pen.polygon([(1, 25), (3, 27), (2, 29), (0, 27)], outline=2, fill=2)
    np.testing.assert_array_equal(masks(root)["a"], np.array(canvas))


def test_cvat_xml(source: Path, root: Path, run_import: Run) -> None:
    pictures(source / "images", "a.png", "b.png")

    def text(flat: Sequence[float]) -> str:
        return ";".join(f"{x:.2f},{y:.2f}" for x, y in points(flat))

    runs = "3, 2, 4, 1"  # of 5 x 2 pixels
    image = f"""
      <polygon label="dog" z_order="1" points="{text(INNER)}"/>
      <polygon label="cat" z_order="0" points="{text(STAR)}"/>
      <box label="cat" z_order="0" xtl="0" ytl="25" xbr="5" ybr="30"/>
      <mask label="dog" z_order="2" rle="{runs}" left="30" top="20" width="5" height="2"/>"""
    labels = "".join(f"<label><name>{name}</name></label>" for name in ("dog", "cat"))
    xml = (
        f"<annotations><meta><job><labels>{labels}</labels></job></meta>"
        f'<image id="0" name="a.png">{image}</image><image id="1" name="b.png"/></annotations>'
    )
    (source / "annotations.xml").write_text(xml)
    imported = run_import("cvat", source)
    assert imported.classes == ("background", "dog", "cat")
    expected = np.zeros((HEIGHT, WIDTH), np.uint8)

    def filled(flat: Sequence[float]) -> NDArray[np.bool_]:
        region: NDArray[np.bool_] = rle.decode(
            rle.frPyObjects([[round(value, 2) for value in flat]], HEIGHT, WIDTH)
        )[..., 0].astype(bool)
        return region

    expected[filled(STAR)] = 2
    expected[box(0, 25, 5, 30)] = 2
    expected[filled(INNER)] = 1
    expected[20, 33:35] = expected[21, 34] = 1
    np.testing.assert_array_equal(masks(root)["a"], expected)
    assert not masks(root)["b"].any()
    (source / "annotations.xml").write_text(xml.replace("<box", "<polyline"))
    with pytest.raises(SegopsError, match=r"image a\.png has shapes of type polyline"):
        run_import("cvat", source)
    (source / "annotations.xml").write_text(f"<!DOCTYPE a [<!ENTITY b 'c'>]>{xml}")
    with pytest.raises(SegopsError, match="declares a document type"):
        run_import("cvat", source)


def test_cvat_masks(source: Path, root: Path, run_import: Run) -> None:
    pictures(source / "JPEGImages", "a.jpg", "b.jpg")
    (source / "labelmap.txt").write_text(
        "# label:color_rgb:parts:actions\nbackground:0,0,0::\ncat:250,50,83::\n"
    )
    colors = np.zeros((HEIGHT, WIDTH, 3), np.uint8)
    colors[box(4, 5, 9, 10)] = (250, 50, 83)
    (source / "SegmentationClass").mkdir()
    for name in ("a", "b"):
        Image.fromarray(colors).save(source / f"SegmentationClass/{name}.png")
    assert run_import("cvat", source).classes == ("background", "cat")
    np.testing.assert_array_equal(masks(root)["a"], box(4, 5, 9, 10))


def test_supervisely(source: Path, root: Path, run_import: Run) -> None:
    write_json(source / "meta.json", {"classes": [{"title": "cat"}, {"title": "dog"}]})
    bitmap = base64.b64encode(zlib.compress(png(box(0, 0, 6, 4)[:4, :6], "LA"))).decode()
    objects = [
        {"classTitle": "cat", "geometryType": "polygon",
         "points": {"exterior": [[2, 2], [30, 2], [30, 20], [2, 20]],
                    "interior": [[[10, 8], [15, 8], [15, 12], [10, 12]]]}},
        {"classTitle": "dog", "geometryType": "rectangle",
         "points": {"exterior": [[25, 15], [35, 25]], "interior": []}},
        {"classTitle": "dog", "geometryType": "bitmap",
         "bitmap": {"origin": [33, 1], "data": bitmap}},
    ]  # fmt: skip
    for split, name in (("train", "a"), ("val", "b")):
        pictures(source / split / "img", f"{name}.png")
        write_json(source / split / f"ann/{name}.png.json", {"tags": [], "objects": objects})
    imported = run_import("supervisely", source)
    assert imported.classes == ("background", "cat", "dog")
    expected = np.zeros((HEIGHT, WIDTH), np.uint8)
    expected[box(2, 2, 31, 21) & ~box(10, 8, 16, 13)] = 1
    expected[box(25, 15, 36, 26)] = 2
    expected[box(33, 1, 39, 5)] = 2
    np.testing.assert_array_equal(masks(root)["a"], expected)
    write_json(source / "meta.json", {"classes": [{"title": "cat"}]})  # dog is in use alone
    assert run_import("supervisely", source).classes == ("background", "cat", "dog")
    assert run_import("supervisely", source, ignore=("dog",)).classes == ("background", "cat")


def encoded_brush(values: NDArray[np.uint8]) -> list[int]:
    """Encode values as Label Studio's editor does: runs of repeats and of others."""
    bits = f"{len(values):032b}" + f"{7:05b}" + "".join(f"{size - 1:04b}" for size in (3, 4, 8, 16))
    place = 0
    while place < len(values):
        end = place + 1
        while end < len(values) and values[end] == values[place]:
            end += 1
        repeats = end - place > 1
        while (
            not repeats
            and end < len(values)
            and (end + 1 == len(values) or values[end] != values[end + 1])
        ):
            end += 1
        length = min(end - place, 1 << 16)
        choice = next(n for n, size in enumerate((3, 4, 8, 16)) if length <= 1 << size)
        bits += f"{int(repeats)}{choice:02b}{length - 1:0{(3, 4, 8, 16)[choice]}b}"
        run = values[place : place + (1 if repeats else length)]
        bits += "".join(f"{value:08b}" for value in run.tolist())
        place += length
    bits += "0" * (-len(bits) % 8)
    return [int(bits[i : i + 8], 2) for i in range(0, len(bits), 8)]


def test_label_studio(source: Path, root: Path, run_import: Run) -> None:
    pictures(source / "upload", "a.png", "b.png")
    brush = box(20, 3, 33, 9)
    rgba = np.repeat(brush.astype(np.uint8)[..., None] * 255, 4, axis=2)
    shared = {"original_width": WIDTH, "original_height": HEIGHT}
    results = [
        {**shared, "type": "polygonlabels", "value": {
            "points": (np.asarray(points(PART)) / [WIDTH, HEIGHT] * 100).tolist(),
            "polygonlabels": ["cat"]}},
        {**shared, "type": "rectanglelabels", "value": {
            "x": 50, "y": 50, "width": 25, "height": 20, "rotation": 0,
            "rectanglelabels": ["dog"]}},
        {**shared, "type": "brushlabels", "value": {
            "format": "rle", "rle": encoded_brush(rgba.ravel()), "brushlabels": ["cat"]}},
        {**shared, "type": "choices", "value": {"choices": ["good"]}},
    ]  # fmt: skip
    tasks = [
        {"id": 1, "data": {"image": "/data/upload/1/0a1b2c3d-a.png"}, "annotations": [
            {"updated_at": "2026-01-02", "result": results},
            {"updated_at": "2026-01-03", "result": [], "was_cancelled": True}]},
        {"id": 2, "data": {"image": "/data/local-files/?d=upload/b.png"},
         "annotations": [{"result": []}]},
    ]  # fmt: skip
    file = write_json(source / "export.json", tasks)
    assert run_import("label-studio", source).classes == ("background", "cat", "dog")
    canvas = Image.new("L", (WIDTH, HEIGHT))
    pen = ImageDraw.Draw(canvas)
    pen.polygon([tuple(point) for point in points(PART)], outline=1, fill=1)
    pen.rectangle([(20, 15), (30, 21)], outline=2, fill=2)
    expected = np.array(canvas)
    expected[brush] = 1
    np.testing.assert_array_equal(masks(root)["a"], expected)
    results[2]["value"]["rle"] = results[2]["value"]["rle"][:-4]  # type: ignore[index]
    write_json(file, tasks)
    with pytest.raises(SegopsError, match="task 1, a result: cannot be read: a brush whose code"):
        run_import("label-studio", source)


def percents(**pixels: float) -> dict[str, float]:
    """Label Studio's percent of numbers of pixels; x, width and radiusX are of the width."""
    across = ("x", "width", "radiusX")
    return {key: one / (WIDTH if key in across else HEIGHT) * 100 for key, one in pixels.items()}


def studio_mask(
    kind: str, values: Sequence[dict[str, Any]], source: Path, root: Path, run_import: Run
) -> NDArray[np.uint8]:
    """The mask that an export with these results, and a second image, gives."""
    pictures(source, "a.png", "b.png")
    shared = {"type": kind, "original_width": WIDTH, "original_height": HEIGHT}
    results = [{**shared, "value": value} for value in values]
    tasks = [
        {"id": 1, "data": {"image": "/a.png"}, "annotations": [{"result": results}]},
        {"id": 2, "data": {"image": "/b.png"}, "annotations": [{"result": []}]},
    ]
    write_json(source / "export.json", tasks)
    run_import("label-studio", source)
    return masks(root)["a"]


def test_brushes_of_label_studio_have_holes_and_lie_over_one_another(
    source: Path, root: Path, run_import: Run
) -> None:
    ring = box(4, 3, 24, 20) & ~box(9, 8, 15, 14)
    later = box(12, 10, 30, 25) & ~box(18, 12, 20, 30)
    values = [
        {"format": "rle", "brushlabels": [name],
         "rle": encoded_brush(np.repeat(region.ravel().astype(np.uint8) * 255, 4))}
        for name, region in (("cat", ring), ("dog", later))
    ]  # fmt: skip
    expected = np.zeros((HEIGHT, WIDTH), np.uint8)
    expected[ring] = 1
    expected[later] = 2
    found = studio_mask("brushlabels", values, source, root, run_import)
    np.testing.assert_array_equal(found, expected)
    assert found[9, 10] == 0, "the hole"
    assert found[12, 13] == 2, "a later brush in the hole of an earlier one"
    assert found[12, 18] == 1, "an earlier brush in the hole of a later one"


@pytest.mark.parametrize("turn", [0, 90, 35, -20])
def test_ellipses_of_label_studio(turn: float, source: Path, root: Path, run_import: Run) -> None:
    """By the equation of the ellipse; a pixel and a half at its border are the tool's affair."""
    value = percents(x=20, y=15, radiusX=14, radiusY=7) | {"ellipselabels": ["cat"]}
    found = studio_mask("ellipselabels", [{**value, "rotation": turn}], source, root, run_import)
    rows, columns = np.mgrid[:HEIGHT, :WIDTH]
    angle = np.radians(turn)  # clockwise as it is seen: y points down
    along = (columns - 20) * np.cos(angle) + (rows - 15) * np.sin(angle)
    across = (rows - 15) * np.cos(angle) - (columns - 20) * np.sin(angle)
    for edge, is_inside in ((-1.5, True), (1.5, False)):
        within = (along / (14 + edge)) ** 2 + (across / (7 + edge)) ** 2 <= 1
        region = within if is_inside else ~within
        assert (found[region] == is_inside).all()
    assert (found > 0).sum() == pytest.approx(np.pi * 14 * 7, rel=0.12)


def test_rectangles_of_label_studio_turn_about_their_upper_left_corner(
    source: Path, root: Path, run_import: Run
) -> None:
    value = percents(x=20, y=5, width=16, height=8) | {"rectanglelabels": ["cat"]}
    found = studio_mask("rectanglelabels", [{**value, "rotation": 90}], source, root, run_import)
    # Its border belongs to it; 16 pixels go down from the corner and 8 to the left.
    np.testing.assert_array_equal(found, box(12, 5, 21, 22).astype(np.uint8))
    found = studio_mask("rectanglelabels", [{**value, "rotation": 30}], source, root, run_import)
    rows, columns = np.mgrid[:HEIGHT, :WIDTH]
    angle = np.radians(30)
    along = (columns - 20) * np.cos(angle) + (rows - 5) * np.sin(angle)
    across = (rows - 5) * np.cos(angle) - (columns - 20) * np.sin(angle)
    from_edge = np.minimum(np.minimum(along, 16 - along), np.minimum(across, 8 - across))
    assert (found[from_edge > 1.5] == 1).all()
    assert (found[from_edge < -1.5] == 0).all()


def test_a_brush_of_noise() -> None:
    values = np.random.default_rng(0).integers(0, 3, 4000).astype(np.uint8)
    np.testing.assert_array_equal(decode_brush(encoded_brush(values), 1000), values[3::4])


@pytest.mark.parametrize("form", ["coco", "labelme"])
def test_a_data_set_comes_back_from_an_export_of_itself(
    tiny_voc: Path, source: Path, root: Path, run_import: Run, form: str
) -> None:
    """Each class's pixels as one region: masks come back equal, void included."""
    layout = open_layout(tiny_voc)
    names = {label: f"class{label:03d}" for label in range(256)} | {255: "void", 0: "background"}
    images, annotations, expected = [], [], {}
    for number, image_id in enumerate(
        id_ for split in ("train", "val") for id_ in layout.ids(split)
    ):
        mask = expected[image_id] = read_mask(layout.mask_path(image_id))
        photo = source / layout.image_path(image_id).name
        photo.write_bytes(layout.image_path(image_id).read_bytes())
        images.append({"id": number, "file_name": photo.name})
        shapes = []
        for label in np.unique(mask[mask > 0]).tolist():
            region = mask == label
            code = rle.encode(np.asfortranarray(region.astype(np.uint8)))
            annotations.append(
                {"id": len(annotations), "image_id": number, "category_id": label, "iscrowd": 1,
                 "segmentation": {"size": code["size"], "counts": code["counts"].decode()}}
            )  # fmt: skip
            shapes.append(
                {"label": names[label], "shape_type": "mask", "points": [[0, 0], [79, 63]],
                 "mask": base64.b64encode(png(region)).decode()}
            )  # fmt: skip
        if form == "labelme":
            write_json(photo.with_suffix(".json"), {"imagePath": photo.name, "shapes": shapes})
    if form == "coco":
        met = sorted({annotation["category_id"] for annotation in annotations})
        categories = [{"id": label, "name": names[label]} for label in met]
        tree = {"images": images, "annotations": annotations, "categories": categories}
        write_json(source / "instances.json", tree)
    classes = run_import(form, source).classes
    ids = {label: classes.index(name) for label, name in names.items() if name in classes}
    table = np.array([ids.get(label, 255) for label in range(256)], np.uint8)
    found = masks(root)
    assert found.keys() == expected.keys()
    for image_id, mask in expected.items():
        np.testing.assert_array_equal(found[image_id], table[mask])
    assert any((mask == 255).any() for mask in found.values())
