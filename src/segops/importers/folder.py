"""Reads photographs and masks from two directories or two patterns of files."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import replace
from functools import partial
from itertools import takewhile
from pathlib import Path, PurePosixPath

import numpy as np
from PIL import Image

from segops.importers.files import files_below, place, unnamed
from segops.importers.source import VOID_NAME, Drawn, Source, SourceImage, indexed, load_labels
from segops.importers.splits import Lists, id_below, split_of_path
from segops.progress import track
from segops.runtime.classes import VOC_CLASSES, VOID, hexadecimal, palette
from segops.runtime.errors import SegopsError
from segops.runtime.images import PHOTOGRAPH_FORMATS, read_content
from segops.runtime.masks import stored_values
from segops.voc.layout import PHOTOGRAPH_SUFFIXES

IMAGE_NAMES = ("images", "image", "imgs", "img", "jpegimages", "photos", "rgb")
MASK_NAMES = (
    *("masks", "mask", "labels", "label", "annotations", "annotation", "segmentationclass"),
    *("gt", "groundtruth", "ground_truth", "ann", "seg", "lbl"),
)
"""Names of directories of photographs and of masks, in lower case, by which they are known."""
WILDCARDS = "*?["
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
    lists: Lists | None = None,
) -> Source:
    """Read photographs and masks that belong together by their names.

    Labels are the stored values (`0`, `255`; of 1 bit `0`, `1`) of greyscale and palette masks;
    colours (`#ff0000`) where `colors` is set or the mask is RGB; with a threshold `0` below it and
    `1` from it on.

    Args:
        path: The directory.
        images: Photographs: a directory, or a pattern such as `*/left/*.png`; None: directories of
            a usual name below `path`. A directory, also that before the first wildcard of a
            pattern, is found by :func:`segops.importers.files.place`.
        masks: Masks, likewise. What the only `*` in the last part of a pattern stands for belongs
            together too: `images/img_*.png` and `masks/gt_*.png`.
        colors: Whether the colours of a palette are the labels, not the values.
        threshold: The smallest grey value that counts as foreground, 1 to 255.
        lists: The photographs that count; others need no mask. None: all do.

    Raises:
        SegopsError: There are no such files.
    """
    photographs = _files(path, images, IMAGE_NAMES, "--images")
    labels = _files(path, masks, MASK_NAMES, "--masks")
    problems = [*_rivals(photographs, "--images"), *_rivals(labels, "--masks")]
    by_key: dict[str, list[Path]] = {}
    for key, same in labels.items():
        for name in _names_of(key, masks):
            by_key.setdefault(name, []).extend(same)
    ids = {own[0]: _image_id(key) for key, own in photographs.items()}
    listed = set(ids) if lists is None else set(lists.match(ids)[0])
    draw = partial(_draw, colors=colors, threshold=threshold)
    users: dict[Path, Path] = {}
    found = []
    for key, (photograph, *_) in track(photographs.items(), f"reading {path}"):
        if photograph not in listed:
            continue
        keys = key, _starred(key, images), PurePosixPath(key).name
        own = next(filter(None, (by_key.get(name) for name in keys)), [])
        if len(own) != 1:
            several = f"several: {', '.join(map(str, own))}" if own else "none"
            problems.append(f"{photograph}: expected one mask of its name, there are {several}")
            continue
        if (other := users.setdefault(own[0], photograph)) != photograph:
            problems.append(
                f"{own[0]}: the mask of {other} and of {photograph}. --images and --masks tell "
                "which files belong together"
            )
        below = photograph.relative_to(path) if photograph.is_relative_to(path) else Path(key)
        found.append(
            SourceImage(
                image_id=ids[photograph],
                photograph=photograph,
                origin=(own[0],),
                draw=partial(draw, own[0]),
                split=split_of_path(below),
            )
        )
    if lists is None:
        every = [mask for same in labels.values() for mask in same]
        problems += [f"{mask}: no photograph of its name" for mask in every if mask not in users]
    return Source(tuple(found), (), tuple(problems), unnamed(set(ids) - listed))


def _files(
    path: Path, given: str | None, usual: tuple[str, ...], option: str
) -> dict[str, list[Path]]:
    """Return key -> files; the key is the path without the part that tells images from masks."""
    base, drop = path, set(usual)
    if given is None:
        paths = [
            file
            for file in files_below(path, PHOTOGRAPH_SUFFIXES)
            if {part.lower() for part in file.relative_to(path).parts[:-1]} & drop
        ]
    else:
        parts = Path(given).parts
        fixed = list(takewhile(lambda part: not set(part) & set(WILDCARDS), parts))
        pattern = parts[len(fixed) :]
        base = place(str(Path(*fixed)), path) if fixed else path
        drop = {part.lower() for part in pattern[:-1] if not set(part) & set(WILDCARDS)}
        if pattern:
            paths = [file for file in sorted(base.glob(str(Path(*pattern)))) if not file.is_dir()]
        else:
            paths = list(files_below(base, PHOTOGRAPH_SUFFIXES)) if base.is_dir() else []
    files: dict[str, list[Path]] = {}
    for file in paths:
        if file.suffix.lower() in PHOTOGRAPH_SUFFIXES:
            relative = file.relative_to(base)
            kept = [part for part in relative.parts[:-1] if part.lower() not in drop]
            files.setdefault("/".join([*kept, relative.stem]), []).append(file)
    if not files:
        where = f"{option} {given}" if given else f"directories called {', '.join(usual[:4])}"
        raise SegopsError(
            f"{path}: no file of suffix {', '.join(PHOTOGRAPH_SUFFIXES)} in {where}. {option} "
            "names another directory, or a pattern of files."
        )
    return files


def _rivals(files: Mapping[str, Sequence[Path]], option: str) -> list[str]:
    """Return a line for each key of several files."""
    return [
        f"{', '.join(map(str, same))}: the same name; {option} tells which of them counts"
        for same in files.values()
        if len(same) > 1
    ]


def _names_of(key: str, pattern: str | None) -> list[str]:
    """Return the keys of the photograph that a mask may belong to."""
    ends = [affix for affix in AFFIXES if key.lower().endswith(affix)]
    names = [key, *(key[: -len(affix)] for affix in ends), _starred(key, pattern)]
    return list(dict.fromkeys(names))


def _starred(key: str, pattern: str | None) -> str:
    """Return a key with what the only `*` of a pattern's last part stands for as its name."""
    around = PurePosixPath(pattern or "").stem.split("*")
    if len(around) != 2:
        return key
    # `[[]`, `[*]` and `[?]` are how a pattern writes the character.
    start, end = (re.sub(r"\[([\[*?])\]", r"\1", part) for part in around)
    directories, slash, name = key.rpartition("/")
    return f"{directories}{slash}{name.removeprefix(start).removesuffix(end)}"


def _image_id(key: str) -> str:
    *directories, name = key.split("/")
    return id_below(directories, name)


def _draw(mask: Path, size: tuple[int, int], *, colors: bool, threshold: int | None) -> Drawn:
    content = read_content(mask)
    image = load_labels(content, str(mask), PHOTOGRAPH_FORMATS, size)
    if threshold is not None:
        if image.mode not in ("1", "L", "LA"):
            raise SegopsError(
                f"{mask}: mode {image.mode}; --threshold expects greyscale of 8 bits."
            )
        above = np.asarray(image.convert("L")) >= threshold
        return Drawn(("0", "1"), above.astype(np.int32))
    if image.format == "JPEG":
        raise SegopsError(
            f"{mask}: a JPEG, which does not keep values and colours. Save masks as PNG, or cut "
            "greyscale with --threshold."
        )
    if image.mode in ("1", "L", "P") and not colors:
        values, indices = indexed(stored_values(image, content))
        drawn = Drawn(tuple(map(str, values)), indices)
        return replace(drawn, colors=_shown(image, drawn.labels)) if image.mode == "P" else drawn
    if image.mode not in ("1", "L", "P", "RGB", "RGBA"):
        raise SegopsError(
            f"{mask}: mode {image.mode}; expected values or colours of 8 bits a channel."
        )
    rgb = np.asarray(image.convert("RGB")).astype(np.int32)
    keys, indices = indexed(rgb[..., 0] << 16 | rgb[..., 1] << 8 | rgb[..., 2])
    names = tuple(hexadecimal((key >> 16, key >> 8 & 255, key & 255)) for key in keys)
    return Drawn(names, indices)


def _shown(image: Image.Image, values: Sequence[str]) -> tuple[str, ...]:
    """Return the colours of a palette's values; black where the palette lacks them."""
    channels = np.zeros(3 * (VOID + 1), np.uint8)
    given = np.asarray(image.getpalette("RGB") or [], np.uint8)
    channels[: len(given)] = given
    return tuple(hexadecimal(channels[3 * int(one) :][:3].tolist()) for one in values)


def names_of_ids(classes: Sequence[str]) -> dict[str, str]:
    """Return value -> class name for masks whose values are the ids of `classes`; 255 is void."""
    return {str(number): name for number, name in enumerate(classes)} | {str(VOID): VOID_NAME}


def voc_colors() -> dict[str, str]:
    """Return colour -> class name by VOC's palette; its last colour is void."""
    names = names_of_ids(VOC_CLASSES)
    colors = {str(number): hexadecimal(color) for number, color in enumerate(palette().tolist())}
    return {colors[value]: name for value, name in names.items()}
