"""Reads photographs and masks from two directories or two patterns of files."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from functools import partial
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from segops.importers.labelling import as_color
from segops.importers.source import VOID_NAME, Drawn, Source, SourceImage
from segops.importers.splits import SPELLINGS, split_of_path
from segops.runtime.classes import VOC_CLASSES, VOID, palette
from segops.runtime.errors import SegopsError
from segops.runtime.images import PHOTOGRAPH_FORMATS, load_image, read_content
from segops.voc.layout import PHOTOGRAPH_SUFFIXES

IMAGE_NAMES = ("images", "image", "imgs", "img", "jpegimages", "photos", "rgb")
MASK_NAMES = (
    *("masks", "mask", "labels", "label", "annotations", "annotation", "segmentationclass"),
    *("gt", "groundtruth", "ground_truth", "ann", "seg", "lbl"),
)
"""Names of directories of photographs and of masks, in lower case, by which they are known."""
AFFIXES = tuple(
    f"{separator}{name}"
    for separator in "_-."
    for name in ("mask", "masks", "label", "labels", "gt", "seg", "segmentation", "l")
)
"""Ends of a mask's name, before its suffix, that its photograph lacks."""


def read(
    path: Path,
    images: str | None = None,
    masks: str | None = None,
    colors: bool = False,
    threshold: int | None = None,
    only: Collection[str] | None = None,
) -> Source:
    """Read photographs and masks that belong together by their names.

    Labels are the stored values (`0`, `255`) of greyscale and palette masks; colours (`#ff0000`)
    where `colors` is set or the mask is RGB; with a threshold `0` below it and `1` from it on.

    Args:
        path: The directory.
        images: Photographs: a directory below `path`, or a pattern such as `*/left/*.png`; None: a
            directory of a usual name.
        masks: Masks, likewise.
        colors: Whether the colours of a palette are the labels, not the values.
        threshold: The smallest grey value that counts as foreground, 1 to 255.
        only: Names of photographs, without suffix; others are left out. None: all are read.

    Raises:
        SegopsError: There are no such files, or photographs have no mask.
    """
    photographs = _files(path, images, IMAGE_NAMES, "--images")
    labels = _files(path, masks, MASK_NAMES, "--masks")
    by_key: dict[str, list[Path]] = {}
    for key, mask in labels.items():
        for name in _names_of(key):
            by_key.setdefault(name, []).append(mask)
    problems, found = [], []
    draw = partial(_draw, colors=colors, threshold=threshold)
    for key, photograph in photographs.items():
        if only is not None and not {photograph.stem, _image_id(key)} & set(only):
            continue
        own = by_key.get(key) or by_key.get(Path(key).name) or []
        if len(own) != 1:
            several = f"several: {', '.join(map(str, own))}" if own else "none"
            problems.append(f"{photograph}: expected one mask of its name, there are {several}")
            continue
        found.append(
            SourceImage(
                image_id=_image_id(key),
                photograph=photograph,
                origin=(own[0],),
                draw=partial(draw, own[0]),
                split=split_of_path(photograph.relative_to(path)),
            )
        )
    used = {image.origin[0] for image in found}
    if only is None:
        problems += [
            f"{mask}: no photograph of its name" for mask in labels.values() if mask not in used
        ]
    return Source(tuple(found), problems=tuple(problems))


def _files(path: Path, given: str | None, usual: tuple[str, ...], option: str) -> dict[str, Path]:
    """Return key -> file; the key is the path without the part that tells images from masks."""
    if given is None:
        roots = [
            directory
            for directory in sorted(path.rglob("*"))
            if directory.is_dir() and directory.name.lower() in usual
        ]
        if not roots:
            raise SegopsError(
                f"{path}: no directory is called {', '.join(usual[:4])}. {option} names it, or a "
                "pattern of files."
            )
        paths = [file for root in roots for file in root.rglob("*")]
        drop = set(usual)
    elif (path / given).is_dir():
        paths, drop = list((path / given).rglob("*")), {part.lower() for part in Path(given).parts}
    else:
        paths, drop = (
            list(path.glob(given)),
            {part.lower() for part in Path(given).parts[:-1] if not set(part) & set("*?[")},
        )
    files: dict[str, Path] = {}
    for file in sorted(paths):
        if file.suffix.lower() in PHOTOGRAPH_SUFFIXES and file.is_file():
            relative = file.relative_to(path)
            parts = [part for part in relative.parts[:-1] if part.lower() not in drop]
            files["/".join([*parts, relative.stem])] = file
    if not files:
        raise SegopsError(
            f"{path}: {option} {given or ''} finds no file of suffix "
            f"{', '.join(PHOTOGRAPH_SUFFIXES)}."
        )
    return files


def _names_of(key: str) -> list[str]:
    """Return the keys of the photograph that a mask may belong to."""
    ends = [affix for affix in AFFIXES if key.lower().endswith(affix)]
    return list(dict.fromkeys([key, *(key[: -len(affix)] for affix in ends)]))


def _image_id(key: str) -> str:
    parts = [part for part in key.split("/") if part.lower() not in SPELLINGS]
    return "_".join(parts)


def _draw(mask: Path, size: tuple[int, int], *, colors: bool, threshold: int | None) -> Drawn:
    image = load_image(read_content(mask), str(mask), PHOTOGRAPH_FORMATS)
    if image.mode == "1":
        image = image.convert("L")
    if threshold is not None:
        if image.mode not in ("L", "LA"):
            raise SegopsError(
                f"{mask}: mode {image.mode}; --threshold expects greyscale of 8 bits."
            )
        above = np.asarray(image.getchannel("L")) >= threshold
        return Drawn(("0", "1"), above.astype(np.int32))
    if image.mode in ("L", "P") and not colors:
        return _by_value(np.asarray(image))
    if image.mode not in ("L", "P", "RGB", "RGBA"):
        raise SegopsError(
            f"{mask}: mode {image.mode}; expected values or colours of 8 bits a channel."
        )
    rgb = np.asarray(image.convert("RGB")).astype(np.int32)
    keys, indices = np.unique(
        rgb[..., 0] << 16 | rgb[..., 1] << 8 | rgb[..., 2], return_inverse=True
    )
    names = tuple(as_color(key >> 16, key >> 8 & 255, key & 255) for key in keys.tolist())
    return Drawn(names, indices.reshape(rgb.shape[:2]).astype(np.int32))


def _by_value(values: NDArray[np.uint8]) -> Drawn:
    met, indices = np.unique(values, return_inverse=True)
    labels = tuple(str(value) for value in met.tolist())
    return Drawn(labels, indices.reshape(values.shape).astype(np.int32))


def names_of_ids(classes: Sequence[str]) -> dict[str, str]:
    """Return value -> class name for masks whose values are the ids of `classes`; 255 is void."""
    return {str(number): name for number, name in enumerate(classes)} | {str(VOID): VOID_NAME}


def voc_colors() -> dict[str, str]:
    """Return colour -> class name by VOC's palette; its last colour is void."""
    names = names_of_ids(VOC_CLASSES)
    colors = {str(number): as_color(*color) for number, color in enumerate(palette().tolist())}
    return {colors[value]: name for value, name in names.items()}
