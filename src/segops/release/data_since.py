"""What changed in the data between two versions, from what the record holds of them."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import pandas as pd

from segops.report.html import percent
from segops.words import counted

SHOWN = 4
"""Most classes whose share is told."""


def words(
    old: Mapping[str, Any],
    new: Mapping[str, Any],
    counts: tuple[pd.DataFrame, pd.DataFrame] | None,
) -> str:
    """What changed, in one line.

    Args:
        old: The earlier version's verdict, as in ``data/verdict.json``.
        new: The later version's.
        counts: The tables of counts of both on their own val, the earlier version's first; None:
            the record lacks one. They name the images of val and count their true pixels.
    """
    return "; ".join(_parts(old, new, counts)) or "other files"


def _parts(
    old: Mapping[str, Any],
    new: Mapping[str, Any],
    counts: tuple[pd.DataFrame, pd.DataFrame] | None,
) -> Iterator[str]:
    before, after = (one.get("images") or {} for one in (old, new))
    for split in dict.fromkeys([*after, *before]):
        was, now = before.get(split, 0), after.get(split, 0)
        if was != now:
            yield f"{was} → {now} images in {split}"
    names = new.get("classes") or ()
    if old.get("classes") != names:
        yield "other classes"
    elif counts is not None:
        yield from _val(*counts, names)


def _val(before: pd.DataFrame, after: pd.DataFrame, names: Sequence[str]) -> Iterator[str]:
    old, new = (one.groupby("image_id")["image_sha256"].first() for one in (before, after))
    both = old.index.intersection(new.index)
    truth = [one.set_index(["image_id", "class_id"])["truth"] for one in (before, after)]
    differs = truth[1].sub(truth[0], fill_value=0) != 0
    labelled = both.intersection(differs[differs].index.get_level_values("image_id"))
    for number, what in (
        (len(new.index.difference(old.index)), "added"),
        (len(old.index.difference(new.index)), "removed"),
        (int((old[both] != new[both]).sum()), "with another photograph"),
        (len(labelled), "with other labels"),
    ):
        if number:
            yield f"{counted(number, 'image')} of val {what}"
    shares = [one.groupby("class_id").sum() / one.sum() for one in truth]
    change = shares[1].sub(shares[0], fill_value=0).abs().round(9)
    change = change.sort_values(ascending=False, kind="stable")
    told = [
        f"{names[int(label)]} {' → '.join(percent(one.get(label, 0.0)) for one in shares)}"
        for label in change[change > 0].index[:SHOWN]
    ]
    if told:
        yield f"true pixels of val: {', '.join(told)}"
