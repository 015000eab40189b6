"""The selection split: images of train that choose the checkpoint and train nothing."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence


def selection_split(ids: Sequence[str], share: float) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """Divide the ids of train by a stable hash of each.

    Whether an id is selected depends on that id and `share` alone, so a larger share selects all
    that a smaller share selects. Two exceptions for sets of a few images: of two or more ids at
    least one is selected and at least one is trained on, and a single id is trained on.

    Args:
        ids: Distinct image ids.
        share: Expected share of `ids` that is selected, in [0, 1); 0: none.

    Returns:
        Ids to train on and ids of the selection split, each in the order of `ids`.
    """
    if share <= 0 or len(ids) < 2:
        return tuple(ids), ()
    by_rank = sorted(ids, key=_rank)
    # At least the first, at most all but the last.
    count = sum(_rank(image_id) < share for image_id in ids)
    selected = set(by_rank[: min(max(count, 1), len(ids) - 1)])
    trained = tuple(image_id for image_id in ids if image_id not in selected)
    return trained, tuple(image_id for image_id in ids if image_id in selected)


def _rank(image_id: str) -> float:
    """A hash in [0, 1), spread evenly over ids."""
    digest = hashlib.sha256(f"selection\t{image_id}".encode()).digest()
    return int.from_bytes(digest[:8], "big") / 2**64
