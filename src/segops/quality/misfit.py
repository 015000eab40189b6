"""Says where the ids in the masks do not look like those of the classes that are named."""

from __future__ import annotations

from collections.abc import Iterable
from itertools import groupby
from shlex import quote

import numpy as np
import pandas as pd

from segops.params.data import DataParams
from segops.params.validate import ValidateParams
from segops.quality.checks import DataCheck, Finding
from segops.runtime.classes import VOC_CLASSES, VOID
from segops.voc.layout import ALL_SPLITS, LISTS
from segops.voc.mask_ids import UNNAMED
from segops.words import counted

NAME = "masks are of these classes"
MOST = 0.5
"""Share of the masks from which on they are others than the parameters say, and not single files
defective. Of VOC 2012's, none looks binary."""
BORDER = 0.1
"""Share of a mask that void around objects covers at most, as a mean."""
TIMES = 3
"""So many times the void of masks that hold classes is more than a border, too."""
GAPS = 0.2
"""Share of the ids below the highest that may not occur in masks of other classes than VOC's."""


def misfit(facts: pd.DataFrame, data: DataParams, validate: ValidateParams) -> DataCheck | None:
    """Return a failed check where the masks are of other classes; None where they look right.

    While it fails, advice about single classes would be wrong.

    Args:
        facts: The facts table.
        data: The classes, and their ids.
        validate: The classes that must occur.
    """
    known = facts.dropna(subset=["label_ids"])
    held = [frozenset(map(int, ids)) for ids in known["label_ids"]]
    names = data.class_names
    if not data.reading.mask_ids.lines and (split := _binary_split(known, held)) is not None:
        own = [ids for ids, one in zip(held, known["split"], strict=True) if one == split]
        return _binary(split, own, data)
    if names == VOC_CLASSES and not data.reading.mask_ids.lines:
        ids = frozenset().union(*held) - {VOID}
        number = max(ids, default=0) + 1
        required = {names.index(name) for name in validate.required(names)}
        is_start = 1 < number < len(names) and number - len(ids) <= GAPS * number
        is_meant = required and required <= ids
        if is_start and not is_meant:
            return _check(
                f"The masks hold ids {spans(ids)} and no other: these do not look like VOC's "
                f"classes, which data.classes names, 0 to {len(names) - 1}.",
                f"Set data.classes to the names of ids 0 to {number - 1}, in this order; ids that "
                "are no class belong in data.ignore. If they are VOC's first classes, list those "
                "in validate.required_classes.",
            )
    strange = {
        path: unnamed
        for path, ids in zip(known["mask_path"], held, strict=True)
        if (unnamed := _unnamed(ids, len(names)))
    }
    if strange and len(strange) >= MOST * len(held):
        whose = "VOC's classes have" if names == VOC_CLASSES else "data.classes has"
        return _check(
            f"{len(strange)} of {counted(len(held), 'mask')} hold ids of no class: "
            f"{spans(frozenset().union(*strange.values()))}; {whose} "
            f"{legal_ids(data)}.",
            "Set data.classes to the names in the order of the ids, or give classes their ids, as "
            "in `{name: road, ids: [7, 8]}`; ids that are no class belong in data.ignore.",
            [Finding(path, f"holds ids {spans(ids)}") for path, ids in strange.items()],
        )
    return None


def legal_ids(data: DataParams) -> str:
    """The ids that a mask may hold beside 255, in words."""
    table = data.reading.mask_ids.table
    return spans(
        one for one in range(VOID) if table[one] < len(data.class_names) or table[one] == VOID
    )


def spans(ids: Iterable[int]) -> str:
    """Ids in words: `0 to 11, 19`."""
    runs = groupby(enumerate(sorted(ids)), key=lambda pair: pair[1] - pair[0])
    ends = [[one for _, one in run] for _, run in runs]
    return ", ".join(
        f"{run[0]} to {run[-1]}" if len(run) > 2 else ", ".join(map(str, run)) for run in ends
    )


def _unnamed(ids: Iterable[int], classes: int) -> list[int]:
    """The ids, as they stand in the file, that are neither a class nor void."""
    return [one % UNNAMED for one in ids if one >= classes and one != VOID]


def _is_binary(ids: frozenset[int]) -> bool:
    return VOID in ids and ids <= {0, VOID}


def _binary_split(known: pd.DataFrame, held: list[frozenset[int]]) -> str | None:
    """The first split whose masks look binary, judged by the masks of all splits.

    Where masks with other ids than 0 hold void too, a mask of 0 and 255 is one without objects:
    then all masks of a split must be so, with more void than goes around objects.
    """
    void = known["void_fraction"].to_numpy(float)
    real = np.array([bool(ids - {0, VOID}) for ids in held], bool)
    binary = np.array([_is_binary(ids) for ids in held], bool)
    has_void = any(VOID in ids for ids in held if ids - {0, VOID})
    for split in ALL_SPLITS:
        own = (known["split"] == split).to_numpy()
        if not (own & binary).any():
            continue
        if has_void:
            most = max(BORDER, TIMES * void[real].mean())
            found = not (own & real).any() and void[own & binary].mean() > most
        else:
            found = not (own & real).any() or (own & binary).sum() >= MOST * own.sum()
        if found:
            return split
    return None


def _binary(split: str, held: list[frozenset[int]], data: DataParams) -> DataCheck:
    names = data.class_names
    if len(names) != 2 or set(",=") & set("".join(names)):
        names = ("background", "foreground")
    elif data.drawn.background == 1:
        names = names[::-1]
    number = sum(map(_is_binary, held))
    return _check(
        f"{number} of {counted(len(held), 'mask')} of {split} hold 0 and {VOID} alone: these look "
        f"like binary masks, but {VOID} means void here and trains nothing.",
        f"`segops data import folder {quote(data.path)} --values "
        f"{quote(f'0={names[0]},255={names[1]}')} --lists {quote(f'{data.path}/{LISTS}')}` makes "
        "a class of it.",
    )


def _check(observed: str, action: str, findings: Iterable[Finding] = ()) -> DataCheck:
    return DataCheck(
        name=NAME,
        expected="The masks hold ids of the classes that data.classes names.",
        passed=False,
        observed=observed,
        action=f"{action} Checks of single classes wait until then.",
        findings=tuple(findings),
    )
