"""Download a public segmentation data set and put it into its place in VOC layout."""

from __future__ import annotations

import logging
import shutil
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from segops.files import atomic_directory
from segops.runtime.errors import SegopsError
from segops.voc.archive import unpack
from segops.voc.download import GIB, Archive, download
from segops.voc.layout import IMAGES, LISTS, MASKS, SPLITS, Layout, open_layout
from segops.voc.sbd import SBD_IMAGES, SBD_LISTS, SBD_MASKS, read_ids, trainaug, write_sbd_masks
from segops.words import shown_size

log = logging.getLogger("segops")

# Addresses, digests and directories as torchvision records them; a test compares.
VOC2012 = Archive(  # torchvision.datasets.voc.DATASET_YEAR_DICT["2012"]
    url="https://thor.robots.ox.ac.uk/pascal/VOC/voc2012/VOCtrainval_11-May-2012.tar",
    md5="6cd6e144f989b92b3379bac3b3de84fd",
    base="VOCdevkit/VOC2012",
)
VOC2007 = Archive(  # torchvision.datasets.voc.DATASET_YEAR_DICT["2007"]
    url="https://thor.robots.ox.ac.uk/pascal/VOC/voc2007/VOCtrainval_06-Nov-2007.tar",
    md5="c52e279531787c972589f7e41ab4ae64",
    base="VOCdevkit/VOC2007",
    limit=GIB // 2,
)
SBD = Archive(  # torchvision.datasets.sbd.SBDataset: url, md5, and the directory that it unpacks
    url="https://www2.eecs.berkeley.edu/Research/Projects/CS/vision/grouping/"
    "semantic_contours/benchmark.tgz",
    md5="82b4d87ceb2ed10f6038a1cba92111cb",
    base="benchmark_RELEASE/dataset",
)


@dataclass(frozen=True)
class Published:
    """A data set that can be fetched.

    Attributes:
        voc: The archive with the images, VOC's masks and lists.
        sbd: The archive with SBD's masks, if train is trainaug.
        train_images: Number of images in train; None: as many as the list names.
    """

    voc: Archive
    sbd: Archive | None = None
    train_images: int | None = None


DATASETS = {
    "voc2012": Published(VOC2012),
    "voc2007": Published(VOC2007),
    "sbd": Published(VOC2012, SBD, train_images=10_582),
}
"""`sbd` is VOC 2012 with the 10,582 training images of trainaug."""


def fetch(dataset: Published, target: Path, downloads: Path, mirror: str | None = None) -> Layout:
    """Download a public data set and put its segmentation part at `target`.

    Args:
        dataset: The data set, such as those of :data:`DATASETS`.
        target: Directory that then holds ``JPEGImages/``, ``SegmentationClass/`` and
            ``ImageSets/Segmentation/{train,val}.txt`` and nothing else. They replace the directory
            there once they are whole.
        downloads: Directory for the archives; they stay there and are not downloaded twice.
        mirror: Address of a directory that holds the same archives.

    Raises:
        SegopsError: The download fails, a checksum is wrong, an archive is hostile or incomplete,
            or the trainaug list has another length.
    """
    archives = [one for one in (dataset.voc, dataset.sbd) if one is not None]
    paths = {one: download(one, downloads, mirror) for one in archives}
    with atomic_directory(target) as temporary:
        scratch = temporary / "unpacked"
        scratch.mkdir()
        _arrange(dataset, paths, scratch, temporary)
        shutil.rmtree(scratch)
        open_layout(temporary)
    log.info(
        "%s: in place. The archives stay in %s for the next time; delete them to free %s.",
        target,
        downloads,
        shown_size(sum(path.stat().st_size for path in paths.values())),
    )
    return open_layout(target)


def _arrange(dataset: Published, paths: dict[Archive, Path], scratch: Path, into: Path) -> None:
    """Unpack the needed files below `scratch` and move them to their places in `into`."""
    base = dataset.voc.base
    _take(dataset.voc, paths, scratch, {f"{base}/{LISTS}/{split}.txt" for split in SPLITS})
    ids = Layout(scratch / base).splits()
    masks = {*ids["train"], *ids["val"]}
    added: list[str] = []
    if dataset.sbd is not None:
        candidates = _take_sbd(dataset.sbd, paths, scratch)
        ids["train"] = trainaug(ids["train"], ids["val"], candidates)
        added = sorted(set(ids["train"]) - masks)
    if dataset.train_images not in (None, len(ids["train"])):
        raise SegopsError(
            f"train would hold {len(ids['train'])} images, expected {dataset.train_images}: the "
            f"lists in {', '.join(str(path) for path in paths.values())} are not the published "
            "ones. Delete the archives and have them downloaded anew from the official addresses."
        )
    needed = {f"{base}/{MASKS}/{one}.png" for one in masks}
    needed |= {f"{base}/{IMAGES}/{one}.jpg" for one in masks}
    # SBD was drawn on VOC2011: an image that VOC2012 might lack is taken from SBD's own copies.
    _take(dataset.voc, paths, scratch, needed, {f"{base}/{IMAGES}/{one}.jpg" for one in added})
    for part in (IMAGES, MASKS):
        (scratch / base / part).rename(into / part)
    if dataset.sbd is not None:
        source = f"{dataset.sbd.base}/{SBD_IMAGES}"
        absent = [one for one in added if not (into / IMAGES / f"{one}.jpg").exists()]
        if absent:
            _take(dataset.sbd, paths, scratch, {f"{source}/{one}.jpg" for one in absent})
        for one in absent:
            (scratch / source / f"{one}.jpg").rename(into / IMAGES / f"{one}.jpg")
        write_sbd_masks(scratch / dataset.sbd.base / SBD_MASKS, added, into / MASKS)
    for split in SPLITS:
        Layout(into).write_list(split, ids[split])


def _take(
    archive: Archive,
    paths: dict[Archive, Path],
    into: Path,
    needed: set[str],
    welcome: Iterable[str] = (),
) -> None:
    """Unpack the files `needed`, all of which must be there, and those `welcome`."""
    wanted = needed.union(welcome)
    found = unpack(paths[archive], into, wanted.__contains__, archive.unpacked_limit)
    _refuse_missing(paths[archive], needed - found)


def _take_sbd(archive: Archive, paths: dict[Archive, Path], into: Path) -> tuple[str, ...]:
    """Unpack SBD's masks and lists; return the ids of its train and val."""
    lists = {f"{archive.base}/{name}" for name in SBD_LISTS}
    masks = f"{archive.base}/{SBD_MASKS}/"
    # One pass over a large compressed file: the lists may come after the masks that they name.
    found = unpack(
        paths[archive],
        into,
        lambda path: path in lists or (path.startswith(masks) and path.endswith(".mat")),
        archive.unpacked_limit,
    )
    _refuse_missing(paths[archive], lists - found)
    ids = tuple(one for path in sorted(lists) for one in read_ids(into / path))
    _refuse_missing(paths[archive], {f"{masks}{one}.mat" for one in ids} - found)
    return ids


def _refuse_missing(archive: Path, missing: set[str]) -> None:
    if missing:
        first = f"{archive}: {len(missing)} file(s) missing in the archive:"
        last = "Delete the archive and have it downloaded anew."
        raise SegopsError("\n  ".join([first, *sorted(missing)]) + f"\n{last}")
