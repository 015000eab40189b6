"""Keeps the predicted masks of a few images of val, for the smoke test after a promotion."""

from __future__ import annotations

import json
import math
from base64 import b64decode, b64encode
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from segops import files
from segops.runtime.errors import SegopsError
from segops.runtime.masks import decode_mask, encode_mask

if TYPE_CHECKING:
    from segops.data.store import PackedStore
    from segops.evaluate.score import Scores

MOST = 4
LARGEST = 2_000_000
"""Most pixels of an image whose mask is kept."""


@dataclass(frozen=True)
class KeptMask:
    """A predicted mask.

    Attributes:
        image_id: The image.
        sha256: SHA-256 of its file.
        mask: uint8 (H, W), predicted ids.
    """

    image_id: str
    sha256: str
    mask: NDArray[np.uint8]


@dataclass(frozen=True)
class KeptMasks:
    """The predicted masks of a few images.

    Attributes:
        bundle_digest: Digest of the bundle that predicted them.
        machine: What predicted them; see :func:`segops.predict.machine.describe`.
        masks: The masks.
    """

    bundle_digest: str
    machine: dict[str, Any]
    masks: tuple[KeptMask, ...]


def chosen(store: PackedStore, image_ids: Sequence[str]) -> list[str]:
    """Return at most :data:`MOST` of the images, spread evenly over them; huge ones are left out.

    Args:
        store: The packed data.
        image_ids: Their ids, in order. The same ids give the same choice, whatever the model.
    """
    fitting = [one for one in image_ids if math.prod(store.size(one)) <= LARGEST]
    places = np.linspace(0, len(fitting) - 1, min(MOST, len(fitting)))
    return [fitting[int(place)] for place in places]


def of(scores: Scores, store: PackedStore) -> KeptMasks:
    """Return the masks of the :func:`chosen` images among those that were scored.

    Args:
        scores: The scores, with these masks kept.
        store: The packed data that they are of.
    """
    masks = (
        KeptMask(one, store.image_sha256(one), scores.prediction(one))
        for one in chosen(store, scores.images)
    )
    return KeptMasks(scores.bundle_digest, scores.machine, tuple(masks))


def write(path: Path, kept: KeptMasks) -> None:
    """Write the masks as JSON, each as a palette PNG in base64."""
    images = [
        {
            "id": one.image_id,
            "sha256": one.sha256,
            "mask": b64encode(encode_mask(one.mask)).decode(),
        }
        for one in kept.masks
    ]
    tree = {"bundle_digest": kept.bundle_digest, "machine": kept.machine, "images": images}
    files.write_json(path, tree)


def read(content: bytes, name: str) -> KeptMasks:
    """Read the content of a file that :func:`write` wrote; messages call the file `name`.

    Raises:
        SegopsError: It is another.
    """
    try:
        tree = json.loads(content)
        masks = tuple(
            KeptMask(
                str(one["id"]),
                str(one["sha256"]),
                decode_mask(b64decode(one["mask"], validate=True), name),
            )
            for one in tree["images"]
        )
        machine = {**tree["machine"], "threads": int(tree["machine"]["threads"])}
        return KeptMasks(str(tree["bundle_digest"]), machine, masks)
    except (KeyError, TypeError, ValueError) as error:
        raise SegopsError(
            f"{name}: no kept masks ({type(error).__name__}: {error}). "
            "`dvc repro --force --single-item evaluate` makes them again."
        ) from None
