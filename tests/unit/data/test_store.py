"""The packed store: what went in comes out, the same data give the same bytes, whole or not."""

from __future__ import annotations

import errno
import pickle
import signal
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from PIL import Image

from segops.data import packing
from segops.data.packing import pack
from segops.data.store import PackedStore
from segops.files import read_json, sha256_tree, write_json
from segops.params.data import DataParams
from segops.params.file import load_params
from segops.paths import PACKED, VERDICT
from segops.quality.facts import data_hash, scan, split_hash
from segops.runtime.classes import VOC_CLASSES
from segops.runtime.errors import SegopsError
from segops.runtime.images import read_image
from segops.runtime.masks import encode_mask, read_mask
from segops.stages import prepare
from segops.threads import pipelined
from segops.voc.hashes import pixel_hash
from segops.voc.layout import IMAGES, LISTS, MASKS, Layout, open_layout

Pixels = NDArray[np.uint8]
Pair = tuple[Pixels, Pixels]


def write(root: Path, train: dict[str, Pair], val: dict[str, Pair]) -> Layout:
    """A data set in VOC layout."""
    for name in (IMAGES, MASKS, LISTS):
        (root / name).mkdir(parents=True, exist_ok=True)
    layout = Layout(root)
    for split, pairs in (("train", train), ("val", val)):
        layout.list_path(split).write_text("".join(f"{one}\n" for one in pairs))
        for image_id, (image, mask) in pairs.items():
            Image.fromarray(image).save(layout.image_path(image_id), quality=95)
            layout.mask_path(image_id).write_bytes(encode_mask(mask))
    return layout


def pair(seed: int, height: int = 5, width: int = 7) -> Pair:
    rng = np.random.default_rng(seed)
    return (
        rng.integers(0, 256, (height, width, 3), dtype=np.uint8),
        rng.integers(0, 256, (height, width), dtype=np.uint8),
    )


@pytest.fixture
def small(tmp_path: Path) -> Layout:
    train = {f"t{index}": pair(index) for index in range(6)}
    return write(tmp_path / "voc", train, {f"v{index}": pair(90 + index) for index in range(3)})


def test_packing_bounds_the_pixels_that_its_threads_decode_at_a_time(
    small: Layout, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    given: list[tuple[int, int]] = []

    def observed(items: Any, *others: Any, size: Any, limit: int) -> Iterator[Any]:
        places = list(items)
        given.extend((size(place), limit) for place in places)
        return pipelined(places, *others, size=size, limit=limit)

    monkeypatch.setattr(packing, "pipelined", observed)
    monkeypatch.setattr(packing, "PIXELS_AT_ONCE", 40)
    pack(small, tmp_path / "packed", VOC_CLASSES, workers=8)
    assert given == [(5 * 7, 40)] * 9


sizes = st.lists(st.tuples(st.integers(1, 40), st.integers(1, 40)), min_size=1, max_size=6)


@settings(max_examples=40, deadline=None)
@given(train=sizes, val=sizes, workers=st.integers(0, 3), seed=st.integers(0, 1000))
def test_every_pixel_comes_out_as_it_went_in(
    tmp_path_factory: pytest.TempPathFactory,
    train: list[tuple[int, int]],
    val: list[tuple[int, int]],
    workers: int,
    seed: int,
) -> None:
    root = tmp_path_factory.mktemp("packing")
    splits = {
        name: {f"{name}_{i}": pair(seed + 10 * i, *size) for i, size in enumerate(given_sizes)}
        for name, given_sizes in (("train", train), ("val", val))
    }
    layout = write(root / "voc", splits["train"], splits["val"])
    pack(layout, root / "packed", VOC_CLASSES, workers=workers)
    store = PackedStore(root / "packed")
    for split, pairs in splits.items():
        assert store.ids(split) == tuple(sorted(pairs))
        for image_id, (_, mask) in pairs.items():
            with Image.open(layout.image_path(image_id)) as image:
                assert np.array_equal(store.image(image_id), np.asarray(image))
            assert np.array_equal(store.mask(image_id), mask)
            assert store.size(image_id) == mask.shape


def test_real_files_are_packed_as_they_decode(tiny_voc: Path, tmp_path: Path) -> None:
    layout = open_layout(tiny_voc)
    pack(layout, tmp_path / "packed", VOC_CLASSES, workers=2)
    store = PackedStore(tmp_path / "packed")
    for split in ("train", "val"):
        for image_id in layout.ids(split):
            image = read_image(layout.image_path(image_id))
            assert np.array_equal(store.image(image_id), image)
            height, width, _ = image.shape
            assert store.pixel_sha256(image_id) == pixel_hash([image], width, height)
            assert np.array_equal(store.mask(image_id), read_mask(layout.mask_path(image_id)))


def test_hashes_are_those_of_validation(tiny_voc: Path, tmp_path: Path) -> None:
    layout = open_layout(tiny_voc)
    facts = scan(layout, 1)
    pack(layout, tmp_path / "packed", VOC_CLASSES)
    store = PackedStore(tmp_path / "packed")
    assert store.data_hash == data_hash(facts, VOC_CLASSES)
    assert store.split_hash("train") == split_hash(facts, "train", VOC_CLASSES)
    assert store.split_hash("val") == split_hash(facts, "val", VOC_CLASSES)
    assert store.class_names == VOC_CLASSES
    for row in facts.itertuples():
        assert store.image_sha256(row.image_id) == row.image_sha256
        image = store.image(row.image_id)
        assert store.pixel_sha256(row.image_id) == pixel_hash([image], row.width, row.height)


def test_a_store_without_the_hashes_of_pixels_can_be_read(small: Layout, tmp_path: Path) -> None:
    pack(small, tmp_path / "packed", VOC_CLASSES)
    index = tmp_path / "packed/train/index.json"
    content = read_json(index)
    for entry in content["images"].values():
        assert entry.pop("pixel_sha256")
    write_json(index, content)
    store = PackedStore(tmp_path / "packed")
    ids = store.ids("train")
    assert store.pixel_sha256(ids[0]) is None
    assert list(store.pixel_hashes(ids + store.ids("val"))) == list(store.ids("val"))


def test_the_same_data_give_the_same_bytes(
    small: Layout, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pack(small, tmp_path / "one", VOC_CLASSES, workers=1)
    monkeypatch.setattr(packing, "FLUSH", 1)  # after each image
    listed = small.list_path("train")
    listed.write_text("\n".join(reversed(listed.read_text().split())))
    pack(small, tmp_path / "two", VOC_CLASSES, workers=3)
    assert sha256_tree(tmp_path / "one") == sha256_tree(tmp_path / "two")


def test_views_are_read_only_and_a_store_can_be_pickled(small: Layout, tmp_path: Path) -> None:
    pack(small, tmp_path / "packed", VOC_CLASSES)
    store = PackedStore(tmp_path / "packed")
    with pytest.raises(ValueError, match="read-only"):
        store.image("t0")[0, 0, 0] = 1
    with pytest.raises(ValueError, match="read-only"):
        store.mask("t0")[0, 0] = 1
    content = pickle.dumps(store)
    assert len(content) < 1000
    assert np.array_equal(pickle.loads(content).image("t3"), store.image("t3"))
    with pytest.raises(KeyError):
        store.image("unknown")


def test_other_data_than_was_validated_are_refused(small: Layout, tmp_path: Path) -> None:
    pack(small, tmp_path / "packed", VOC_CLASSES)
    before = sha256_tree(tmp_path / "packed")
    expected = PackedStore(tmp_path / "packed").data_hash
    pack(small, tmp_path / "packed", VOC_CLASSES, expected_hash=expected)
    small.mask_path("t2").write_bytes(encode_mask(pair(77)[1]))
    with pytest.raises(SegopsError, match="not the data that was validated"):
        pack(small, tmp_path / "packed", VOC_CLASSES, expected_hash=expected)
    assert sha256_tree(tmp_path / "packed") == before
    assert {path.name for path in tmp_path.iterdir()} == {"voc", "packed"}


def test_all_bad_files_are_listed(small: Layout, tmp_path: Path) -> None:
    small.image_path("t1").unlink()
    small.image_path("t3").write_bytes(b"no image")
    small.mask_path("v0").write_bytes(encode_mask(pair(1, 4, 4)[1]))
    small.list_path("val").write_text("v0\nv1\nt5\n")
    with pytest.raises(SegopsError) as caught:
        pack(small, tmp_path / "packed", VOC_CLASSES, workers=2)
    message = str(caught.value)
    assert "4 image(s) unusable" in message
    for words in ("t1.jpg: no such file", "t3.jpg: not decodable", "t5: in two splits"):
        assert words in message
    assert "v0: image of 7 x 5 pixels, mask of 4 x 4" in message
    assert not (tmp_path / "packed").exists()


KILLED = """
import os, signal, sys
from pathlib import Path
from segops.data import packing
from segops.voc.layout import open_layout
packing.write_json = lambda *_: os.kill(os.getpid(), signal.SIGKILL)
packing.pack(open_layout(Path(sys.argv[1])), Path(sys.argv[2]), ("background", "aeroplane"))
"""


def test_a_killed_packing_leaves_the_old_store_and_the_next_cleans_up(
    small: Layout, tmp_path: Path
) -> None:
    target = tmp_path / "packed"
    pack(small, target, VOC_CLASSES)
    before = sha256_tree(target)
    command = [sys.executable, "-c", KILLED, str(small.root), str(target)]
    assert subprocess.run(command, check=False).returncode == -signal.SIGKILL
    assert sha256_tree(target) == before
    leftovers = [path for path in tmp_path.iterdir() if path.name.startswith(".packed.")]
    assert len(leftovers) == 1
    assert (leftovers[0] / "train" / "images.bin").is_file()
    pack(small, target, VOC_CLASSES)
    assert {path.name for path in tmp_path.iterdir()} == {"voc", "packed"}


def test_a_full_disk_is_told_and_leaves_nothing(
    small: Layout, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*_: Any) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(packing, "write_json", full)
    with pytest.raises(SegopsError, match="the disk is full"):
        pack(small, tmp_path / "packed", VOC_CLASSES)
    assert {path.name for path in tmp_path.iterdir()} == {"voc"}


@pytest.mark.parametrize("name", ["train/images.bin", "val/masks.bin"])
def test_a_store_that_is_not_whole_is_refused(small: Layout, tmp_path: Path, name: str) -> None:
    pack(small, tmp_path / "packed", VOC_CLASSES)
    path = tmp_path / "packed" / name
    content = path.read_bytes()
    path.write_bytes(content[:-1])
    with pytest.raises(SegopsError, match=f"{name}: {len(content) - 1} bytes long"):
        PackedStore(tmp_path / "packed").ids(name.partition("/")[0])
    path.unlink()
    with pytest.raises(SegopsError, match=f"{name}: missing"):
        PackedStore(tmp_path / "packed").ids(name.partition("/")[0])


def test_what_is_no_store_is_refused(tmp_path: Path) -> None:
    with pytest.raises(SegopsError, match=r"index\.json: no such file"):
        PackedStore(tmp_path)
    write_json(tmp_path / "train" / "index.json", {"format": 99})
    with pytest.raises(SegopsError, match="expected a packed store of format 1"):
        PackedStore(tmp_path)


@pytest.fixture
def workspace(small: Layout, tmp_path: Path) -> Path:
    (tmp_path / "params.yaml").write_text("data: {path: voc}\n")
    facts = scan(small, 1)
    verdict = {
        "passed": True,
        "data_hash": data_hash(facts, VOC_CLASSES),
        "classes": list(VOC_CLASSES),
    }
    write_json(tmp_path / VERDICT, verdict)
    return tmp_path


def test_prepare_packs_what_was_validated(workspace: Path, small: Layout) -> None:
    prepare.run(workspace)
    store = PackedStore(workspace / PACKED)
    assert store.ids("train") == tuple(f"t{index}" for index in range(6))
    small.image_path("t0").write_bytes(small.image_path("t1").read_bytes())
    with pytest.raises(SegopsError, match="not the data that was validated"):
        prepare.run(workspace)


def test_metadata_lie_beside_what_is_scored_and_change_nothing_that_trains(
    workspace: Path, small: Layout
) -> None:
    prepare.run(workspace)
    without = sha256_tree(workspace / PACKED / "train")
    assert PackedStore(workspace / PACKED).metadata("val") is None
    (workspace / "params.yaml").write_text("data: {path: voc, metadata: m.csv}\n")
    ids = [one for split in small.splits().values() for one in split]
    hashes = []
    for site in ("north", "south"):
        rows = [f"{one},{site}" for one in reversed(ids)]
        (small.root / "m.csv").write_text("\n".join(["image_id,site", *rows]))
        prepare.run(workspace)
        store = PackedStore(workspace / PACKED)
        known = store.metadata("val")
        assert known is not None
        assert known.values == dict.fromkeys(store.ids("val"), (site,))
        assert store.metadata("train") is None
        assert sha256_tree(workspace / PACKED / "train") == without
        hashes.append(sha256_tree(workspace / PACKED / "val"))
    assert hashes[0] != hashes[1]  # so that evaluate, which depends on it, runs again
    (small.root / "m.csv").unlink()
    with pytest.raises(SegopsError, match=r"not usable as data\.metadata"):
        prepare.run(workspace)


@pytest.mark.parametrize("passed", [False, None, "yes", 1])
def test_prepare_refuses_data_that_did_not_pass(workspace: Path, passed: Any) -> None:
    write_json(workspace / VERDICT, {"passed": passed, "classes": list(VOC_CLASSES)})
    with pytest.raises(SegopsError, match="did not pass validation"):
        prepare.run(workspace)


def test_prepare_refuses_a_verdict_on_other_classes(workspace: Path) -> None:
    (workspace / "params.yaml").write_text("data: {path: voc, classes: [background, leaf]}\n")
    assert load_params(workspace).data.class_names == ("background", "leaf")
    with pytest.raises(SegopsError, match=r"other classes than data\.classes"):
        prepare.run(workspace)
    (workspace / VERDICT).unlink()
    with pytest.raises(SegopsError, match=r"verdict\.json: no such file"):
        prepare.run(workspace)


def test_a_store_that_was_read_otherwise_is_refused(small: Layout, tmp_path: Path) -> None:
    def data(**values: Any) -> DataParams:
        return DataParams.model_validate({"classes": ["a", "b"], **values})

    made = {}
    for bits in (None, 10, 16):
        reading = data(bit_depth=bits).reading
        pack(replace(small, reading=reading), tmp_path / f"{bits}", ["a", "b"])
        made[bits] = PackedStore(tmp_path / f"{bits}")
        made[bits].require_params(data(bit_depth=bits))
    assert len({store.data_hash for store in made.values()}) == 3
    assert len({store.split_hash("val") for store in made.values()}) == 3
    facts = scan(small)
    for bits, store in made.items():
        assert data_hash(facts, ["a", "b"], data(bit_depth=bits).reading) == store.data_hash
    for other in (
        data(classes=["a", "c"]),
        data(classes=["a", {"name": "b", "ids": [1, 2]}]),
        data(ignore=[7]),
        data(bit_depth=12),
        data(bands=["Depth"]),
    ):
        with pytest.raises(SegopsError, match=r"packed with other data\.classes"):
            made[None].require_params(other)
