"""The selection split: what of train chooses the checkpoint instead of training the network."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence


def selection_split(ids: Sequence[str], share: float) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """Divide the ids of train by a stable hash of each.

    Whether an id is selected depends on that id and `share` alone: images that are added or removed
    move no other, and a larger share keeps all that a smaller one had. Two exceptions, which only
    sets of a few images meet: neither side of a division of two or more is empty (the id with the
    extreme hash stands in), and a single id is always trained on.

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
    count = sum(_rank(one) < share for one in ids)
    selected = set(by_rank[: min(max(count, 1), len(ids) - 1)])
    return (
        tuple(one for one in ids if one not in selected),
        tuple(one for one in ids if one in selected),
    )


def _rank(image_id: str) -> float:
    """A number in [0, 1) that is spread evenly over ids."""
    digest = hashlib.sha256(f"selection\t{image_id}".encode()).digest()
    return int.from_bytes(digest[:8], "big") / 2**64
