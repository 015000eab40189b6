"""Masks and overlays for an image or a directory of images."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from PIL import Image

from segops import files
from segops.errors import SegopsError
from segops.progress import track
from segops.report.overlay import overlay

from ..voc.images import decode_image
from ..voc.masks import encode_mask
from .bundle import load_bundle

SUFFIXES = (".jpg", ".jpeg", ".png")


def predict_folder(source: Path, bundle: Path, output: Path) -> tuple[int, list[str]]:
    """Write a palette PNG ``NAME.png`` and an overlay ``NAME.overlay.jpg`` for every image.

    Args:
        source: An image, or a directory whose images (.jpg, .jpeg, .png) are taken, sub-directories
            included; they keep their relative place.
        bundle: A model bundle's directory.
        output: Directory of the masks and overlays.

    Returns:
        How many images were done, and a message for each that could not be read.

    Raises:
        SegopsError: `source` is missing or holds no image, two images would share one mask's name,
            or the bundle is not usable.
    """
    targets = dict(_targets(source, output))
    predictor = load_bundle(bundle)
    failed: list[str] = []
    for image_path, target in track(list(targets.items()), "predict"):
        try:
            # An EXIF orientation is honoured, as the registered model honours it.
            image = decode_image(image_path.read_bytes(), str(image_path), apply_orientation=True)
        except SegopsError as error:
            failed.append(str(error))
            continue
        mask = predictor.predict(image).mask
        files.write_bytes(target, encode_mask(mask))
        with files.atomic_path(target.with_suffix(".overlay.jpg")) as temporary:
            Image.fromarray(overlay(image, mask)).save(temporary, "JPEG", quality=90)
    return len(targets) - len(failed), failed


def _targets(source: Path, output: Path) -> Iterator[tuple[Path, Path]]:
    if source.is_file():
        yield source, output / f"{source.stem}.png"
        return
    if not source.is_dir():
        raise SegopsError(f"{source}: no such file or directory.")
    images = sorted(path for path in source.rglob("*") if path.suffix.lower() in SUFFIXES)
    if not images:
        raise SegopsError(f"{source}: holds no image; expected {', '.join(SUFFIXES)}.")
    taken: dict[Path, Path] = {}
    for path in images:
        target = (output / path.relative_to(source)).with_suffix(".png")
        if target in taken:
            raise SegopsError(
                f"{path} and {taken[target]}: both masks would be {target}. Rename one."
            )
        taken[target] = path
        yield path, target
