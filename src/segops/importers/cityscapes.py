"""Reads Cityscapes: ``leftImg8bit/SPLIT/CITY`` and ``gtFine/SPLIT/CITY/*_gtFine_labelIds.png``.

Source: the table of labels in cityscapesScripts (Cordts et al., "The Cityscapes Dataset", CVPR
2016). The 19 classes of its benchmark are classes; other labels are void, as the benchmark counts
them.
"""

from __future__ import annotations

from functools import partial
from pathlib import Path

import numpy as np

from segops.importers.files import files_below, place, unnamed
from segops.importers.source import VOID_NAME, Drawn, Source, SourceImage, load_labels, noted
from segops.importers.splits import SPELLINGS
from segops.progress import track
from segops.runtime.errors import SegopsError
from segops.runtime.images import MASK_FORMATS, read_content
from segops.runtime.masks import ids_of, read_mask
from segops.voc.layout import TEST
from segops.words import counted

CLASSES = {
    7: "road",
    8: "sidewalk",
    11: "building",
    12: "wall",
    13: "fence",
    17: "pole",
    19: "traffic light",
    20: "traffic sign",
    21: "vegetation",
    22: "terrain",
    23: "sky",
    24: "person",
    25: "rider",
    26: "car",
    27: "truck",
    28: "bus",
    31: "train",
    32: "motorcycle",
    33: "bicycle",
}
"""Label id -> name of the classes that the benchmark scores."""
LAST = 33
IDS = "_labelIds.png"
IMAGE = "_leftImg8bit.png"


def read(path: Path, images: str | None = None) -> Source:
    """Read all images that have label ids, fine before coarse; of test those with a class alone.

    Args:
        path: The directory that holds ``gtFine`` or ``gtCoarse``, and ``leftImg8bit``.
        images: Directory of the photographs; None: ``leftImg8bit`` in `path`.

    Raises:
        SegopsError: There are no label ids.
    """
    photographs = place(images, path) if images else path / "leftImg8bit"
    if not photographs.is_dir():
        raise SegopsError(f"{photographs}: no such directory of photographs. --images names it.")
    found: dict[Path, SourceImage] = {}
    problems: list[str] = []
    tests: set[Path] = set()
    for kind in ("gtFine", "gtCoarse"):
        masks = sorted((path / kind).glob(f"*/*/*_{kind}{IDS}"))
        for mask in track(masks, f"reading {path / kind}"):
            image_id = mask.name.removesuffix(f"_{kind}{IDS}")
            split, city = mask.parent.parent.name, mask.parent.name
            photograph = photographs / split / city / f"{image_id}{IMAGE}"
            if photograph in found:
                continue
            if not photograph.is_file():
                problems.append(f"{mask}: its photograph {photograph} is missing")
                continue
            with noted(problems, mask):
                if split == TEST and not _holds_class(mask):  # the benchmark's are not public
                    tests.add(photograph)
                    continue
            found[photograph] = SourceImage(
                image_id, photograph, (mask,), partial(_draw, mask), SPELLINGS.get(split.lower())
            )
    if not found and not problems:
        raise SegopsError(f"{path}: holds no gtFine/SPLIT/CITY/*_gtFine{IDS}.")
    notes = [f"{counted(len(tests), 'image')} of the test split without labels left out."]
    tests -= set(found)
    others = {file for file in files_below(photographs, (".png",)) if file.name.endswith(IMAGE)}
    return Source(
        tuple(found.values()),
        (*CLASSES.values(), VOID_NAME),
        tuple(problems),
        (*(notes if tests else ()), *unnamed(others - set(found) - tests)),
    )


def _holds_class(mask: Path) -> bool:
    return bool(np.isin(read_mask(mask), list(CLASSES)).any())


def _draw(mask: Path, size: tuple[int, int]) -> Drawn:
    content = read_content(mask)
    ids = ids_of(load_labels(content, str(mask), MASK_FORMATS, size), content, str(mask))
    if (ids > LAST).any():
        raise SegopsError(f"{mask}: id {int(ids.max())}; expected label ids of 0 to {LAST}.")
    table = np.zeros(256, np.int32)
    for index, label in enumerate(CLASSES, 1):
        table[label] = index
    return Drawn((VOID_NAME, *CLASSES.values()), table[ids])
