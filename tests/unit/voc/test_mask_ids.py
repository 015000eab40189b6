"""Ids of masks become classes when they are read, and the mapping enters the hash of the data."""

from __future__ import annotations

import numpy as np
import pytest

from segops.params.data import DataParams
from segops.runtime.errors import SegopsError
from segops.voc.hashes import dataset_hash
from segops.voc.mask_ids import AS_STORED

ROWS = [("train", "a", "1" * 64, "2" * 64)]
MASK = np.array([[0, 1, 2], [7, 9, 255]], np.uint8)


def data(**values: object) -> DataParams:
    return DataParams.model_validate(values)


def test_ids_become_classes_and_void() -> None:
    ids = data(classes=["ok", {"name": "crack", "ids": [1, 2]}, {"name": "hole", "ids": [7]}],
               ignore=[9]).reading.mask_ids  # fmt: skip
    assert ids.classes(MASK, "m.png").tolist() == [[0, 1, 1], [2, 255, 255]]
    assert ids.classes(MASK, "m.png").dtype == np.uint8
    with pytest.raises(SegopsError, match=r"^m\.png: ids 3, 8 are in neither data\.classes nor"):
        ids.classes(np.array([[3, 8, 0]], np.uint8), "m.png")


def test_names_alone_and_ignored_ids_leave_the_others_as_they_are() -> None:
    assert AS_STORED.classes(MASK, "m.png") is MASK
    assert data().reading.mask_ids == data(classes=["a", "b"]).reading.mask_ids == AS_STORED
    found = data(classes=["a", "b"], ignore=[7]).reading.mask_ids.classes(MASK, "m.png")
    assert found.tolist() == [[0, 1, 2], [255, 9, 255]]


def test_two_mappings_of_the_same_bytes_have_two_hashes() -> None:
    lists = [
        data(classes=["a", "b"]),
        data(classes=["a", "b"], ignore=[2]),
        data(classes=["a", "b"], ignore=[3, 2]),
        data(classes=["a", {"name": "b", "ids": [1, 2]}]),
        data(classes=[{"name": "a", "ids": [1]}, {"name": "b", "ids": [0]}]),
    ]
    hashes = [dataset_hash(ROWS, one.class_names, one.reading.lines) for one in lists]
    assert len(set(hashes)) == len(hashes)


def test_the_bits_of_a_channel_enter_the_hash() -> None:
    read = [data(bit_depth=bits).reading.lines for bits in (None, 10, 16)]
    assert read == [(), ("bit_depth\t10",), ("bit_depth\t16",)]
    assert data(bit_depth=10, ignore=[99]).reading.lines == ("ignore\t99", "bit_depth\t10")
    assert len({dataset_hash(ROWS, ["a"], lines) for lines in read}) == 3


def test_a_mapping_that_changes_nothing_changes_no_hash() -> None:
    plain = dataset_hash(ROWS, ["a", "b"])
    # Of segops before there were mappings: versions of today's data must stay comparable.
    assert plain == "839f8fefecc4c00a769c8cb719d476a8c6776e57c2250f186d5edffb4f41276d"
    same = [
        data(classes=["a", "b"]),
        data(classes=[{"name": "a", "ids": [0]}, "b"]),
    ]
    assert {dataset_hash(ROWS, one.class_names, one.reading.lines) for one in same} == {plain}
    one, other = (data(classes=["a", "b"], ignore=ids) for ids in ([3, 17], [17, 3]))
    assert one.reading.mask_ids.lines == other.reading.mask_ids.lines


def test_a_list_that_gives_each_class_its_place_maps_nothing() -> None:
    same = data(classes=[{"name": "a", "ids": [0]}, {"name": "b", "ids": [1]}]).reading.mask_ids
    assert same == AS_STORED
    assert same.table.tolist() == [*range(256)]
