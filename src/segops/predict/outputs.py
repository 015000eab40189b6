"""The files that a prediction of a directory writes for an image."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from segops import files
from segops.report.overlay import heat_overlay, overlay
from segops.runtime.masks import encode_mask

MASK = "mask"
OVERLAY = "overlay"
PROBABILITIES = "probabilities"
EXPLANATION = "explain"
_SUFFIXES = {
    MASK: ".png",
    OVERLAY: ".overlay.jpg",
    PROBABILITIES: ".probabilities.npy",
    EXPLANATION: ".explain.jpg",
}
LONGEST_STEM = 200
"""Bytes of a name: with an ending and what a temporary file adds, it must stay below 255."""

_STRIP = 1 << 20
"""Pixels of an overlay that are drawn at once: drawing takes 20 times their memory."""

_JPEG_SIDE = 65_500
_TEMPORARY = re.compile(
    r"\.(.+\.(png|overlay\.jpg|probabilities\.npy|explain\.jpg)|predictions\.(csv|jsonl))"
    r"\.[a-z0-9_]{8}\.(png|jpg|npy|csv|jsonl)"
)


@dataclass(frozen=True)
class Options:
    """What is written beside the mask.

    Attributes:
        overlay: ``NAME.overlay.jpg``: the mask over its image.
        probabilities: ``NAME.probabilities.npy``: float16 (C, H, W) in 0..1, of 2 C bytes a pixel.
        explain: ``NAME.explain.jpg``: where the network looked for this class, named, or for the
            largest one in the mask that is not background (`auto`).
    """

    overlay: bool = True
    probabilities: bool = False
    explain: str | None = None

    def kinds(self) -> list[str]:
        """The kinds of outputs; an explanation's says what for."""
        found = [MASK]
        found += [OVERLAY] if self.overlay else []
        found += [PROBABILITIES] if self.probabilities else []
        found += [f"{EXPLANATION} {self.explain}"] if self.explain is not None else []
        return found


@dataclass(frozen=True)
class Finding:
    """What is known of an image once it is predicted.

    Attributes:
        image: uint8 (H, W, 3), RGB.
        mask: uint8 (H, W), class ids.
        confidence: Mean probability of the top class.
        probabilities: float16 (C, H, W), or None where nobody asked.
        activation: The image (h, w, 3), perhaps smaller, and the heat float32 (h, w) in 0..1 on it.
    """

    image: NDArray[np.uint8]
    mask: NDArray[np.uint8]
    confidence: float
    probabilities: NDArray[np.float16] | None = None
    activation: tuple[NDArray[np.uint8], NDArray[np.float32]] | None = None


def path_of(mask: Path, kind: str) -> Path:
    """Where the output of a kind lies, by its mask's path."""
    return mask.with_suffix(_SUFFIXES[kind.partition(" ")[0]])


def write(mask: Path, finding: Finding, kinds: Iterable[str]) -> dict[str, str | None]:
    """Write the outputs of an image, each whole or not at all.

    Args:
        mask: Where the mask goes.
        finding: What is known of the image.
        kinds: What to write; see :meth:`Options.kinds`.

    Returns:
        SHA-256 of every kind's file; None where there is nothing to show.

    Raises:
        OSError: A file cannot be written.
    """
    return {kind: _write(path_of(mask, kind), finding, kind.partition(" ")[0]) for kind in kinds}


def whole(mask: Path, outputs: Mapping[str, str | None], kinds: Iterable[str]) -> bool:
    """Whether all `kinds` are among the `outputs` known and their files are as they were written.

    Args:
        mask: Where the mask lies.
        outputs: SHA-256 by kind, as :func:`write` returned it.
        kinds: What is asked for.
    """
    for kind in kinds:
        if kind not in outputs:
            return False
        expected, path = outputs[kind], path_of(mask, kind)
        if expected is not None and not (path.is_file() and files.sha256_file(path) == expected):
            return False
    return True


def remove(mask: Path, kinds: Iterable[str], kept: Mapping[str, str | None]) -> None:
    """Remove an earlier prediction's outputs that a new one does not replace."""
    remaining = {path_of(mask, kind) for kind, written in kept.items() if written is not None}
    for kind in kinds:
        path = path_of(mask, kind)
        if path not in remaining:
            path.unlink(missing_ok=True)


def sweep(directories: Iterable[Path]) -> None:
    """Remove the temporary files that a killed run left."""
    for directory in directories:
        if directory.is_dir():
            for path in directory.iterdir():
                if _TEMPORARY.fullmatch(path.name):
                    path.unlink()


def draw_overlay(image: NDArray[np.uint8], mask: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """As :func:`segops.report.overlay.overlay`, strip by strip, in little memory."""
    height, width = mask.shape
    rows = max(1, _STRIP // width)
    drawn = np.empty_like(image)
    for top in range(0, height, rows):
        # One row more on both sides, because outlines depend on neighbours.
        start, stop = max(0, top - 1), min(height, top + rows + 1)
        strip = overlay(image[start:stop], mask[start:stop])
        drawn[top : top + rows] = strip[top - start : top - start + rows]
    return drawn


def _write(path: Path, finding: Finding, kind: str) -> str | None:
    if kind == MASK:
        content = encode_mask(finding.mask)
        files.write_bytes(path, content)
        return files.sha256_bytes(content)
    if kind == EXPLANATION and finding.activation is None:
        return None
    with files.atomic_path(path) as temporary:
        if kind == OVERLAY:
            _save(temporary, draw_overlay(finding.image, finding.mask))
        elif kind == PROBABILITIES and finding.probabilities is not None:
            np.save(temporary, finding.probabilities)
        elif finding.activation is not None:
            _save(temporary, heat_overlay(*finding.activation))
        return files.sha256_file(temporary)


def _save(path: Path, pixels: NDArray[np.uint8]) -> None:
    picture = Image.fromarray(pixels)
    # A JPEG can be no larger.
    picture.thumbnail((_JPEG_SIDE, _JPEG_SIDE))
    picture.save(path, "JPEG", quality=90)
