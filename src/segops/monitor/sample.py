"""The images that are compared: those of a directory, or the lines of a prediction log."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from segops import files
from segops.monitor.drift import Watched
from segops.monitor.reference import MOST, chosen
from segops.predict.bundle import BundledPredictor
from segops.predict.image_files import decode_files, read_files
from segops.predict.log import Logged, read_log
from segops.predict.observe import observing, statistic_names
from segops.predict.parallel import images_at_once, predict_parallel
from segops.predict.seen import IMAGES, PIXELS
from segops.predict.sources import list_images
from segops.progress import track
from segops.runtime import opener
from segops.runtime.bands import extent
from segops.runtime.errors import SegopsError


@dataclass(frozen=True)
class Sample:
    """What is compared.

    Attributes:
        images: The images.
        total: How many there were to choose from, repeated ones too.
        repeated: How many are left out because another has the same pixels: the tests take
            independent images.
        failed: A message for each image that cannot be read.
        others: Lines of the log that another model wrote; they are left out.
        paths: The files of the images of a directory by their names; empty of a log.
    """

    images: tuple[Watched, ...]
    total: int
    repeated: int
    failed: tuple[str, ...]
    others: int
    paths: dict[str, Path]


def of_folder(predictor: BundledPredictor, source: Path, days: float | None = None) -> Sample:
    """Predict and observe at most :data:`MOST` images of a directory, chosen by their names.

    Args:
        predictor: The model.
        source: An image or a directory; see :func:`segops.predict.sources.list_images`.
        days: Only files that came within so many days. The time is the kernel's, as a copy may
            keep an older time of modification.

    Raises:
        SegopsError: The directory is missing, or holds files and none of them is an image.
    """
    bands = predictor.model.get(opener.BANDS, ())
    above = source.parent if source.is_file() else source
    found = {path.relative_to(above).as_posix(): path for path in list_images(source, bands)}
    if days is not None:
        since = (datetime.now(UTC) - timedelta(days=days)).timestamp()
        found = {name: path for name, path in found.items() if path.lstat().st_ctime >= since}
    names = chosen(found)
    shas, pixels = (frozenset(predictor.model.get(key, {}).values()) for key in (IMAGES, PIXELS))
    with observing(predictor) as predict:

        def watch(name: str) -> Watched | str:
            try:
                held = read_files(found[name], predictor.bands)
                observation = predict(decode_files(held, predictor))[1]
            except SegopsError as error:
                return str(error)
            is_seen = files.sha256_bytes(held[0][1]) in shas or observation.pixels in pixels
            return Watched(name, observation, is_seen)

        largest = max((_pixels(found[name], predictor.max_pixels) for name in names), default=1)
        at_once = images_at_once(predictor.device, largest, len(names))
        done = list(track(predict_parallel(watch, names, at_once), "Observing", len(names)))
    watched = [one for one in done if isinstance(one, Watched)]
    failed = tuple(one for one in done if isinstance(one, str))
    # Of several files with the same pixels, the one that the model is known to have seen.
    images = {one.observation.pixels: one for one in sorted(watched, key=lambda one: one.is_seen)}
    repeated = len(watched) - len(images)
    return Sample(tuple(images.values()), len(found), repeated, failed, 0, found)


def read_image(predictor: BundledPredictor, path: Path) -> NDArray[np.uint8]:
    """An image of a directory as the model takes it, uint8 (H, W, C)."""
    return decode_files(read_files(path, predictor.bands), predictor)


def _pixels(path: Path, limit: int) -> int:
    width, height = extent(path) or (0, 0)
    return width * height if width * height <= limit else 0


def of_log(
    predictor: BundledPredictor, model: str, source: Path, days: float | None = None
) -> Sample:
    """At most :data:`MOST` images of a prediction log, of those that the model predicted.

    They are chosen by the hash of their pixels; of the lines of an image, the newest counts.

    Args:
        predictor: The model.
        model: Digest of its bundle; the lines of its exports hold it too.
        source: The log.
        days: Only lines of so many days.

    Raises:
        SegopsError: A line is no line of a prediction log, or does not fit the model.
    """
    since = None if days is None else datetime.now(UTC) - timedelta(days=days)
    total = others = 0
    known: set[str] = set()
    newest: dict[str, Logged] = {}
    for logged in read_log(source):
        if since is not None and logged.time < since:
            continue
        if logged.model != model:
            others += 1
            continue
        total += 1
        key = logged.observation.pixels
        known.add(key)
        if key not in newest or newest[key].time <= logged.time:
            newest[key] = logged
        if len(newest) >= 2 * MOST:  # a long log does not fit into memory
            newest = _first(newest)
    lines = list(_first(newest).values())
    pixels = frozenset(predictor.model.get(PIXELS, {}).values())
    expected = len(predictor.class_names), len(statistic_names(predictor.channels))
    for one in lines:
        kept = one.observation.predicted
        found = 0 if kept is None else len(kept.shares), len(one.observation.statistics)
        if found != expected:
            raise SegopsError(
                f"{source}: a line of {one.time:%Y-%m-%d %H:%M:%S} holds {found[0]} class shares "
                f"and {found[1]} statistics; expected {expected[0]} and {expected[1]}. The log "
                "was changed; remove its file."
            )
    images = tuple(
        Watched(_name(one), one.observation, one.observation.pixels in pixels) for one in lines
    )
    return Sample(images, total, total - len(known), (), others, {})


def _first(newest: dict[str, Logged]) -> dict[str, Logged]:
    return {key: newest[key] for key in chosen(newest, MOST)}


def _name(one: Logged) -> str:
    return one.name or f"{one.observation.pixels[:12]} of {one.time:%Y-%m-%d %H:%M:%S}"
