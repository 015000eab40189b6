"""The facts table says what the files hold."""

from __future__ import annotations

import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from numpy.typing import NDArray
from PIL import Image

from segops.files import sha256_file
from segops.quality import file_facts
from segops.quality.facts import (
    SCHEMA,
    data_hash,
    empty_facts,
    scan,
    split_hash,
    write_facts,
)
from segops.quality.file_facts import MISSING, read_facts, read_together
from segops.runtime.errors import SegopsError
from segops.runtime.images import PIXELS_AT_ONCE
from segops.runtime.masks import read_mask, write_mask
from segops.voc.layout import Layout, open_layout
from segops.voc.mask_ids import MaskIds
from segops.voc.reading import Reading

NAMES = ("background", "cat")


def write_voc(root: Path, masks: list[NDArray[np.uint8]], val: int = 1) -> Layout:
    """A data set with one image for every mask, the last `val` of them in val."""
    for name in ("JPEGImages", "SegmentationClass", "ImageSets/Segmentation"):
        (root / name).mkdir(parents=True)
    ids = [f"image{index}" for index in range(len(masks))]
    for image_id, mask in zip(ids, masks, strict=True):
        image = np.full((*mask.shape, 3), len(image_id), dtype=np.uint8)
        Image.fromarray(image).save(root / f"JPEGImages/{image_id}.jpg")
        write_mask(root / f"SegmentationClass/{image_id}.png", mask)
    for split, part in (("train", ids[:-val]), ("val", ids[-val:])):
        (root / f"ImageSets/Segmentation/{split}.txt").write_text("\n".join(part) + "\n")
    return open_layout(root)


@settings(max_examples=40, deadline=None)
@given(
    st.lists(
        hnp.arrays(
            np.uint8,
            hnp.array_shapes(min_dims=2, max_dims=2, max_side=12),
            elements=st.sampled_from([0, 1, 7, 20, 254, 255]) | st.integers(0, 255),
        ),
        min_size=2,
        max_size=4,
    )
)
def test_labels_and_sizes_are_those_of_the_masks(masks: list[NDArray[np.uint8]]) -> None:
    with tempfile.TemporaryDirectory() as directory:
        facts = scan(write_voc(Path(directory) / "voc", masks), workers=2)
    assert facts["mask_error"].isna().all()
    for mask, row in zip(masks, facts.to_dict("records"), strict=True):
        ids, counts = np.unique(mask, return_counts=True)
        assert list(row["label_ids"]) == ids.tolist()
        assert list(row["label_pixels"]) == counts.tolist()
        assert (row["mask_height"], row["mask_width"]) == mask.shape
        assert (row["height"], row["width"]) == mask.shape
        assert row["void_fraction"] == pytest.approx((mask == 255).mean())


def test_a_row_for_every_listed_image(tiny_voc: Path) -> None:
    facts = scan(open_layout(tiny_voc))
    assert facts["split"].tolist() == ["train"] * 12 + ["val"] * 6
    row = facts.iloc[3]
    assert row["image_path"] == f"JPEGImages/{row['image_id']}.jpg"
    assert row["mask_path"] == f"SegmentationClass/{row['image_id']}.png"
    assert row["image_sha256"] == sha256_file(tiny_voc / row["image_path"])
    assert row["mask_sha256"] == sha256_file(tiny_voc / row["mask_path"])
    assert row["image_bytes"] == (tiny_voc / row["image_path"]).stat().st_size
    assert (row["mode"], row["channels"], row["mask_mode"]) == ("RGB", 3, "P")
    assert facts[["image_error", "mask_error"]].isna().all(axis=None)


def test_workers_change_nothing(tiny_voc: Path) -> None:
    layout = open_layout(tiny_voc)
    pd.testing.assert_frame_equal(scan(layout, workers=1), scan(layout, workers=4))


@pytest.mark.parametrize("limit", [PIXELS_AT_ONCE, 1])
def test_processes_read_what_threads_read(
    tiny_voc: Path,
    monkeypatch: pytest.MonkeyPatch,
    limit: int,
) -> None:
    mapped = Reading(mask_ids=MaskIds(((0,), (1, 2), *((label,) for label in range(3, 22))), (9,)))
    layout = open_layout(tiny_voc, mapped)
    one, two, *_ = layout.ids("train")
    layout.image_path(one).unlink()
    layout.mask_path(two).write_bytes(b"\x89PNG nothing of the kind")
    by_threads = scan(layout, workers=2)
    monkeypatch.setattr("segops.quality.facts.MANY", 18)
    slow_down(monkeypatch)
    monkeypatch.setattr("segops.quality.facts.PIXELS_AT_ONCE", limit)
    monkeypatch.chdir(tiny_voc.parent)
    relative = Layout(Path(tiny_voc.name), mapped)
    pd.testing.assert_frame_equal(scan(relative, workers=2), by_threads)


def slow_down(monkeypatch: pytest.MonkeyPatch, seconds: float = 0.2) -> list[str]:
    """Let this process read so slowly that others have to; the images that it reads."""
    here: list[str] = []

    def read(layout: Layout, image_id: str) -> dict[str, Any]:
        here.append(image_id)
        time.sleep(seconds)
        return read_facts(layout, image_id)

    monkeypatch.setattr(file_facts, "read_facts", read)
    return here


@pytest.mark.parametrize("seconds", [0.0, 0.2])
def test_each_image_is_read_by_this_process_or_another_and_yielded_once(
    tiny_voc: Path, monkeypatch: pytest.MonkeyPatch, seconds: float
) -> None:
    layout = open_layout(tiny_voc)
    ids = [image_id for split in layout.splits().values() for image_id in split]
    here = slow_down(monkeypatch, seconds)
    found = list(read_together(layout, ids, 2, PIXELS_AT_ONCE))
    assert sorted(image_id for image_id, _ in found) == sorted(ids)
    assert here[0] == ids[-1]
    assert (len(here) < len(ids)) == (seconds > 0)


@pytest.mark.parametrize("seconds", [0.0, 0.2])
def test_images_above_a_share_are_left_to_the_caller(
    tiny_voc: Path, monkeypatch: pytest.MonkeyPatch, seconds: float
) -> None:
    layout = open_layout(tiny_voc)
    ids = layout.ids("train")
    Image.new("RGB", (200, 100)).save(layout.image_path(ids[1]))
    slow_down(monkeypatch, seconds)
    found = read_together(layout, ids, 1, 2 * 100 * 100)
    assert [image_id for image_id, facts in found if facts is None] == [ids[1]]


def test_a_reader_that_ends_early_is_told_with_its_image(
    tiny_voc: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    layout = open_layout(tiny_voc)
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    (tmp_path / "sitecustomize.py").write_text(
        "import os, PIL.PngImagePlugin as png\n"
        "png.PngImageFile.load = lambda self: os.kill(os.getpid(), 9)\n"
    )
    slow_down(monkeypatch, 1.0)
    ids = layout.ids("train")
    with pytest.raises(SegopsError, match=f"^{ids[0]}: the process .* ended with status -9"):
        list(read_together(layout, ids, 1, PIXELS_AT_ONCE))


def test_pixels_are_hashed_where_another_image_may_have_them(tiny_voc: Path) -> None:
    layout = open_layout(tiny_voc)
    train, val = layout.splits()["train"], layout.splits()["val"]
    assert scan(layout)["image_pixels"].isna().all()
    with Image.open(layout.image_path(train[0])) as image:
        layout.image_path(val[0]).unlink()
        image.save(layout.root / f"JPEGImages/{val[0]}.png")
        for image_id, grey in ((train[1], 3), (val[1], 3), (val[2], 4)):
            Image.new("L", image.size, grey).save(layout.image_path(image_id))
    hashes = scan(open_layout(tiny_voc)).set_index("image_id")["image_pixels"]
    assert hashes[train[0]] == hashes[val[0]]
    assert hashes[train[1]] == hashes[val[1]] != hashes[val[2]]
    assert hashes.notna().sum() == 4


def test_missing_and_unreadable_files_give_rows_with_errors(tiny_voc: Path) -> None:
    layout = open_layout(tiny_voc)
    one, two, three, four, *_ = layout.ids("train")
    layout.image_path(one).unlink()
    layout.mask_path(two).write_bytes(b"\x89PNG nothing of the kind")
    content = layout.image_path(three).read_bytes()
    layout.image_path(three).write_bytes(content[:-1])
    layout.mask_path(four).unlink()
    layout.mask_path(four).mkdir()
    facts = scan(layout).set_index("image_id")
    assert len(facts) == 18
    assert facts.loc[one, "image_error"] == MISSING
    assert pd.isna(facts.loc[one, "image_sha256"])
    assert pd.isna(facts.loc[one, "width"])
    assert "not an image file" in facts.loc[two, "mask_error"]
    assert pd.isna(facts.loc[two, "void_fraction"])
    assert "truncated" in facts.loc[three, "image_error"]
    assert "directory" in facts.loc[four, "mask_error"].lower()


def test_every_truncation_of_an_image_or_mask_is_seen(tiny_voc: Path) -> None:
    layout = open_layout(tiny_voc)
    image_id = layout.ids("train")[0]
    (tiny_voc / "ImageSets/Segmentation/train.txt").write_text(f"{image_id}\n")
    for kind, path in (
        ("image", layout.image_path(image_id)),
        ("mask", layout.mask_path(image_id)),
    ):
        content = path.read_bytes()
        # The last four bytes of a PNG are the checksum of a chunk that holds nothing.
        shortest = 1 if kind == "image" else 5
        for cut in [*range(shortest, 40), len(content) // 2, len(content) - 3, len(content)]:
            path.write_bytes(content[:-cut])
            assert scan(layout)[f"{kind}_error"].notna().iloc[0], f"{kind} cut by {cut}"
        path.write_bytes(content)


def test_exif_orientation_is_reported(tiny_voc: Path) -> None:
    layout = open_layout(tiny_voc)
    path = layout.image_path(layout.ids("val")[0])
    exif = Image.Exif()
    exif[0x0112] = 6
    with Image.open(path) as image:
        image.save(path, exif=exif)
    facts = scan(layout)
    assert facts[facts["split"] == "val"]["orientation"].tolist() == [6, 1, 1, 1, 1, 1]


def test_facts_survive_parquet(tiny_voc: Path, tmp_path: Path) -> None:
    layout = open_layout(tiny_voc)
    layout.mask_path(layout.ids("train")[0]).unlink()
    facts = scan(layout)
    for table in (facts, empty_facts()):
        first, second = tmp_path / "first.parquet", tmp_path / "second.parquet"
        write_facts(first, table)
        write_facts(second, table)
        assert first.read_bytes() == second.read_bytes()
        assert pq.read_schema(first).equals(SCHEMA)
        assert pq.read_table(first).equals(
            pa.Table.from_pandas(table, SCHEMA, preserve_index=False)
        )


def test_hashes_hold_under_order_and_change_with_the_data(tiny_voc: Path) -> None:
    layout = open_layout(tiny_voc)
    before = scan(layout)
    train = layout.list_path("train")
    train.write_text("\n".join(reversed(train.read_text().split())) + "\n")
    turned = scan(layout)
    assert turned["image_id"].tolist() != before["image_id"].tolist()
    assert data_hash(turned, NAMES) == data_hash(before, NAMES)
    assert split_hash(turned, "train", NAMES) == split_hash(before, "train", NAMES)

    path = layout.mask_path(layout.ids("val")[0])
    mask = read_mask(path)
    mask[0, 0] = 9 if mask[0, 0] != 9 else 8
    write_mask(path, mask)
    after = scan(layout)
    assert data_hash(after, NAMES) != data_hash(before, NAMES)
    assert split_hash(after, "val", NAMES) != split_hash(before, "val", NAMES)
    assert split_hash(after, "train", NAMES) == split_hash(before, "train", NAMES)


def test_hashes_tell_splits_and_classes_apart(tiny_voc: Path) -> None:
    facts = scan(open_layout(tiny_voc))
    moved = facts.copy()
    moved.loc[0, "split"] = "val"
    hashes = {
        data_hash(facts, NAMES),
        data_hash(moved, NAMES),
        data_hash(facts, NAMES[::-1]),
        split_hash(facts, "train", NAMES),
        split_hash(facts, "val", NAMES),
        data_hash(empty_facts(), NAMES),
    }
    assert len(hashes) == 6
