"""Every way in which data can be broken is found and named."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from PIL import Image

from segops.params.file import Params, parse_params
from segops.quality.checks import DataCheck, Validation
from segops.quality.expectations import check, unreadable
from segops.quality.facts import empty_facts, scan
from segops.quality.runner import evaluate, gxe
from segops.runtime.classes import VOC_CLASSES
from segops.runtime.masks import read_mask, write_mask
from segops.voc.layout import Layout, open_layout


def params(**validate: object) -> Params:
    return parse_params({"validate": {"required_classes": ["background"], **validate}})


def by_name(validation: Validation, name: str) -> DataCheck:
    (found,) = [one for one in validation.checks if one.name == name]
    return found


def failed(validation: Validation) -> set[str]:
    return {one.name for one in validation.checks if not one.passed}


Damage = Callable[[Layout, str], str]
"""Breaks something about an image; returns the file that is to be named."""


def name(layout: Layout, path: Path) -> str:
    return path.relative_to(layout.root).as_posix()


def truncate(layout: Layout, image_id: str) -> str:
    path = layout.image_path(image_id)
    path.write_bytes(path.read_bytes()[:-200])
    return name(layout, path)


def no_image(layout: Layout, image_id: str) -> str:
    layout.image_path(image_id).write_text("a page that says 404")
    return name(layout, layout.image_path(image_id))


def sixteen_bits(layout: Layout, image_id: str) -> str:
    path = layout.image_path(image_id)
    with Image.open(path) as image:
        deep = np.full((image.height, image.width), 4000, dtype=np.uint16)
    Image.fromarray(deep).save(path, "PNG")
    return name(layout, path)


def other_size(layout: Layout, image_id: str) -> str:
    path = layout.mask_path(image_id)
    write_mask(path, read_mask(path)[:-2])
    return name(layout, path)


def id_37(layout: Layout, image_id: str) -> str:
    path = layout.mask_path(image_id)
    mask = read_mask(path)
    mask[3:7, 2:12] = 37
    write_mask(path, mask)
    return name(layout, path)


def no_mask(layout: Layout, image_id: str) -> str:
    layout.mask_path(image_id).unlink()
    return name(layout, layout.mask_path(image_id))


def no_jpeg(layout: Layout, image_id: str) -> str:
    layout.image_path(image_id).unlink()
    return name(layout, layout.image_path(image_id))


def much_void(layout: Layout, image_id: str) -> str:
    path = layout.mask_path(image_id)
    mask = read_mask(path)
    mask[:] = 255
    mask[0] = 0
    write_mask(path, mask)
    return name(layout, path)


def alien_colour(layout: Layout, image_id: str) -> str:
    path = layout.mask_path(image_id)
    colours = np.zeros((*read_mask(path).shape, 3), dtype=np.uint8)
    colours[4, 9] = (1, 2, 3)
    Image.fromarray(colours).save(path)
    return name(layout, path)


def damaged_pixels(layout: Layout, image_id: str) -> str:
    path = layout.mask_path(image_id)
    content = bytearray(path.read_bytes())
    content[content.index(b"IDAT") + 12] ^= 0x10
    path.write_bytes(content)
    return name(layout, path)


def turned(layout: Layout, image_id: str) -> str:
    path = layout.image_path(image_id)
    exif = Image.Exif()
    exif[0x0112] = 8
    with Image.open(path) as image:
        image.save(path, exif=exif)
    return name(layout, path)


def in_val_too(layout: Layout, image_id: str) -> str:
    other = layout.image_path(layout.ids("val")[-1])
    with Image.open(layout.image_path(image_id)) as image, Image.open(other) as twin:
        # As large as the image that it replaces, so that nothing else is wrong.
        copy = image.resize(twin.size)
    copy.save(other)
    mask = Image.fromarray(read_mask(layout.mask_path(image_id)))
    shutil.copy(other, layout.image_path(image_id))
    write_mask(
        layout.mask_path(image_id), np.asarray(mask.resize(copy.size, Image.Resampling.NEAREST))
    )
    return name(layout, layout.image_path(image_id))


def id_in_both_lists(layout: Layout, image_id: str) -> str:
    path = layout.list_path("val")
    path.write_text(path.read_text() + f"{image_id}\n")
    return name(layout, layout.list_path("train"))


DAMAGES: dict[str, tuple[Damage, str, str]] = {
    "truncated": (truncate, "images readable", "truncated"),
    "no image": (no_image, "images readable", "not an image file"),
    "16 bits": (sixteen_bits, "images readable", "16 bits of greyscale"),
    "missing mask": (no_mask, "pairs complete", "no such file"),
    "missing image": (no_jpeg, "pairs complete", "no such file"),
    "other size": (other_size, "sizes equal", " × "),
    "id 37": (id_37, "ids legal", "id 37 (40 pixels)"),
    "void": (much_void, "void within bounds", "%"),
    "alien colour": (alien_colour, "masks readable", "colour (1, 2, 3) at x=9, y=4"),
    "damaged mask": (damaged_pixels, "masks readable", "not decodable"),
    "turned": (turned, "images upright", "EXIF orientation 8"),
    "twin": (in_val_too, "splits apart", "is the same file as"),
    "both lists": (id_in_both_lists, "ids listed once", "is also in"),
}


@pytest.fixture
def layout(tiny_voc: Path) -> Layout:
    return open_layout(tiny_voc)


def test_good_data_pass(layout: Layout) -> None:
    validation = check(scan(layout), params())
    assert validation.passed, validation.findings
    assert validation.images == {"train": 12, "val": 6}
    assert validation.findings == {}
    assert len(validation.checks) == 14


@pytest.mark.parametrize(("damage", "rule", "words"), DAMAGES.values(), ids=DAMAGES)
def test_a_damage_is_found_and_named(layout: Layout, damage: Damage, rule: str, words: str) -> None:
    image_id = layout.ids("train")[2]
    file = damage(layout, image_id)
    validation = check(scan(layout), params())
    assert not validation.passed
    assert failed(validation) == {rule}
    messages = [one.message for one in by_name(validation, rule).findings if one.file == file]
    assert len(messages) == 1
    assert words in messages[0]


def test_the_same_pixels_under_other_bytes_are_found(layout: Layout) -> None:
    image_id = layout.ids("train")[2]
    in_val_too(layout, image_id)
    path = layout.image_path(image_id)
    with Image.open(path) as image:
        image.save(path.with_suffix(".png"))
    path.unlink()
    validation = check(scan(layout), params())
    assert failed(validation) == {"splits apart"}
    messages = [one.message for one in by_name(validation, "splits apart").findings]
    assert len(messages) == 2
    assert all("has the same pixels as" in message for message in messages)


def test_all_damages_are_listed_at_once(layout: Layout) -> None:
    kinds = [kind for kind in DAMAGES.values() if kind[0] is not id_in_both_lists]
    expected = {
        damage(layout, image_id)
        for image_id, (damage, _, _) in zip(layout.ids("train"), kinds, strict=True)
    }
    validation = check(scan(layout), params(required_classes="all", min_val_images=99))
    assert expected <= set(validation.findings)
    assert failed(validation) >= {rule for _, rule, _ in kinds}
    assert {"required classes in train", "enough images in val"} <= failed(validation)


def test_more_than_twenty_failing_files_are_all_listed(layout: Layout) -> None:
    facts = scan(layout)
    many = pd.concat([facts] * 5, ignore_index=True)
    many["image_id"] = [f"image{index}" for index in range(len(many))]
    many["image_path"] = [f"JPEGImages/image{index}.jpg" for index in range(len(many))]
    many["orientation"] = 3
    findings = by_name(check(many, params()), "images upright").findings
    assert {one.file for one in findings} == set(many["image_path"])
    assert len(findings) == 90


def test_absent_classes_are_named(layout: Layout) -> None:
    validation = check(scan(layout), params(required_classes=["background", "sheep", "sofa"]))
    found = by_name(validation, "required classes in train")
    assert not found.passed
    assert [one.message for one in found.findings] == [
        "no mask holds sheep (id 17); val has 0 masks with it",
        "no mask holds sofa (id 18); val has 0 masks with it",
    ]


def test_a_class_only_in_val_is_absent_from_train(layout: Layout) -> None:
    mask = read_mask(layout.mask_path(layout.ids("val")[0]))
    mask[0, 0] = 17
    write_mask(layout.mask_path(layout.ids("val")[0]), mask)
    validation = check(scan(layout), params(required_classes=["sheep"]))
    (finding,) = by_name(validation, "required classes in train").findings
    assert finding.message.endswith("val has 1 mask with it")


def test_val_must_hold_the_required_classes_too(layout: Layout) -> None:
    for image_id in layout.ids("val"):  # exported empty
        mask = read_mask(layout.mask_path(image_id))
        write_mask(layout.mask_path(image_id), np.zeros_like(mask))
    held = next(name for name in VOC_CLASSES[1:] if train_holds(layout, name))
    validation = check(scan(layout), params(required_classes=["background", held]))
    assert failed(validation) == {"required classes in val"}
    (finding,) = by_name(validation, "required classes in val").findings
    assert finding.file == "ImageSets/Segmentation/val.txt"
    assert finding.message.startswith(f"no mask holds {held} ")


def train_holds(layout: Layout, name: str) -> bool:
    label = VOC_CLASSES.index(name)
    return any((read_mask(layout.mask_path(one)) == label).any() for one in layout.ids("train"))


def test_too_few_images(layout: Layout) -> None:
    validation = check(scan(layout), params(min_train_images=13, min_val_images=6))
    assert failed(validation) == {"enough images in train"}
    (finding,) = by_name(validation, "enough images in train").findings
    assert finding.file == "ImageSets/Segmentation/train.txt"
    assert "validate.min_train_images" in finding.message


@pytest.mark.parametrize(("bound", "passes"), [(0.25, True), (0.24, False)])
def test_void_is_allowed_up_to_the_bound(layout: Layout, bound: float, passes: bool) -> None:
    for split in ("train", "val"):
        for image_id in layout.ids(split):
            mask = np.zeros(read_mask(layout.mask_path(image_id)).shape, dtype=np.uint8)
            mask[: mask.shape[0] // 4] = 255
            mask[-1] = 1
            write_mask(layout.mask_path(image_id), mask)
    validation = check(scan(layout), params(max_void_fraction=bound))
    assert by_name(validation, "void within bounds").passed is passes


def test_other_class_lists_make_other_ids_legal(layout: Layout) -> None:
    facts = scan(layout)
    two = parse_params(
        {"data": {"classes": ["sky", "ground"]}, "validate": {"required_classes": ["sky"]}}
    )
    assert failed(check(facts, two)) == {"masks are of these classes"}
    many = parse_params(
        {
            "data": {"classes": [f"class{index}" for index in range(200)]},
            "validate": {"required_classes": ["class0"]},
        }
    )
    assert check(facts, many).passed


def test_an_id_twice_in_one_list(layout: Layout) -> None:
    facts = scan(layout)
    twice = pd.concat([facts, facts.iloc[[4]]], ignore_index=True)
    (finding,) = by_name(check(twice, params()), "ids listed once").findings
    assert finding.file == "ImageSets/Segmentation/train.txt"
    assert "listed 2 times" in finding.message


def test_twins_within_one_split_are_no_leak(layout: Layout) -> None:
    one, two, *_ = layout.ids("train")
    shutil.copy(layout.image_path(one), layout.image_path(two))
    shutil.copy(layout.mask_path(one), layout.mask_path(two))
    assert check(scan(layout), params()).passed


def test_an_empty_table_fails() -> None:
    validation = check(empty_facts(), params())
    assert not validation.passed
    assert {"data set not empty", "enough images in train", "enough images in val"} <= failed(
        validation
    )
    assert not any(one.errored for one in validation.checks)


def test_no_checks_are_no_pass() -> None:
    assert not Validation(checks=()).passed


def test_errored_is_told_from_failed(layout: Layout) -> None:
    facts = scan(layout).drop(columns="orientation")
    validation = check(facts, params(min_train_images=13))
    errored = by_name(validation, "images upright")
    assert errored.errored
    assert not errored.passed
    assert "could not be evaluated" in errored.observed
    assert "orientation" in errored.observed
    plain = by_name(validation, "enough images in train")
    assert not plain.passed
    assert not plain.errored
    assert failed(validation) == {"images upright", "enough images in train"}


def test_the_engine_reports_an_exception_as_an_error() -> None:
    frame = pd.DataFrame({"image_id": ["a", "b"], "split": ["train", "val"], "size": [1, 2]})
    outcomes = evaluate(
        {"frame": frame},
        {
            "gone": ("frame", gxe.ExpectColumnValuesToBeNull(column="nothing")),
            "unmet": ("frame", gxe.ExpectColumnValuesToBeInSet(column="size", value_set=[1])),
            "met": ("frame", gxe.ExpectColumnValuesToBeInSet(column="size", value_set=[1, 2])),
        },
    )
    assert outcomes["gone"].error is not None
    assert not outcomes["gone"].success
    assert outcomes["unmet"].error is None
    assert outcomes["unmet"].rows == (("b", "val"),)
    assert outcomes["met"].success


def test_the_json_holds_every_expectation_and_all_rows_that_do_not_meet_it(layout: Layout) -> None:
    ids = layout.ids("train")[:3]
    for image_id in ids:
        much_void(layout, image_id)
    validation = json.loads(json.dumps(check(scan(layout), params(min_val_images=7)).to_json()))
    checks = {one["name"]: one for one in validation["checks"]}
    assert len(checks) == 14
    assert checks["void within bounds"]["expectation"] == {
        "type": "expect_column_values_to_be_between",
        "kwargs": {"column": "void_fraction", "min_value": 0.0, "max_value": 0.95},
    }
    assert checks["void within bounds"]["rows"] == [[image_id, "train"] for image_id in ids]
    few = checks["enough images in val"]
    assert few["expectation"]["type"] == "expect_table_row_count_to_be_between"
    assert few["expectation"]["kwargs"]["min_value"] == 7
    assert "val" in json.dumps(few["expectation"]["kwargs"]["row_condition"])
    for one in checks.values():
        assert one["expectation"]["type"].startswith("expect_")
        assert one["passed"] is (one["name"] not in ("void within bounds", few["name"]))
        assert bool(one["rows"]) is (one["name"] == "void within bounds")


def test_an_unreadable_layout_lists_its_findings(tmp_path: Path) -> None:
    message = (
        f"{tmp_path}: not a data set in VOC layout:\n"
        f"  {tmp_path}/JPEGImages: no such directory\n"
        f"  {tmp_path}/ImageSets/Segmentation/val.txt: names no image"
    )
    validation = unreadable(tmp_path, message)
    assert not validation.passed
    assert validation.findings == {
        "ImageSets/Segmentation/val.txt": ("names no image",),
        "JPEGImages": ("no such directory",),
    }
