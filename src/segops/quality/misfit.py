"""Says where the ids in the masks do not look like those of the classes that are named."""

from __future__ import annotations

from collections.abc import Iterable
from itertools import groupby
from shlex import quote

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
    splits = known["split"].tolist()
    names = data.class_names
    for split in ALL_SPLITS if not data.reading.mask_ids.lines else ():
        own = [ids for ids, one in zip(held, splits, strict=True) if one == split]
        if _are_binary(own):
            return _binary(split, own, data)
    if names == VOC_CLASSES and not data.reading.mask_ids.lines:
        ids = frozenset().union(*held) - {VOID}
        number = max(ids, default=0) + 1
        required = {names.index(name) for name in validate.required(names)}
        is_start = 1 < number < len(names) and number - len(ids) <= GAPS * number
        if is_start and required - ids:
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


def _are_binary(held: list[frozenset[int]]) -> bool:
    binary = [ids for ids in held if VOID in ids and ids <= {0, VOID}]
    alone = all(ids <= {0, VOID} for ids in held)
    return bool(binary) and (alone or len(binary) >= MOST * len(held))


def _binary(split: str, held: list[frozenset[int]], data: DataParams) -> DataCheck:
    names = data.class_names
    if len(names) != 2 or set(",=") & set("".join(names)):
        names = ("background", "foreground")
    number = sum(VOID in ids and ids <= {0, VOID} for ids in held)
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
