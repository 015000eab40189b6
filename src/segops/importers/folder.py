"""Reads photographs and masks from two directories or two patterns of files."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path, PurePosixPath

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from segops.importers.files import unnamed
from segops.importers.names import Named, found_files, match
from segops.importers.source import VOID_NAME, Drawn, Source, SourceImage, indexed, load_labels
from segops.importers.splits import Lists, id_below, split_of_path
from segops.progress import track
from segops.runtime.classes import VOC_CLASSES, VOID, hexadecimal, palette
from segops.runtime.errors import SegopsError
from segops.runtime.images import PHOTOGRAPH_FORMATS, read_content
from segops.runtime.masks import stored_values


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
            a usual name below `path`, else those such as `train` beside `train_labels`. A
            directory, also that before the first wildcard of a pattern, is found by
            :func:`segops.importers.files.place`.
        masks: Masks, likewise. What the only `*` in a part of a pattern stands for belongs
            together: `*/img_*.png` and `*_labels/gt_*.png`.
        colors: Whether the colours of a palette are the labels, not the values.
        threshold: The smallest grey value that counts as foreground, 1 to 255.
        lists: The photographs that count; others need no mask. None: all do.

    Raises:
        SegopsError: There are no such files.
    """
    photographs, labels = found_files(path, images, masks)
    problems = [*_rivals(photographs, "--images"), *_rivals(labels, "--masks")]
    ids = {own[0].path: _image_id(key) for key, own in photographs.items()}
    listed = set(ids) if lists is None else set(lists.match(ids)[0])
    named = {key: own[0] for key, own in photographs.items() if own[0].path in listed}
    matched = match(named.values(), [one for same in labels.values() for one in same])
    draw = partial(_draw, colors=colors, threshold=threshold)
    users: dict[Path, Path] = {}
    found = []
    for key, one in track(named.items(), f"reading {path}"):
        photograph, own = one.path, matched[one.path]
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
                split=split_of_path(below) or split_of_path(PurePosixPath(key)),
            )
        )
    if lists is None:
        seen = {mask for own in matched.values() for mask in own}
        every = [mask.path for same in labels.values() for mask in same]
        problems += [f"{mask}: no photograph of its name" for mask in every if mask not in seen]
    return Source(tuple(found), (), tuple(problems), unnamed(set(ids) - listed))


def _rivals(files: Mapping[str, Sequence[Named]], option: str) -> list[str]:
    """Return a line for each key of several files."""
    several = [[str(one.path) for one in same] for same in files.values() if len(same) > 1]
    return [
        f"{', '.join(same)}: the same name; {option} tells which of them counts" for same in several
    ]


def _image_id(key: str) -> str:
    *directories, name = key.split("/")
    return id_below(directories, name)


def _draw(mask: Path, size: tuple[int, int], *, colors: bool, threshold: int | None) -> Drawn:
    content = read_content(mask)
    image = load_labels(content, str(mask), PHOTOGRAPH_FORMATS, size)
    if threshold is not None:
        return Drawn(("0", "1"), (_grey(image, mask) >= threshold).astype(np.int32))
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
            f"{mask}: mode {image.mode}; expected values or colours of 8 bits a channel. Save the "
            "mask so."
        )
    rgb = np.asarray(image.convert("RGB")).astype(np.int32)
    keys, indices = indexed(rgb[..., 0] << 16 | rgb[..., 1] << 8 | rgb[..., 2])
    names = tuple(hexadecimal((key >> 16, key >> 8 & 255, key & 255)) for key in keys)
    return Drawn(names, indices)


def _grey(image: Image.Image, mask: Path) -> NDArray[np.uint8]:
    if image.mode in ("1", "L", "LA"):
        return np.asarray(image.convert("L"))
    if image.mode in ("P", "RGB", "RGBA"):
        rgb = np.asarray(image.convert("RGB"))
        if (rgb == rgb[..., :1]).all():
            return rgb[..., 0]
    raise SegopsError(
        f"{mask}: mode {image.mode}; --threshold expects shades of grey of 8 bits a channel. Save "
        "the mask so; colours and values of a palette are named by --colors and --values."
    )


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
