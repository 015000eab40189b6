"""The Semantic Boundaries Dataset (SBD): more masks for VOC's images, and the trainaug list.

Source: Hariharan et al., "Semantic Contours from Inverse Detectors", ICCV 2011. The list of 10,582
training images is VOC2012's train and SBD's train and val, without VOC2012's val.
"""

from __future__ import annotations

import io
from collections.abc import Iterable, Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from scipy.io import loadmat

from segops.progress import track
from segops.runtime.errors import SegopsError
from segops.runtime.masks import encode_mask

SBD_LISTS = ("train.txt", "val.txt")
SBD_MASKS = "cls"
SBD_IMAGES = "img"


def read_ids(path: Path) -> tuple[str, ...]:
    """The image ids of a list of SBD: one id a line, without blank lines."""
    lines = path.read_text(encoding="utf-8").splitlines()
    return tuple(line.strip() for line in lines if line.strip())


def trainaug(train: Iterable[str], val: Iterable[str], sbd: Iterable[str]) -> tuple[str, ...]:
    """The image ids of trainaug: VOC's `train` and all of `sbd`, without VOC's `val`; sorted."""
    return tuple(sorted({*train, *sbd} - set(val)))


def decode_sbd_mask(content: bytes, name: str) -> NDArray[np.uint8]:
    """Read the class ids of a MATLAB file of SBD (its struct `GTcls`, field `Segmentation`).

    Nothing in the bytes is executed or unpickled; errors name the file.

    Returns:
        uint8 array of shape (H, W): ids 0 to 20 as stored. SBD marks no void pixels.

    Raises:
        SegopsError: The content is not such a file.
    """
    try:
        mask = loadmat(io.BytesIO(content), variable_names=["GTcls"])["GTcls"]["Segmentation"][0, 0]
    except Exception as error:  # The reader raises whatever its parts raise on broken bytes.
        raise SegopsError(
            f"{name}: not readable as a mask of SBD (GTcls.Segmentation): "
            f"{type(error).__name__}: {error}"
        ) from error
    found = np.asarray(mask)
    if found.dtype != np.uint8 or found.ndim != 2 or found.size == 0:
        raise SegopsError(
            f"{name}: GTcls.Segmentation: expected uint8 of shape (H, W), found {found.dtype} "
            f"{found.shape}"
        )
    return found


def write_sbd_masks(matlab: Path, ids: Sequence[str], masks: Path) -> None:
    """Turn ``matlab/ID.mat`` into the palette PNG ``masks/ID.png`` for every id.

    Raises:
        SegopsError: Files are not readable as masks; all of them are listed.
    """
    bad: list[str] = []
    for image_id in track(ids, "turning SBD's masks into PNG"):
        source = matlab / f"{image_id}.mat"
        try:
            mask = decode_sbd_mask(source.read_bytes(), source.name)
        except SegopsError as error:
            bad.append(str(error))
            continue
        (masks / f"{image_id}.png").write_bytes(encode_mask(mask))
    if bad:
        raise SegopsError(
            "\n  ".join([f"SBD holds {len(bad)} unreadable mask(s):", *bad])
            + "\nDelete the archive and have it downloaded anew."
        )
