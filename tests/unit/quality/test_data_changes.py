"""What changed between two data sets, on masks made by hand."""

from __future__ import annotations

from collections import Counter
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image

from segops.quality.data_changes import (
    VOID_LABEL,
    Changed,
    Relabelled,
    Version,
    compare,
    joint_labels,
)
from segops.report.diff_page import class_rows, sentences
from segops.runtime.classes import Classes
from segops.runtime.images import Photographs
from segops.runtime.masks import encode_mask
from segops.voc.layout import IMAGES, LISTS, MASKS, Layout
from segops.voc.mask_ids import MaskIds
from segops.voc.reading import Reading

NAMES = ("background", "crack", "void")
GREY = np.full((2, 3, 3), 90, np.uint8)


def mask(*rows: tuple[int, ...]) -> NDArray[np.uint8]:
    return np.array(rows, np.uint8)


PLAIN = mask((0, 0, 0), (0, 0, 255))


def version(
    root: Path, names: tuple[str, ...] = NAMES, **splits: dict[str, NDArray[np.uint8]]
) -> Version:
    """A data set of one grey photograph with other masks."""
    for name in (IMAGES, MASKS, LISTS):
        (root / name).mkdir(parents=True)
    layout = Layout(root)
    for split, masks in splits.items():
        layout.write_list(split, masks)
        for image_id, pixels in masks.items():
            Image.fromarray(GREY).save(layout.image_path(image_id))
            layout.mask_path(image_id).write_bytes(encode_mask(pixels))
    return Version(layout, Classes(names))


def test_images_that_come_go_and_move(tmp_path: Path) -> None:
    before = version(tmp_path / "1", train={"a": PLAIN, "b": PLAIN}, val={"c": PLAIN})
    after = version(tmp_path / "2", train={"b": PLAIN, "c": PLAIN}, val={"d": PLAIN})
    found = compare(before, after)
    assert found.images == {"train": (2, 2), "val": (1, 1)}
    assert found.added == (("d", "val"),)
    assert found.removed == (("a", "train"),)
    assert found.moved == (("c", "val", "train"),)
    assert found.changed == ()
    assert sentences(found) == [
        "1 image added: 1 in val.",
        "1 image removed: 1 in train.",
        "1 image moved between splits: 1 from val to train.",
    ]


def test_pixels_are_counted_by_class_and_void_is_no_class_of_this_name(tmp_path: Path) -> None:
    changed = mask((0, 1, 1), (0, 2, 255))
    before = version(tmp_path / "1", train={"a": PLAIN}, val={"b": PLAIN})
    after = version(tmp_path / "2", train={"a": changed}, val={"b": PLAIN})
    found = compare(before, after, threads=2)
    both = Counter({"background": 5, VOID_LABEL: 1})
    now = Counter({"background": 2, "crack": 2, "void": 1, VOID_LABEL: 1})
    assert found.pixels == {"train": (both, now), "val": (both, both)}
    relabelled = (Relabelled("background", "crack", 2), Relabelled("background", "void", 1))
    assert found.changed == (Changed("a", "train", "same", "changed", 3, relabelled),)
    rows = {row["name"]: row for row in class_rows(found)}
    assert list(rows) == ["background", "crack", "void", VOID_LABEL]
    assert (rows["crack"]["before"], rows["crack"]["after"]) == (0, 2)
    assert rows["crack"]["after_share"] == pytest.approx(2 / 10)
    assert rows[VOID_LABEL]["after_share"] == pytest.approx(2 / 12)
    assert sentences(found)[-1] == (
        "3 pixels of changed masks have another class: background → crack 2, background → void 1."
    )


def test_masks_of_other_ids_for_the_same_classes_are_the_same(tmp_path: Path) -> None:
    before = version(tmp_path / "1", ("crack", "sky"), train={"a": mask((0, 1))}, val={"b": PLAIN})
    after = version(tmp_path / "2", ("sky", "crack"), train={"a": mask((1, 0))}, val={"b": PLAIN})
    found = compare(before, after)
    assert [one.image_id for one in found.changed] == ["b"]  # the same ids now name other classes
    assert found.rewritten == 1


def test_labels_of_both_versions_have_numbers_of_their_own() -> None:
    before, after = (Version(Layout(Path()), Classes(("sky", one), None)) for one in ("dog", "cat"))
    labels, (old, new) = joint_labels(before, after)
    assert new.tolist() == list(range(256))
    assert (old[0], labels[old[1]], old[255]) == (0, "dog", 255)
    assert (old[1], old[2]) == (256, 2)


def test_a_class_may_be_called_as_what_is_no_class() -> None:
    names = ("sky", "id 30", VOID_LABEL)
    before, after = (Version(Layout(Path()), Classes(one, None)) for one in (("sky",), names))
    labels, (old, new) = joint_labels(before, after)
    assert new.tolist() == list(range(256))
    assert labels[:3] == ["sky", "class id 30", f"class {VOID_LABEL}"]
    assert (labels[old[30]], old[255], labels[255]) == ("id 30", 255, VOID_LABEL)


def test_ids_are_compared_by_the_classes_that_they_are_given_to(tmp_path: Path) -> None:
    before = version(
        tmp_path / "1", ("sky", "dog"), train={"a": mask((0, 1, 255))}, val={"b": PLAIN}
    )
    other = version(
        tmp_path / "2",
        ("sky", "dog"),
        train={"a": mask((7, 9, 3))},
        val={"b": mask((7, 7, 7), (7, 7, 3))},
    ).layout
    ids = MaskIds(((7,), (8, 9)), ignore=(3,))
    after = Version(Layout(other.root, Reading(mask_ids=ids)), before.classes)
    assert compare(before, after).changed == ()
    labels = [after.labels()[one] for one in (7, 8, 3, 0)]
    assert labels == ["sky", "dog", VOID_LABEL, "id 0"]
    found = compare(before, Version(other, before.classes))
    assert {one.after for one in found.relabelled} == {"id 3", "id 7", "id 9"}


def test_what_cannot_be_compared_is_told(tmp_path: Path) -> None:
    before = version(tmp_path / "1", train={"a": PLAIN, "b": PLAIN}, val={"c": PLAIN})
    after = version(tmp_path / "2", train={"a": mask((0, 0)), "b": PLAIN}, val={"c": PLAIN})
    after.layout.mask_path("b").write_bytes(b"no mask")
    after.layout.image_path("c").write_bytes(b"no photograph")
    found = compare(before, after)
    by_id = {one.image_id: one for one in found.changed}
    assert (by_id["a"].pixels, by_id["a"].note) == (None, "the mask was 3 × 2 and is 2 × 1 pixels")
    assert by_id["b"].mask == "unreadable"
    assert by_id["c"].photograph == "unreadable"
    assert "c.jpg" in by_id["c"].note
    assert len(found.unreadable) == 1
    assert found.unreadable[0].startswith("now: ")
    assert "1 mask not readable" in sentences(found)[-1]


def test_nothing_changed(tmp_path: Path) -> None:
    sides = [version(tmp_path / one, train={"a": PLAIN}, val={"b": PLAIN}) for one in "12"]
    found = compare(*sides)
    assert found.is_empty
    assert sentences(found)[0].startswith("Nothing changed")


def test_the_same_file_read_with_other_bits_is_another_photograph(tmp_path: Path) -> None:
    one = version(tmp_path / "1", train={"a": PLAIN}, val={"b": PLAIN})
    path = one.layout.image_path("a")
    path.unlink()
    Image.fromarray(np.full((2, 3), 1000, np.uint16)).save(path.with_suffix(".png"))
    before, after = (
        replace(one, layout=Layout(one.layout.root, Reading(Photographs(bit_depth=bits))))
        for bits in (10, 16)
    )
    assert [each.photograph for each in compare(before, after).changed] == ["changed"]
    assert compare(after, after).is_empty
