"""Public data sets from small archives of the same structure, served on the loopback device."""

from __future__ import annotations

import hashlib
import io
import re
import tarfile
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from segops.runtime.errors import SegopsError
from segops.runtime.masks import encode_mask, read_mask
from segops.voc.download import Archive
from segops.voc.fetch import DATASETS, SBD, VOC2007, VOC2012, Published, fetch
from segops.voc.layout import Layout
from tests.support.loopback import Server, serve
from tests.unit.voc.test_sbd import matlab

VOC = "VOCdevkit/VOC2012"
BENCHMARK = "benchmark_RELEASE/dataset"
TRAIN, VAL = ("2007_000001", "2007_000002"), ("2007_000003",)
# SBD was drawn on images of VOC's train, of its val, and of neither.
SBD_TRAIN = ("2007_000001", "2008_000001", "2008_000002")
SBD_VAL = ("2007_000003", "2008_000003")
ALL = (*TRAIN, *VAL, "2008_000001", "2008_000002", "2008_000003")


def photograph(image_id: str, of: str = "voc") -> bytes:
    seed = int.from_bytes(hashlib.sha256(f"{of} {image_id}".encode()).digest()[:4])
    pixels = np.random.default_rng(seed).integers(0, 255, (6, 8, 3), dtype=np.uint8)
    content = io.BytesIO()
    Image.fromarray(pixels).save(content, "JPEG")
    return content.getvalue()


def voc_mask(image_id: str) -> bytes:
    return encode_mask(np.full((6, 8), 1 + int(image_id[-1]), np.uint8))


def sbd_mask(image_id: str) -> bytes:
    return matlab(np.full((6, 8), 11 + int(image_id[-1]), np.uint8))


def pack(files: dict[str, bytes], mode: str) -> bytes:
    content = io.BytesIO()
    with tarfile.open(fileobj=content, mode=mode) as tar:  # type: ignore[call-overload]
        for name, body in files.items():
            member = tarfile.TarInfo(name)
            member.size = len(body)
            tar.addfile(member, io.BytesIO(body))
    return content.getvalue()


def voc_files() -> dict[str, bytes]:
    lists = {"train": TRAIN, "val": VAL, "trainval": (*TRAIN, *VAL)}
    return {
        **{f"{VOC}/Annotations/{one}.xml": b"<annotation/>" for one in ALL},
        **{
            f"{VOC}/ImageSets/Segmentation/{split}.txt": "".join(f"{i}\n" for i in ids).encode()
            for split, ids in lists.items()
        },
        f"{VOC}/ImageSets/Main/cat_train.txt": b"2007_000001 -1\n",
        **{f"{VOC}/JPEGImages/{one}.jpg": photograph(one) for one in (*ALL, "2011_009999")},
        **{f"{VOC}/SegmentationClass/{one}.png": voc_mask(one) for one in (*TRAIN, *VAL)},
        **{f"{VOC}/SegmentationObject/{one}.png": b"objects" for one in (*TRAIN, *VAL)},
    }


def sbd_files() -> dict[str, bytes]:
    return {
        **{f"{BENCHMARK}/cls/{one}.mat": sbd_mask(one) for one in (*SBD_TRAIN, *SBD_VAL)},
        **{f"{BENCHMARK}/img/{one}.jpg": photograph(one, "sbd") for one in (*SBD_TRAIN, *SBD_VAL)},
        **{f"{BENCHMARK}/inst/{one}.mat": b"instances" for one in (*SBD_TRAIN, *SBD_VAL)},
        f"{BENCHMARK}/train.txt": "\n".join(SBD_TRAIN).encode(),
        f"{BENCHMARK}/val.txt": "\n".join(SBD_VAL).encode(),
    }


@pytest.fixture
def server() -> Iterator[Server]:
    with serve() as state:
        yield state


def publish(server: Server, files: dict[str, bytes], path: str, base: str) -> Archive:
    content = pack(files, "w:gz" if path.endswith(".tgz") else "w")
    server.files[path] = content
    return Archive(f"{server.address}{path}", hashlib.md5(content).hexdigest(), base)


def voc(server: Server, files: dict[str, bytes] | None = None) -> Archive:
    return publish(server, files or voc_files(), "/voc2012/trainval.tar", VOC)


def sbd(server: Server, files: dict[str, bytes] | None = None) -> Archive:
    return publish(server, files or sbd_files(), "/contours/benchmark.tgz", BENCHMARK)


def names(root: Path) -> set[str]:
    return {path.relative_to(root).as_posix() for path in root.rglob("*") if path.is_file()}


def expected(ids: tuple[str, ...]) -> set[str]:
    lists = {f"ImageSets/Segmentation/{split}.txt" for split in ("train", "val")}
    images = {f"JPEGImages/{one}.jpg" for one in ids}
    return lists | images | {f"SegmentationClass/{one}.png" for one in ids}


def test_addresses_and_digests_are_those_that_torchvision_records() -> None:
    from torchvision.datasets.sbd import SBDataset
    from torchvision.datasets.voc import DATASET_YEAR_DICT

    for archive, year in ((VOC2012, "2012"), (VOC2007, "2007")):
        recorded = DATASET_YEAR_DICT[year]
        assert archive.url == recorded["url"]
        assert archive.md5 == recorded["md5"]
        assert archive.filename == recorded["filename"]
        assert archive.base == Path(recorded["base_dir"]).as_posix()
    assert (SBDataset.url, SBDataset.md5, SBDataset.filename) == (SBD.url, SBD.md5, SBD.filename)
    assert DATASETS["sbd"] == Published(VOC2012, SBD, 10_582)
    assert DATASETS["voc2012"] == Published(VOC2012)
    assert DATASETS["voc2007"] == Published(VOC2007)


def test_fetch_by_name_checks_the_published_digest(server: Server, tmp_path: Path) -> None:
    server.files[f"/mirror/{VOC2007.filename}"] = pack(voc_files(), "w")
    mirror, dataset = f"{server.address}/mirror", DATASETS["voc2007"]
    with pytest.raises(SegopsError, match=f"wrong checksum: expected MD5 {VOC2007.md5}, found"):
        fetch(dataset, tmp_path / "voc", tmp_path / "downloads", mirror)
    assert [one.path for one in server.requests] == [f"/mirror/{VOC2007.filename}"]
    assert not (tmp_path / "voc").exists()


def test_voc_keeps_only_what_segmentation_needs(server: Server, tmp_path: Path) -> None:
    target = tmp_path / "data" / "voc"
    layout = fetch(Published(voc(server)), target, tmp_path / "downloads")
    assert layout == Layout(target)
    assert layout.splits() == {"train": TRAIN, "val": VAL}
    assert names(target) == expected((*TRAIN, *VAL))
    for one in (*TRAIN, *VAL):
        assert layout.image_path(one).read_bytes() == photograph(one)
        assert layout.mask_path(one).read_bytes() == voc_mask(one)
    assert {path.name for path in target.parent.iterdir()} == {"voc"}


def test_a_second_fetch_downloads_nothing_and_ends_the_same(server: Server, tmp_path: Path) -> None:
    dataset = Published(voc(server))
    for _ in range(2):
        fetch(dataset, tmp_path / "voc", tmp_path / "downloads")
    assert len(server.requests) == 1
    assert names(tmp_path / "voc") == expected((*TRAIN, *VAL))


def test_what_was_there_is_replaced_only_by_whole_data(server: Server, tmp_path: Path) -> None:
    target = tmp_path / "voc"
    target.mkdir()
    (target / "old.txt").write_text("old")
    good = voc(server)
    files = voc_files()
    del files[f"{VOC}/JPEGImages/{TRAIN[1]}.jpg"], files[f"{VOC}/SegmentationClass/{VAL[0]}.png"]
    bad = publish(server, files, "/other/incomplete.tar", VOC)
    with pytest.raises(SegopsError) as error:
        fetch(Published(bad), target, tmp_path / "downloads")
    assert "incomplete.tar: 2 file(s) missing in the archive" in str(error.value)
    assert f"JPEGImages/{TRAIN[1]}.jpg" in str(error.value)
    assert f"SegmentationClass/{VAL[0]}.png" in str(error.value)
    assert names(target) == {"old.txt"}
    assert {path.name for path in tmp_path.iterdir()} == {"voc", "downloads"}
    fetch(Published(good), target, tmp_path / "downloads")
    assert names(target) == expected((*TRAIN, *VAL))


def test_a_hostile_archive_puts_nothing_in_place(server: Server, tmp_path: Path) -> None:
    hostile = voc(server, {**voc_files(), "../../escaped": b"evil"})
    with pytest.raises(SegopsError, match=r"refused at member '\.\./\.\./escaped'"):
        fetch(Published(hostile), tmp_path / "data" / "voc", tmp_path / "downloads")
    assert names(tmp_path / "data") == set()
    assert not list(tmp_path.rglob("escaped"))


def test_an_archive_that_unpacks_to_too_much_is_refused(server: Server, tmp_path: Path) -> None:
    bomb = replace(voc(server), unpacked_limit=1000)
    with pytest.raises(SegopsError, match="unpacks to more than 1000 bytes"):
        fetch(Published(bomb), tmp_path / "voc", tmp_path / "downloads")
    assert not (tmp_path / "voc").exists()


@pytest.mark.parametrize("lost", ["train", "val"])
def test_an_archive_without_a_list_is_refused(server: Server, tmp_path: Path, lost: str) -> None:
    files = voc_files()
    del files[f"{VOC}/ImageSets/Segmentation/{lost}.txt"]
    with pytest.raises(SegopsError, match=f"missing in the archive:\n.*{lost}.txt"):
        fetch(Published(voc(server, files)), tmp_path / "voc", tmp_path / "downloads")


def test_an_archive_with_an_empty_list_is_refused(server: Server, tmp_path: Path) -> None:
    files = {**voc_files(), f"{VOC}/ImageSets/Segmentation/val.txt": b"\n"}
    with pytest.raises(SegopsError, match=r"val\.txt: names no image"):
        fetch(Published(voc(server, files)), tmp_path / "voc", tmp_path / "downloads")


def test_an_id_that_climbs_out_is_refused(server: Server, tmp_path: Path) -> None:
    files = {**voc_files(), f"{VOC}/ImageSets/Segmentation/val.txt": b"../../evil\n"}
    with pytest.raises(SegopsError, match=r"'\.\./\.\./evil' is no image id"):
        fetch(Published(voc(server, files)), tmp_path / "voc", tmp_path / "downloads")


def test_sbd_joins_both_lists_and_leaves_val_out(server: Server, tmp_path: Path) -> None:
    dataset = Published(voc(server), sbd(server), train_images=5)
    layout = fetch(dataset, tmp_path / "voc", tmp_path / "downloads")
    added = ("2008_000001", "2008_000002", "2008_000003")
    assert layout.splits() == {"train": (*TRAIN, *added), "val": VAL}
    assert names(tmp_path / "voc") == expected(ALL)
    for one in (*TRAIN, *VAL):  # VOC's own masks, also where SBD has one.
        assert layout.mask_path(one).read_bytes() == voc_mask(one)
    for one in added:
        mask = read_mask(layout.mask_path(one))
        assert mask.shape == (6, 8)
        assert set(np.unique(mask)) == {11 + int(one[-1])}
        assert Image.open(layout.mask_path(one)).mode == "P"
    for one in ALL:
        assert layout.image_path(one).read_bytes() == photograph(one)
    assert {one.path for one in server.requests} == {
        "/voc2012/trainval.tar",
        "/contours/benchmark.tgz",
    }


def test_sbd_takes_its_own_image_where_voc_has_none(server: Server, tmp_path: Path) -> None:
    files = voc_files()
    del files[f"{VOC}/JPEGImages/2008_000002.jpg"]
    dataset = Published(voc(server, files), sbd(server), train_images=5)
    layout = fetch(dataset, tmp_path / "voc", tmp_path / "downloads")
    assert layout.image_path("2008_000002").read_bytes() == photograph("2008_000002", "sbd")
    assert layout.image_path("2008_000001").read_bytes() == photograph("2008_000001")
    assert names(tmp_path / "voc") == expected(ALL)


def test_sbd_with_another_count_is_refused(server: Server, tmp_path: Path) -> None:
    dataset = replace(DATASETS["sbd"], voc=voc(server), sbd=sbd(server))
    with pytest.raises(SegopsError, match="train would hold 5 images, expected 10582"):
        fetch(dataset, tmp_path / "voc", tmp_path / "downloads")
    assert not (tmp_path / "voc").exists()


def test_sbd_with_missing_and_broken_masks_lists_all(server: Server, tmp_path: Path) -> None:
    files = sbd_files()
    del files[f"{BENCHMARK}/cls/2008_000001.mat"], files[f"{BENCHMARK}/cls/2008_000003.mat"]
    dataset = Published(voc(server), sbd(server, files))
    with pytest.raises(SegopsError, match=r"(?s)2 file\(s\) missing.*2008_000001.*2008_000003"):
        fetch(dataset, tmp_path / "voc", tmp_path / "downloads")
    broken = {f"{BENCHMARK}/cls/2008_00000{number}.mat": b"broken" for number in (1, 3)}
    dataset = Published(
        voc(server), publish(server, {**sbd_files(), **broken}, "/b.tgz", BENCHMARK)
    )
    with pytest.raises(SegopsError, match=r"(?s)2 unreadable.*2008_000001.*2008_000003"):
        fetch(dataset, tmp_path / "voc", tmp_path / "downloads")
    assert not (tmp_path / "voc").exists()


def test_both_archives_come_from_the_mirror(server: Server, tmp_path: Path) -> None:
    archives = [voc(server), sbd(server)]
    for archive in archives:
        path = archive.url.removeprefix(server.address)
        server.files[f"/mirror/{archive.filename}"] = server.files.pop(path)
    official = [
        replace(one, url=re.sub(r"^http://[^/]+", "https://x.invalid", one.url)) for one in archives
    ]
    dataset = Published(official[0], official[1], train_images=5)
    fetch(dataset, tmp_path / "voc", tmp_path / "downloads", f"{server.address}/mirror/")
    assert names(tmp_path / "voc") == expected(ALL)


def test_a_broken_fetch_goes_on_where_it_stopped(server: Server, tmp_path: Path) -> None:
    archive = voc(server)
    whole = len(server.files["/voc2012/trainval.tar"])
    server.cuts = [10_000]
    fetch(Published(archive), tmp_path / "voc", tmp_path / "downloads")
    assert [one.range for one in server.requests] == [None, "bytes=10000-"]
    assert sum(one.sent for one in server.requests) == whole
    assert names(tmp_path / "voc") == expected((*TRAIN, *VAL))
