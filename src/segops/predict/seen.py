"""Which images a model was trained on: by their files and by their pixels."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from segops.data.store import PackedStore

IMAGES = "training_images"
PIXELS = "training_pixels"
"""Keys of ``model.json``; a bundle of an earlier segops lacks the second."""


def seen_images(
    model: Mapping[str, Any], images: Iterable[tuple[str, str | None]] = ()
) -> frozenset[str]:
    """SHA-256 of the image files that had a part in a model's training, in hexadecimal.

    Those of `images` whose pixels were trained on under other bytes are among them.

    Args:
        model: Content of its bundle's ``model.json``.
        images: SHA-256 of an image's file and of its pixels each; None where it is not known.
    """
    pixels = frozenset(model.get(PIXELS, {}).values())
    twins = (image for image, own in images if own in pixels)
    return frozenset(model[IMAGES].values()).union(twins)


def of_store(store: PackedStore, *splits: str) -> Iterable[tuple[str, str | None]]:
    """The hashes of the images of some splits, as :func:`seen_images` takes them."""
    ids = (image_id for split in splits for image_id in store.ids(split))
    return ((store.image_sha256(one), store.pixel_sha256(one)) for one in ids)
