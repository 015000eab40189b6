"""Directories of photographs and masks: values, colours, thresholds, and what is wrong."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from segops import importers
from segops.importers.formats import FORMATS
from segops.runtime.classes import palette
from segops.runtime.errors import SegopsError
from segops.runtime.masks import read_mask
from segops.voc.layout import open_layout
from tests.unit.importers.conftest import Run, classes_in_params, greyscale, photograph

CRACK = np.zeros((30, 40), np.uint8)
CRACK[10:12, 5:35] = 255


def cracks(source: Path, number: int = 6, suffix: str = ".png") -> None:
    for index in range(number):
        photograph(source / f"images/road_{index}{suffix}", shade=20 * index)
        greyscale(source / f"masks/road_{index}_mask.png", np.roll(CRACK, index, axis=0))


def test_values_become_classes(
    source: Path, root: Path, run_import: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    cracks(source)
    monkeypatch.chdir(source.parent)
    values = "0=background,255=crack"
    imported = run_import("folder", Path(source.name), values=values, ignore=("7",))
    assert imported.classes == ("background", "crack")
    assert classes_in_params(root) == ["background", "crack"]
    layout = open_layout(root / "data/voc")
    for index in range(6):
        expected = np.roll(CRACK, index, axis=0) // 255
        np.testing.assert_array_equal(read_mask(layout.mask_path(f"road_{index}")), expected)
        original = source / f"images/road_{index}.png"
        assert layout.image_path(f"road_{index}").read_bytes() == original.read_bytes()
    record = json.loads((root / "data/voc/import.json").read_text())
    assert record["images"]["road_3"]["labels"] == [str(source / "masks/road_3_mask.png")]
    assert record["images"]["road_3"]["photograph"] == str(source / "images/road_3.png")
    assert record["options"] == {"values": values, "ignore": ["7"]}


def test_values_that_nothing_names_are_counted(source: Path, root: Path, run_import: Run) -> None:
    cracks(source)
    before = (root / "params.yaml").read_text()
    with pytest.raises(SegopsError) as error:
        run_import("folder", source, values="0=background,1=crack")
    assert "label 255 is not mapped: 360 pixels, as in road_" in str(error.value)
    assert "--values" in str(error.value)
    assert not (root / "data").exists() or not list((root / "data").iterdir())
    assert (root / "params.yaml").read_text() == before


def test_a_value_that_nothing_names_is_listed_with_the_colour_of_its_palette(
    source: Path, run_import: Run
) -> None:
    cracks(source)
    for index, color in ((3, (18, 52, 86)), (4, (1, 2, 3))):
        image = Image.fromarray(np.roll(CRACK, index, axis=0) // 51 + 2)  # of 2 and 7
        image.putpalette([0] * 21 + list(color))
        image.save(source / f"masks/road_{index}_mask.png")
    with pytest.raises(SegopsError) as error:
        run_import("folder", source, values="2=road,0=background,255=crack")
    lines = [line.strip() for line in str(error.value).splitlines()]
    found = [line for line in lines if line.startswith("label 7 ")]
    assert found in (
        ["label 7 (shown as #123456) is not mapped: 120 pixels, as in road_3"],
        ["label 7 (shown as #010203) is not mapped: 120 pixels, as in road_4"],
    )


def test_a_value_can_become_void(source: Path, root: Path, run_import: Run) -> None:
    cracks(source)
    values = np.roll(CRACK, 2, axis=0)
    values[0, :7] = 128
    greyscale(source / "masks/road_2_mask.png", values)
    run_import("folder", source, values="0=background,255=crack", ignore=["128"])
    mask = read_mask(open_layout(root / "data/voc").mask_path("road_2"))
    assert (mask[0, :7] == 255).all()
    assert set(np.unique(mask)) == {0, 1, 255}


def test_soft_masks_are_cut_at_a_threshold(source: Path, root: Path, run_import: Run) -> None:
    cracks(source)
    values = np.arange(1200, dtype=np.uint16).reshape(30, 40) * 255 // 1199
    greyscale(source / "masks/road_0_mask.png", values.astype(np.uint8))
    imported = run_import("folder", source, threshold=100, classes=("road", "crack"))
    assert imported.classes == ("road", "crack")
    mask = read_mask(open_layout(root / "data/voc").mask_path("road_0"))
    np.testing.assert_array_equal(mask, values >= 100)


@pytest.mark.parametrize("mode", ["RGB", "P"])
@pytest.mark.parametrize(
    "table",
    [
        "64 128 64\tAnimal\n192\t0  128\tArchway\n0 0 0\tVoid\n",
        "name,r,g,b\nAnimal,64,128,64\nArchway,192,0,128\nVoid,0,0,0\n",
        "Animal;#408040\nArchway;#c00080\nvoid;#000000\n",
        "# label:color_rgb:parts:actions\nAnimal:64,128,64::\nArchway:192,0,128::\nVoid:0,0,0::\n",
    ],
)
def test_colours_become_classes(
    source: Path, root: Path, run_import: Run, table: str, mode: str
) -> None:
    colors = np.zeros((30, 40, 3), np.uint8)
    colors[:10], colors[10:20] = (64, 128, 64), (192, 0, 128)
    for index in range(5):
        photograph(source / f"701_StillsRaw_full/frame{index}.png", shade=30 * index)
        image = Image.fromarray(np.roll(colors, index, axis=0))
        path = source / f"LabeledApproved_full/frame{index}_L.png"
        path.parent.mkdir(exist_ok=True)
        (image if mode == "RGB" else image.quantize(8, dither=Image.Dither.NONE)).save(path)
    (source / "label_colors.txt").write_text(table)
    imported = run_import(
        "folder", source, images="701_StillsRaw_full", masks="LabeledApproved_full",
        colors=source / "label_colors.txt",
    )  # fmt: skip
    assert imported.classes == ("Animal", "Archway")
    mask = read_mask(open_layout(root / "data/voc").mask_path("frame1"))
    np.testing.assert_array_equal(mask[:, 0], [255, *[0] * 10, *[1] * 10, *[255] * 9])


def test_a_colour_that_the_table_lacks_is_named(source: Path, run_import: Run) -> None:
    photograph(source / "images/a.png")
    colors = np.zeros((30, 40, 3), np.uint8)
    colors[3, :4] = (1, 2, 3)
    (source / "masks").mkdir()
    Image.fromarray(colors).save(source / "masks/a.png")
    (source / "colors.txt").write_text("black 0 0 0\nwhite 255 255 255\n")
    with pytest.raises(SegopsError, match="label #010203 is not mapped: 4"):
        run_import("folder", source, colors=source / "colors.txt")


def test_class_ids_are_named_in_order(source: Path, root: Path, run_import: Run) -> None:
    ids = np.array([[0, 7, 20, 255]] * 3, np.uint8)
    for index in range(4):
        photograph(source / f"images/{index}.webp", 4, 3, shade=50 * index)
        greyscale(source / f"labels/{index}.png", ids)
    with pytest.raises(SegopsError, match=r"255 is not mapped: 12 pixels[\s\S]*--classes voc"):
        run_import("folder", source)
    run_import("folder", source, classes=("voc",))
    assert classes_in_params(root) == "voc"
    layout = open_layout(root / "data/voc")
    for index in range(4):
        np.testing.assert_array_equal(read_mask(layout.mask_path(str(index))), ids)


def test_colours_of_voc_are_asked_for(source: Path, root: Path, run_import: Run) -> None:
    """Other data sets use the same colours for other classes."""
    ids = np.array([[0, 7, 20, 255]] * 3, np.uint8)
    for index in range(4):
        photograph(source / f"images/{index}.png", 4, 3, shade=50 * index)
        (source / "labels").mkdir(exist_ok=True)
        Image.fromarray(palette()[ids]).save(source / f"labels/{index}.png")
    with pytest.raises(SegopsError, match=r"label #808080 is not mapped[\s\S]*--colors voc"):
        run_import("folder", source)
    run_import("folder", source, colors=Path("voc"))
    np.testing.assert_array_equal(read_mask(open_layout(root / "data/voc").mask_path("0")), ids)


def test_splits_of_directories_and_a_pattern(source: Path, root: Path, run_import: Run) -> None:
    for split in ("train", "valid", "test"):
        for index in range(2):
            photograph(source / split / f"left/{split}{index}.png", shade=20 * index)
            greyscale(source / split / f"gt/{split}{index}.png", CRACK)
    imported = run_import(
        "folder", source, images="*/left/*.png", masks="*/gt/*.png", values="0=a,255=b"
    )
    assert dict(imported.images) == {"train": 2, "val": 2, "test": 2}
    layout = open_layout(root / "data/voc")
    assert layout.ids("val") == ("valid0", "valid1")
    assert layout.list_path("test").read_text() == "test0\ntest1\n"


def test_all_problems_are_listed_and_nothing_changes(
    source: Path, root: Path, run_import: Run
) -> None:
    cracks(source)
    (root / "data/voc").mkdir(parents=True)
    (root / "data/voc/mine").write_text("kept")
    (source / "masks/road_1_mask.png").unlink()
    (source / "images/road_2.png").unlink()
    greyscale(source / "masks/road_3_mask.png", CRACK[:-1])
    (source / "images/road_4.png").write_bytes(b"no photograph")
    (source / "masks/road_5_mask.png").write_bytes(b"no mask")
    with pytest.raises(SegopsError) as error:
        run_import("folder", source, values="0=a,255=b")
    assert "road_1.png: expected one mask of its name, there are none" in str(error.value)
    assert "road_2_mask.png: no photograph of its name" in str(error.value)
    cracks(source)
    greyscale(source / "masks/road_3_mask.png", CRACK[:-1])
    (source / "images/road_4.png").write_bytes(b"no photograph")
    (source / "masks/road_5_mask.png").write_bytes(b"no mask")
    with pytest.raises(SegopsError) as error:
        run_import("folder", source, values="0=a,255=b")
    for words in ("road_3_mask.png: 40 x 29 pixels", "road_4.png: not decodable", "road_5_mask"):
        assert words in str(error.value)
    assert [path.name for path in (root / "data").rglob("*")] == ["voc", "mine"]


def test_merging_ignoring_and_ordering(source: Path, root: Path, run_import: Run) -> None:
    ids = np.array([[0, 1, 2, 3]] * 3, np.uint8)
    for index in range(4):
        photograph(source / f"images/{index}.png", 4, 3, shade=50 * index)
        greyscale(source / f"masks/{index}.png", ids)
    values = "0=road,1=car,2=bus,3=sky"
    imported = run_import(
        "folder", source, values=values, merge=("vehicle=car,bus",), ignore=("sky",)
    )
    assert imported.classes == ("road", "vehicle")
    mask = read_mask(open_layout(root / "data/voc").mask_path("0"))
    assert mask[0].tolist() == [0, 1, 1, 255]
    imported = run_import("folder", source, values=values, classes=("sky", "bus", "car", "road"))
    mask = read_mask(open_layout(root / "data/voc").mask_path("0"))
    assert mask[0].tolist() == [3, 2, 1, 0]
    with pytest.raises(SegopsError, match="--merge and --ignore name lorry, which the data do not"):
        run_import("folder", source, values=values, merge=("vehicle=car,lorry",))
    with pytest.raises(SegopsError, match="--classes lacks sky"):
        run_import("folder", source, values=values, classes=("bus", "car", "road"))


MINE = '''
"""Reads photographs whose name is their class."""

import numpy as np

from segops.importers.files import Photographs
from segops.importers.source import Drawn, Source, SourceImage


def read(path, images=None):
    def draw(name):
        return lambda size: Drawn((name,), np.zeros(size[::-1], np.int32))

    photographs = list(Photographs(path, images))
    found = [SourceImage(p.stem, p, (p,), draw(p.stem[:-1])) for p in photographs]
    return Source(tuple(found), tuple(sorted({p.stem[:-1] for p in photographs})))
'''


def test_an_importer_is_a_file_and_a_line(
    source: Path, root: Path, run_import: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    (source / "by_name.py").write_text(MINE)
    monkeypatch.setattr(importers, "__path__", [*importers.__path__, str(source)])
    monkeypatch.setitem(FORMATS, "by-name", "photographs whose name is their class")
    for index in range(2):
        photograph(source / f"photos/cat{index}.png", shade=20 * index)
        photograph(source / f"photos/dog{index}.png", shade=90 + index)
    assert run_import("by-name", source).classes == ("cat", "dog")
    mask = read_mask(open_layout(root / "data/voc").mask_path("dog1"))
    assert mask.shape == (30, 40)
    assert (mask == 1).all()


def test_a_split_far_from_its_share_is_said(source: Path, run_import: Run) -> None:
    for index in range(8):
        photograph(source / f"images/seq{index // 2:02d}_{index % 2}.png", shade=20 * index)
        greyscale(source / f"masks/seq{index // 2:02d}_{index % 2}.png", CRACK)
    asked = {"values": "0=a,255=b", "group": r"seq(\d+)", "share": "val=0.25"}
    (note,) = run_import("folder", source, **asked).notes
    assert note.startswith("val has 6 of 8 images and should have 25%")
    assert run_import("folder", source, **asked, stratify=True).notes == ()


def test_a_mask_may_be_as_large_as_its_photograph(
    source: Path, run_import: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its limit is `data.max_pixels`, as that of the photograph, not the one that is shipped."""
    cracks(source)
    for module in ("importers.source", "runtime.images"):
        monkeypatch.setattr(f"segops.{module}.MAX_PIXELS", 1199)
    run_import("folder", source, values="0=background,255=crack")
    greyscale(source / "masks/road_0_mask.png", np.zeros((31, 40), np.uint8))
    with pytest.raises(
        SegopsError, match=r"road_0_mask\.png: 40 x 31 pixels, its photograph 40 x 30"
    ):
        run_import("folder", source, values="0=background,255=crack")
