"""Writes the images to annotate: a table, a page, and a folder for a labelling tool."""

from __future__ import annotations

import csv
import os
from collections.abc import Iterator, Sequence
from pathlib import Path, PurePosixPath
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from segops import files
from segops.cells import cell
from segops.predict.bundle import BundledPredictor
from segops.predict.image_files import decode_files, read_files
from segops.predict.memory import named_shortage
from segops.predict.outputs import LONGEST_STEM
from segops.progress import track
from segops.report.next_page import MOST_SHOWN, next_card, write_next_page
from segops.runtime.bands import false_colour
from segops.runtime.errors import SegopsError
from segops.runtime.masks import encode_mask
from segops.voc.layout import IMAGES, PHOTOGRAPH_SUFFIXES, TRAIN, Layout, is_id

from .unlabelled import Unlabelled

TABLE, PAGE, FOLDER = "next.csv", "next.html", "voc"
LABELS = "labelmap.txt"
"""CVAT's table of classes and colours."""
COLUMNS = ("rank", "image", "id", "uncertainty", "distance")


class NextImage(NamedTuple):
    """An image to annotate.

    Attributes:
        name: Its path below the directory of images.
        path: Its file.
        uncertainty: Mean entropy of the class probabilities, 0..1.
        distance: As of :class:`segops.annotate.core_set.Pick`.
    """

    name: str
    path: Path
    uncertainty: float
    distance: float


def require_place(output: Path, sources: Sequence[Path], overwrite: bool) -> None:
    """Check that `output` can be written: it is free, or an earlier choice to be replaced.

    `sources` are the directories whose images are read.

    Raises:
        SegopsError: It is not; it lies in one of `sources`, where the next choice would find its
            copies; or one of them lies in it and would be lost.
    """
    inside = output.resolve()
    for source in sources:
        place = source.resolve()
        if place in (inside, *inside.parents):
            raise SegopsError(
                f"{output}: lies among the images of {source}. Give another --output."
            )
        if inside in place.parents:
            raise SegopsError(
                f"{source}: lies in {output}, which would be replaced. Give another --output."
            )
    if not output.exists():
        return
    if not output.is_dir() or (any(output.iterdir()) and not (output / TABLE).is_file()):
        raise SegopsError(f"{output}: holds something else. Give a new directory with --output.")
    if not overwrite and any(output.iterdir()):
        raise SegopsError(
            f"{output}: holds an earlier choice. Give another --output, or --overwrite."
        )


def write_next(
    images: Sequence[NextImage],
    unlabelled: Unlabelled,
    predictor: BundledPredictor,
    output: Path,
    *,
    pictures: bool,
    model: str,
) -> None:
    """Write `output`, whole or not at all.

    ``next.csv`` lists the images, ``next.html`` shows the first `MOST_SHOWN` of them, and ``voc/``
    holds the files of the images as they are with the predicted masks, in VOC layout with CVAT's
    ``labelmap.txt``. A mask fits the image as viewers and labelling tools show it, upright by EXIF.

    Args:
        images: The chosen images, the first to annotate first.
        unlabelled: What they were chosen from.
        predictor: The model.
        output: The directory; what it held is replaced.
        pictures: Whether the page shows the images.
        model: What the model is called on the page.

    Raises:
        SegopsError: An image is no longer there, has changed so that it cannot be read, or does not
            fit into memory.
    """
    with files.atomic_directory(output) as place:
        layout = Layout(place / FOLDER)
        ids = list(_ids([image.name for image in images], set(unlabelled.labelled)))
        for name in (IMAGES, *predictor.bands.directories):
            (layout.root / name).mkdir(parents=True)
        layout.mask_path("").parent.mkdir()
        cards = []
        pairs = zip(ids, images, strict=True)
        for rank, (image_id, image) in enumerate(track(pairs, "Drafting", len(ids)), 1):
            shown, mask = _write_draft(layout, image_id, image, predictor)
            if rank <= MOST_SHOWN:
                picture = (shown, mask) if pictures else None
                values = image.name, image.uncertainty, image.distance
                cards.append(next_card(rank, *values, picture, predictor.classes))
        layout.write_list(TRAIN, ids)
        (layout.root / LABELS).write_text(_label_map(predictor), encoding="utf-8")
        _write_table(place / TABLE, ids, images)
        write_next_page(
            place / PAGE, cards, predictor.classes, chosen=len(images), total=unlabelled.total,
            known=unlabelled.known, repeated=unlabelled.repeated, model=model,
        )  # fmt: skip


def _write_draft(
    layout: Layout, image_id: str, image: NextImage, predictor: BundledPredictor
) -> tuple[NDArray[np.uint8], NDArray[np.uint8]]:
    """Write the files of an image and its mask; return the image, (H, W, 3), and its mask."""
    with named_shortage(str(image.path)):
        held = read_files(image.path, predictor.bands)
        pixels = decode_files(held, predictor)
        mask = predictor.predict(pixels).mask
    directories = IMAGES, *predictor.bands.directories
    for directory, (name, content) in zip(directories, held, strict=True):
        suffix = Path(name).suffix
        suffix = PHOTOGRAPH_SUFFIXES.get(suffix.lower(), suffix)
        (layout.root / directory / f"{image_id}{suffix}").write_bytes(content)
    layout.mask_path(image_id).write_bytes(encode_mask(mask, predictor.classes.palette()))
    return false_colour(pixels), mask


def _ids(names: Sequence[str], taken: set[str]) -> Iterator[str]:
    """An id for each name below a directory; none that is taken."""
    for name in names:
        path = PurePosixPath(name)
        own = "_".join(path.with_suffix("").parts)
        usable = is_id(own) and not own.startswith(".") and len(own.encode()) <= LONGEST_STEM
        if own in taken or not usable:
            digest = files.sha256_bytes(os.fsencode(name))[:8]
            own = f"{own}_{digest}" if usable else f"image_{digest}"
        taken.add(own)
        yield own


def _label_map(predictor: BundledPredictor) -> str:
    colours = predictor.classes.palette()
    return "".join(
        f"{name}:{','.join(map(str, colours[index]))}::\n"
        for index, name in enumerate(predictor.class_names)
    )


def _write_table(path: Path, ids: Sequence[str], images: Sequence[NextImage]) -> None:
    with path.open("w", encoding="utf-8", errors="backslashreplace", newline="") as file:
        writer = csv.writer(file, lineterminator="\n")
        writer.writerow(COLUMNS)
        for rank, (image_id, one) in enumerate(zip(ids, images, strict=True), 1):
            texts = cell(one.name, "./"), cell(image_id, "./")
            writer.writerow([rank, *texts, f"{one.uncertainty:.6f}", f"{one.distance:.4f}"])
