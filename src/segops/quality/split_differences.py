"""Compares sizes and colours of the images of splits by an effect size that is made of ranks."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray
from scipy.stats import rankdata

from segops.quality.checks import Notice
from segops.voc.layout import TRAIN

LARGE = 0.71
"""Probability of superiority from which on two splits differ: "large" (Vargha and Delaney 2000)."""
ERRORS = 4
"""The difference must be as many standard errors, too, so that small splits stay silent."""

Values = NDArray[np.float64]


def differences(facts: pd.DataFrame, splits: Sequence[str]) -> list[Notice]:
    """Return the warnings about splits whose images differ from train's in size or colour.

    Args:
        facts: A facts table of :func:`segops.quality.facts.scan`.
        splits: The splits that hold images.
    """
    features: dict[str, tuple[str, Callable[[pd.DataFrame], Values]]] = {
        "larger": ("sizes", lambda rows: _numbers(rows["width"]) * _numbers(rows["height"])),
        "wider": ("sizes", lambda rows: _numbers(rows["width"]) / _numbers(rows["height"])),
        "brighter": ("colours", lambda rows: _bands(rows["band_means"]).mean(axis=1)),
        "richer in contrast": (
            "colours",
            lambda rows: _bands(rows["band_deviations"]).mean(axis=1),
        ),
        "redder": ("colours", lambda rows: _tint(rows, 0)),
        "greener": ("colours", lambda rows: _tint(rows, 1)),
        "bluer": ("colours", lambda rows: _tint(rows, 2)),
    }
    said = defaultdict(list)
    for words, (kind, feature) in features.items():
        values = {split: feature(facts[facts["split"] == split]) for split in splits}
        for split in splits:
            if split == TRAIN or TRAIN not in values:
                continue
            share = superiority(values[split], values[TRAIN])
            if share is None or 1 - LARGE <= share <= LARGE:
                continue
            one, other = (split, TRAIN) if share > 0.5 else (TRAIN, split)
            pairs = f"{max(share, 1 - share):.0%} of the pairs"
            said[kind].append(f"In {pairs} the image of {one} is {words} than that of {other}.")
    return [
        Notice(
            name=f"{kind} differ between splits",
            found=" ".join(sentences),
            parameter="augment.scale" if kind == "sizes" else "augment.color_jitter",
            action="Draw the splits at random (`segops data import --share`); if they differ on "
            "purpose, more augmentation widens what train shows.",
        )
        for kind, sentences in said.items()
    ]


def superiority(one: Values, two: Values) -> float | None:
    """Return the share of pairs in which the value of `one` is greater; ties count half.

    It depends on ranks alone, so that no outlier decides, and does not grow with the number of
    values (McGraw and Wong 1992; the A of Vargha and Delaney 2000).

    Returns:
        0 to 1; 0.5 where it is less than :data:`ERRORS` standard errors from that; None where a
        side has no finite value.
    """
    one, two = one[np.isfinite(one)], two[np.isfinite(two)]
    n, m = len(one), len(two)
    if not n or not m:
        return None
    ranks = rankdata(np.concatenate([one, two]))
    share = float((ranks[:n].sum() - n * (n + 1) / 2) / (n * m))
    error = float(np.sqrt((n + m + 1) / (12 * n * m)))
    return share if abs(share - 0.5) > ERRORS * error else 0.5


def _numbers(column: pd.Series[Any]) -> Values:
    return column.to_numpy(dtype=np.float64, na_value=np.nan)


def _bands(column: pd.Series[Any]) -> Values:
    """The first three bands (N, 3); NaN where unknown, grey is three times the same."""
    rows = [
        [np.nan] * 3
        if cell is None or not len(cell)
        else [cell[min(i, len(cell) - 1)] for i in range(3)]
        for cell in column
    ]
    return np.asarray(rows, dtype=np.float64).reshape(-1, 3)


def _tint(rows: pd.DataFrame, band: int) -> Values:
    """The share of a band in an image's colour, 0..1."""
    bands = _bands(rows["band_means"])
    return np.asarray(bands[:, band] / np.maximum(bands.sum(axis=1), 1e-9))
