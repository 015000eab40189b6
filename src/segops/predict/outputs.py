"""The files that the prediction of a directory writes for an image."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from io import BytesIO
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from segops import files
from segops.report.overlay import heat_overlay, overlay
from segops.runtime.classes import VOC, Classes
from segops.runtime.masks import encode_mask

_SUFFIXES = {
    "mask": ".png",
    "overlay": ".overlay.jpg",
    "probabilities": ".probabilities.npy",
    "explain": ".explain.jpg",
    "video": ".avi",
    "video-overlay": ".overlay.mp4",
    "frames": ".frames.csv",
}
MASK_VIDEO = _SUFFIXES["video"]
KINDS = frozenset(_SUFFIXES)
LONGEST_STEM = 200
"""Bytes of a name: with a suffix and the addition of a temporary file, it must stay below 255."""

_STRIP = 1 << 20
"""Pixels of an overlay that are drawn at once: drawing takes 20 times their memory."""

_JPEG_SIDE = 65_500
_TEMPORARY = re.compile(
    r"\.(.+\.(png|overlay\.jpg|probabilities\.npy|explain\.jpg|avi|overlay\.mp4|frames\.csv)"
    r"|predictions\.(csv|jsonl))\.[a-z0-9_]{8}\.(png|jpg|npy|csv|jsonl|avi|mp4)"
)


@dataclass(frozen=True)
class Options:
    """The files to write beside the mask.

    Attributes:
        overlay: ``NAME.overlay.jpg``: the mask over its image.
        probabilities: ``NAME.probabilities.npy``: float16 (C, H, W) in 0..1, of 2 C bytes a pixel.
        explain: ``NAME.explain.jpg``: where the network looked for the class of this name, or for
            the mask's largest class that is not background (`auto`).
        smooth: Frames over which a video's probabilities are averaged; 1: none. See
            :mod:`segops.predict.video`.
    """

    overlay: bool = True
    probabilities: bool = False
    explain: str | None = None
    smooth: int = 1

    def kinds(self) -> list[str]:
        """The kinds of outputs; the kind of an explanation includes the class."""
        kinds = ["mask"]
        kinds += ["overlay"] if self.overlay else []
        kinds += ["probabilities"] if self.probabilities else []
        kinds += [f"explain {self.explain}"] if self.explain is not None else []
        return kinds

    def video_kinds(self) -> list[str]:
        """The kinds of a video's outputs; they include what smoothed them."""
        kinds = ["video", "frames", *(["video-overlay"] if self.overlay else [])]
        return [f"{kind} {self.smooth}" if self.smooth > 1 else kind for kind in kinds]


@dataclass(frozen=True)
class PredictedImage:
    """An image and its prediction.

    Attributes:
        image: uint8 (H, W, 3), RGB.
        mask: uint8 (H, W), class ids.
        confidence: Mean probability of the top class.
        probabilities: float16 (C, H, W), or None where the options do not ask for it.
        activation: The image (h, w, 3), perhaps smaller, and its heat map float32 (h, w) in 0..1.
        classes: The model's classes.
    """

    image: NDArray[np.uint8]
    mask: NDArray[np.uint8]
    confidence: float
    probabilities: NDArray[np.float16] | None = None
    activation: tuple[NDArray[np.uint8], NDArray[np.float32]] | None = None
    classes: Classes = VOC


def path_of(mask: Path, kind: str) -> Path:
    """The path of an output by its kind and its mask's path."""
    return mask.with_suffix(_SUFFIXES[kind.partition(" ")[0]])


def write(mask: Path, predicted: PredictedImage, kinds: Iterable[str]) -> dict[str, str | None]:
    """Write the outputs of an image, each whole or not at all.

    Returns:
        SHA-256 of every kind's file; None where there is nothing to show.

    Raises:
        OSError: A file cannot be written.
    """
    return {kind: _write(path_of(mask, kind), predicted, kind.partition(" ")[0]) for kind in kinds}


def are_whole(mask: Path, outputs: Mapping[str, str | None], kinds: Iterable[str]) -> bool:
    """Whether what :func:`write` returned names all `kinds`, and their files are intact."""
    for kind in kinds:
        if kind not in outputs:
            return False
        expected, path = outputs[kind], path_of(mask, kind)
        if expected is not None and not (path.is_file() and files.sha256_file(path) == expected):
            return False
    return True


def remove(mask: Path, kinds: Iterable[str], kept: Mapping[str, str | None]) -> None:
    """Remove the outputs of an earlier prediction that the new outputs `kept` do not replace."""
    remaining = {path_of(mask, kind) for kind, sha256 in kept.items() if sha256 is not None}
    for path in {path_of(mask, kind) for kind in kinds} - remaining:
        path.unlink(missing_ok=True)


def remove_temporary(directories: Iterable[Path]) -> None:
    """Remove the temporary files that a killed run left in `directories`."""
    for directory in directories:
        if directory.is_dir():
            for path in directory.iterdir():
                if _TEMPORARY.fullmatch(path.name):
                    path.unlink()


def draw_overlay(
    image: NDArray[np.uint8], mask: NDArray[np.uint8], classes: Classes = VOC
) -> NDArray[np.uint8]:
    """As :func:`segops.report.overlay.overlay`, strip by strip, in little memory."""
    height, width = mask.shape
    rows = max(1, _STRIP // width)
    drawn = np.empty_like(image)
    for top in range(0, height, rows):
        # Outlines depend on neighbours: each strip is drawn with a further row on both sides.
        start, stop = max(0, top - 1), min(height, top + rows + 1)
        strip = overlay(image[start:stop], mask[start:stop], classes)
        drawn[top : top + rows] = strip[top - start : top - start + rows]
    return drawn


def _write(path: Path, predicted: PredictedImage, kind: str) -> str | None:
    if kind == "explain" and predicted.activation is None:
        return None
    with files.atomic_path(path) as temporary:
        if kind == "mask":
            temporary.write_bytes(encode_mask(predicted.mask, predicted.classes.palette()))
        elif kind == "overlay":
            drawn = draw_overlay(predicted.image, predicted.mask, predicted.classes)
            temporary.write_bytes(encode_jpeg(drawn))
        elif kind == "probabilities" and predicted.probabilities is not None:
            np.save(temporary, predicted.probabilities)
        elif predicted.activation is not None:
            temporary.write_bytes(encode_jpeg(heat_overlay(*predicted.activation)))
        return files.sha256_file(temporary)


def encode_jpeg(pixels: NDArray[np.uint8]) -> bytes:
    """Encode a picture, uint8 (H, W, 3), RGB; one above a JPEG's largest size is made smaller."""
    picture = Image.fromarray(pixels)
    picture.thumbnail((_JPEG_SIDE, _JPEG_SIDE))
    buffer = BytesIO()
    picture.save(buffer, "JPEG", quality=90)
    return buffer.getvalue()
