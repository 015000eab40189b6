"""SBD's masks and the list made of SBD and VOC."""

from __future__ import annotations

import io
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray
from scipy.io import savemat
from scipy.sparse import csc_matrix

from segops.runtime.errors import SegopsError
from segops.runtime.masks import read_mask
from segops.voc.sbd import decode_sbd_mask, read_ids, trainaug, write_sbd_masks

IDS = st.lists(st.sampled_from([f"2008_{number:06d}" for number in range(20)]), unique=True)


def matlab(mask: Any) -> bytes:
    """A file as SBD has them: GTcls with 20 sparse boundary maps beside the segmentation."""
    boundaries = np.empty((20, 1), dtype=object)
    for index in range(20):
        boundaries[index, 0] = csc_matrix(np.eye(4, dtype=np.uint8))
    content = io.BytesIO()
    fields = {"Boundaries": boundaries, "Segmentation": mask, "CategoriesPresent": [[3], [15]]}
    savemat(content, {"GTcls": fields}, do_compression=True)
    return content.getvalue()


def some_mask(height: int = 5, width: int = 7) -> NDArray[np.uint8]:
    return np.random.default_rng(0).integers(0, 21, (height, width), dtype=np.uint8)


def test_a_mask_is_read_as_stored() -> None:
    mask = decode_sbd_mask(matlab(some_mask()), "a.mat")
    assert mask.dtype == np.uint8
    assert np.array_equal(mask, some_mask())


def test_a_mask_of_one_row_keeps_its_shape() -> None:
    assert decode_sbd_mask(matlab(some_mask(1, 7)), "a.mat").shape == (1, 7)
    assert decode_sbd_mask(matlab(some_mask(7, 1)), "a.mat").shape == (7, 1)


@pytest.mark.parametrize(
    "mask",
    [
        some_mask().astype(float),
        np.zeros((2, 3, 4), np.uint8),
        np.zeros((0, 0), np.uint8),
        "text",
        {"deeper": 1},
    ],
)
def test_something_else_than_a_mask_is_refused(mask: Any) -> None:
    with pytest.raises(SegopsError, match=r"a\.mat: GTcls\.Segmentation: expected uint8 of shape"):
        decode_sbd_mask(matlab(mask), "a.mat")


@pytest.mark.parametrize(
    "content", [b"", b"text", matlab(some_mask())[:200], matlab(some_mask())[:-50], b"\0" * 500]
)
def test_broken_bytes_are_refused_by_name(content: bytes) -> None:
    with pytest.raises(SegopsError, match=r"a\.mat: not readable as a mask of SBD"):
        decode_sbd_mask(content, "a.mat")


def test_another_matlab_file_is_refused_by_name() -> None:
    content = io.BytesIO()
    savemat(content, {"GTinst": {"Segmentation": some_mask()}})
    with pytest.raises(SegopsError, match=r"a\.mat: not readable as a mask of SBD"):
        decode_sbd_mask(content.getvalue(), "a.mat")


def test_masks_become_palette_png_and_all_bad_ones_are_listed(tmp_path: Path) -> None:
    (tmp_path / "good.mat").write_bytes(matlab(some_mask()))
    (tmp_path / "bad.mat").write_bytes(b"bad")
    (tmp_path / "worse.mat").write_bytes(b"worse")
    with pytest.raises(SegopsError, match=r"(?s)2 unreadable mask.*  bad\.mat.*\n  worse\.mat"):
        write_sbd_masks(tmp_path, ["good", "bad", "worse"], tmp_path)
    write_sbd_masks(tmp_path, ["good"], tmp_path)
    assert np.array_equal(read_mask(tmp_path / "good.png"), some_mask())


def test_ids_are_read_whatever_the_line_ends(tmp_path: Path) -> None:
    (tmp_path / "train.txt").write_bytes(b"2008_000001\r\n\n 2008_000002 \n2008_000003")
    assert read_ids(tmp_path / "train.txt") == ("2008_000001", "2008_000002", "2008_000003")


@given(IDS, IDS, IDS)
def test_trainaug_holds_all_but_val_once_and_in_order(
    train: list[str], val: list[str], sbd: list[str]
) -> None:
    joined = trainaug(train, val, sbd)
    assert not set(joined) & set(val)
    assert set(joined) | set(val) == {*train, *val, *sbd}
    assert list(joined) == sorted(set(joined))
