"""The stage writes everything, then stops the pipeline where the data are not fit."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from PIL import Image

from segops.data.store import METADATA
from segops.files import read_json
from segops.paths import FACTS, PACKED, VALIDATION_JSON, VALIDATION_PAGE, VERDICT
from segops.quality.facts import data_hash
from segops.runtime.classes import VOC_CLASSES
from segops.runtime.errors import SegopsError
from segops.runtime.masks import read_mask, write_mask
from segops.stages import prepare
from segops.stages.validate import run
from segops.voc.layout import Layout, open_layout

PARAMS = "data: {path: voc}\nvalidate: {required_classes: [background]}\n"


@pytest.fixture
def root(tiny_voc: Path) -> Path:
    (tiny_voc.parent / "params.yaml").write_text(PARAMS)
    return tiny_voc.parent


def test_good_data_give_a_verdict_that_holds_only_what_decides(root: Path) -> None:
    run(root)
    verdict = json.loads((root / VERDICT).read_text())
    facts = pd.read_parquet(root / FACTS)
    assert set(verdict) == {"passed", "data_hash", "train_hash", "val_hash", "classes", "images"}
    assert verdict["passed"] is True
    assert verdict["data_hash"] == data_hash(facts, VOC_CLASSES)
    assert verdict["classes"] == list(VOC_CLASSES)
    assert verdict["images"] == {"train": 12, "val": 6}
    assert json.loads((root / VALIDATION_JSON).read_text())["passed"] is True
    assert "Fit for training" in (root / VALIDATION_PAGE).read_text()
    assert {path.name for path in (root / VALIDATION_PAGE).parent.iterdir()} == {
        VALIDATION_JSON.name, VALIDATION_PAGE.name,
    }  # fmt: skip


def test_the_same_data_give_the_same_bytes(root: Path) -> None:
    outputs = (FACTS, VERDICT, VALIDATION_JSON, VALIDATION_PAGE)
    run(root)
    before = [(root / path).read_bytes() for path in outputs]
    run(root)
    assert [(root / path).read_bytes() for path in outputs] == before


def test_a_cosmetic_change_leaves_the_verdict_alone(root: Path) -> None:
    run(root)
    verdict, page = (root / VERDICT).read_bytes(), (root / VALIDATION_PAGE).read_text()
    (root / "params.yaml").write_text(PARAMS + "report: {pictures: false}\n")
    run(root)
    assert (root / VERDICT).read_bytes() == verdict
    assert "data:image" in page
    assert "data:image" not in (root / VALIDATION_PAGE).read_text()


def test_metadata_are_checked_with_every_fault_listed(root: Path) -> None:
    layout = open_layout(root / "voc")
    ids = [one for split in layout.splits().values() for one in split]
    (root / "params.yaml").write_text(PARAMS.replace("path: voc", "path: voc, metadata: m.csv"))
    rows = [f"{one},north" for one in ids]
    (root / "voc" / "m.csv").write_text("\n".join(["image_id,site", *rows]))
    run(root)
    verdict = (root / VERDICT).read_bytes()
    (root / "voc" / "m.csv").write_text("\n".join(["image_id,site", "<b>x</b>,a", *rows[2:]]))
    with pytest.raises(SegopsError) as error:
        run(root)
    said = str(error.value)
    assert "metadata: 3 fault(s). Correct m.csv, or set data.metadata to null." in said
    assert "m.csv: '<b>x</b>' is in no list of the data set" in said
    assert all(f"m.csv: {one!r} has no row" in said for one in ids[:2])
    page = (root / VALIDATION_PAGE).read_text()
    assert "&lt;b&gt;x" in page
    assert "<b>x" not in page
    assert (root / VERDICT).read_bytes() != verdict


def test_images_without_masks_may_have_a_row_of_metadata(root: Path) -> None:
    layout = Layout(root / "voc", unlabelled="more")
    layout.write_list("test", ["t"])
    layout.write_list("more", ["u"])
    pixels = np.random.default_rng(0).integers(0, 256, (2, 40, 60, 3), np.uint8)
    for image_id, one in zip("tu", pixels, strict=True):
        Image.fromarray(one).save(layout.image_path(image_id))
    text = PARAMS.replace("path: voc", "path: voc, metadata: m.csv, unlabelled: more")
    (root / "params.yaml").write_text(text)
    rows = [f"{one},north" for one in sorted(layout.listed())]
    assert len(rows) == 12 + 6 + 2
    (root / "voc" / "m.csv").write_text("\n".join(["image_id,site", *rows]))
    run(root)
    prepare.run(root)
    val = read_json(root / PACKED / "val" / METADATA)
    assert set(val["values"]) == set(layout.ids("val"))


def test_a_near_duplicate_in_val_warns_or_fails(
    root: Path, caplog: pytest.LogCaptureFixture
) -> None:
    layout = open_layout(root / "voc")
    one, other = layout.ids("train")[0], layout.ids("val")[0]
    with Image.open(layout.image_path(one)) as image:
        image.save(layout.image_path(other), quality=60)
    mask = Image.fromarray(read_mask(layout.mask_path(other)))
    write_mask(
        layout.mask_path(other), np.asarray(mask.resize(image.size, Image.Resampling.NEAREST))
    )
    run(root)
    assert "near-duplicates across splits: 1 pair of images" in caplog.text
    (pair,) = json.loads((root / VALIDATION_JSON).read_text())["near_duplicates"]
    assert (pair["image_id"], pair["other_id"], pair["same_pixels"]) == (one, other, False)
    page = (root / VALIDATION_PAGE).read_text()
    assert "<h2>Near-duplicates</h2>" in page
    assert page.count(f'alt="{one}"') == 1
    assert page.count(f'alt="{other}"') == 1
    (root / "params.yaml").write_text(PARAMS.replace("]}", "], max_near_duplicates: 0}"))
    with pytest.raises(SegopsError, match="shows the same picture as"):
        run(root)


def test_broken_data_stop_the_pipeline_after_all_is_written(root: Path) -> None:
    layout = open_layout(root / "voc")
    one, two, *_ = layout.ids("train")
    layout.mask_path(one).unlink()
    layout.image_path(two).write_bytes(b"no image")
    with pytest.raises(SegopsError) as caught:
        run(root)
    message = str(caught.value)
    assert message.startswith("voc: not fit for training. 2 of 14 checks failed")
    assert f"SegmentationClass/{one}.png: no such file" in message
    assert f"JPEGImages/{two}.jpg: not decodable" in message
    assert json.loads((root / VERDICT).read_text())["passed"] is False
    found = json.loads((root / VALIDATION_JSON).read_text())
    for file, messages in found["files"].items():
        assert all(f"\n  {file}: {one}\n" in message for one in messages)
    assert set(found["files"]) == {f"SegmentationClass/{one}.png", f"JPEGImages/{two}.jpg"}
    assert len(pd.read_parquet(root / FACTS)) == 18
    page = (root / VALIDATION_PAGE).read_text()
    assert "Not fit for training" in page
    assert f"SegmentationClass/{one}.png" in page
    assert f"JPEGImages/{two}.jpg" in page


def test_a_layout_that_cannot_be_read_is_reported_too(root: Path) -> None:
    shutil.rmtree(root / "voc/SegmentationClass")
    (root / "voc/ImageSets/Segmentation/val.txt").write_text("")
    with pytest.raises(SegopsError) as caught:
        run(root)
    assert "SegmentationClass: no such directory" in str(caught.value)
    assert "ImageSets/Segmentation/val.txt: names no image" in str(caught.value)
    verdict = json.loads((root / VERDICT).read_text())
    assert verdict["passed"] is False
    assert verdict["images"] == {"train": 0, "val": 0}
    assert "Not fit for training" in (root / VALIDATION_PAGE).read_text()


def test_a_missing_directory_names_itself(root: Path) -> None:
    shutil.rmtree(root / "voc")
    with pytest.raises(SegopsError, match="no such directory"):
        run(root)


def test_a_class_that_is_in_val_alone_is_told(root: Path, caplog: pytest.LogCaptureFixture) -> None:
    layout = open_layout(root / "voc")
    with caplog.at_level("WARNING", "segops"):
        run(root)
    before = caplog.messages
    caplog.clear()
    path = layout.mask_path(layout.ids("val")[0])
    mask = read_mask(path)
    mask[:20, :20] = VOC_CLASSES.index("sofa")
    write_mask(path, mask)
    with caplog.at_level("WARNING", "segops"):
        run(root)
    new = [one for one in caplog.messages if one not in before and "sofa" in one]
    assert any("val holds sofa: no mask of train does. Their IoU" in one for one in new)
    assert any(one.startswith("classes that train lacks: ") for one in new)
    told = json.loads((root / VALIDATION_JSON).read_text())["warnings"]
    assert {"classes that train lacks", "val cannot judge a class"} <= {one["name"] for one in told}
    page = (root / VALIDATION_PAGE).read_text()
    assert "val holds sofa: no mask of train does." in page


@pytest.mark.parametrize(("background", "told"), [("auto", True), ("null", False), ("bird", False)])
def test_warnings_obey_the_background(
    background: str, told: bool, root: Path, caplog: pytest.LogCaptureFixture
) -> None:
    (root / "params.yaml").write_text(PARAMS.replace("voc}", f"voc, background: {background}}}"))
    layout = open_layout(root / "voc")
    for image_id in layout.ids("train")[:6]:
        mask = read_mask(layout.mask_path(image_id))
        write_mask(layout.mask_path(image_id), np.zeros_like(mask))
    run(root)
    assert ("background alone" in caplog.text) is told
