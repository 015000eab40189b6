"""What a data set that may be trained on should still be looked at for; no warning fails."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import numpy as np
import pandas as pd

from segops.quality.checks import Notice
from segops.quality.split_differences import differences
from segops.runtime.classes import VOID
from segops.voc.layout import ALL_SPLITS, LISTS, TRAIN, VAL
from segops.words import counted

RARE_PIXELS = 0.001
"""A class with a smaller share of train's labelled pixels is rare."""
RARE_IMAGES = 0.01
"""A class in a smaller share of train's images is rare: a batch of 8 holds it once in 12 steps."""
FEW = 5
"""Fewest images of val that judge a class. Of the resamples of the bootstrap a share of e^-k lacks
a class that k images hold: 0.7 % for 5, and 13 % for 2."""
EMPTY = 0.2
"""A larger share of masks without anything but background is told."""
THIN_IDS = 4
"""A mask with as many ids that are nothing but outlines looks like a soft one."""
THIN = 0.9
"""Share of an id's pixels that lie at its border, from which on it is an outline."""
TOGETHER = 10
"""Fewest images that two classes share before it is told that they never come apart."""
EVERYWHERE = 0.95
"""A class in a larger share of the images cannot come apart from another such class."""
LOOSE, LEAST_LOOSE = 0.1, 100
"""Share of a class's border pixels that are loose, and their number, from which on its borders are
noisy. The hand-drawn masks of PASCAL VOC have 0.3 to 5 %."""
MOST = 10
"""How many names a sentence lists."""


@dataclass(frozen=True)
class _Data:
    """What the warnings are made from.

    Attributes:
        facts: The facts table.
        labels: A row per image and class in its mask: image_id, split, name, pixels, border, loose.
        names: Names of the classes in id order.
        background: Name of the background, or None.
        splits: The splits that hold images.
    """

    facts: pd.DataFrame
    labels: pd.DataFrame
    names: tuple[str, ...]
    background: str | None
    splits: tuple[str, ...]

    def images(self, split: str) -> dict[str, int]:
        """Class -> number of images of a split that hold it, in id order."""
        found = self.labels[self.labels["split"] == split].groupby("name").size().to_dict()
        return {name: int(found[name]) for name in self.names if name in found}

    def of(self, split: str) -> pd.DataFrame:
        """The facts of a split."""
        return self.facts[self.facts["split"] == split]


def warnings(
    facts: pd.DataFrame,
    class_names: Sequence[str],
    background: str | None = None,
    unlabelled: Sequence[str] = (),
) -> tuple[Notice, ...]:
    """Return the warnings about a data set.

    Args:
        facts: A facts table of :func:`segops.quality.facts.scan`.
        class_names: Names of the classes in id order.
        background: The class that is no object; None: there is none.
        unlabelled: See :meth:`segops.voc.layout.Layout.unlabelled`.
    """
    names = tuple(class_names)
    splits = tuple(one for one in ALL_SPLITS if (facts["split"] == one).any())
    data = _Data(facts, _labels(facts, names), names, background, splits)
    found: list[Notice | None] = [
        _left_out(unlabelled),
        _untrained(data),
        _unscored(data),
        _few(data),
        _rare(data),
        *(_empty(data, split) for split in splits),
        _void(data),
        _soft(data),
        _together(data),
        _noisy(data),
        _dropped(facts),
        *differences(facts, splits),
    ]
    return tuple(one for one in found if one is not None)


def _labels(facts: pd.DataFrame, names: Sequence[str]) -> pd.DataFrame:
    columns = ["label_ids", "label_pixels", "label_border", "label_loose"]
    known = facts[["image_id", "split", *columns]].dropna(subset=columns)
    rows = known.explode(columns).astype(dict.fromkeys(columns, "int64"))
    rows = rows[rows["label_ids"] < len(names)]
    rows["name"] = [names[label] for label in rows["label_ids"]]
    return rows.rename(columns={column: column.removeprefix("label_") for column in columns})


def _dropped(facts: pd.DataFrame) -> Notice | None:
    """The warning about images read as RGB whose fourth band is more than one value."""
    four = facts[facts["mode"] == "RGBA"].dropna(subset=["band_deviations"])
    varying = [one for one, all_ in zip(four["image_id"], four["band_deviations"], strict=True)
               if all_[3] > 0]  # fmt: skip
    if not varying:
        return None
    return Notice(
        name="a fourth band is not read",
        found=f"The fourth band of {counted(len(varying), 'image')} is left out: "
        f"{_listed(varying)}.",
        parameter="data.channels",
        action="Set it to 4 where the fourth band holds data; transparency is not needed.",
    )


def _left_out(without: Sequence[str]) -> Notice | None:
    if not without:
        return None
    return Notice(
        name="test without masks",
        found=f"test is left out: {counted(len(without), 'image')} of its list without a mask: "
        f"{_listed(without)}. A test split is scored whole or not at all.",
        parameter=f"{LISTS}/test.txt",
        action="Give each image of test a mask, or remove those without one from the list.",
    )


def _untrained(data: _Data) -> Notice | None:
    train, judging = data.images(TRAIN), [one for one in data.splits if one != TRAIN]
    absent = {
        split: [name for name in data.images(split) if name not in train] for split in judging
    }
    said = [f"{split} holds {_listed(names)}" for split, names in absent.items() if names]
    if not said:
        return None
    return Notice(
        name="classes that train lacks",
        found=f"{'; '.join(said)}: no mask of train does. Their IoU can only be 0, and it counts "
        "in mIoU.",
        parameter="validate.required_classes",
        action="Add images of them to train, or remove them from the other lists.",
    )


def _unscored(data: _Data) -> Notice | None:
    val = data.images(VAL)
    absent = [name for name in data.images(TRAIN) if name not in val]
    if not absent or VAL not in data.splits:
        return None
    return Notice(
        name="classes that val lacks",
        found=f"train holds {_listed(absent)}: no mask of val does, so they are not scored.",
        parameter="validate.required_classes",
        action="Add images of them to val. A required class must be in both.",
    )


def _few(data: _Data) -> Notice | None:
    few = {name: count for name, count in data.images(VAL).items() if count < FEW}
    if not few:
        return None
    listed = _listed([f"{name} ({count})" for name, count in few.items()])
    return Notice(
        name="val cannot judge a class",
        found=f"Fewer than {FEW} images of val hold {listed}: their IoU hangs on these images.",
        parameter="validate.min_val_images",
        action="Add images of them to val, and set no gate.min_class_iou for them.",
    )


def _rare(data: _Data) -> Notice | None:
    train = data.labels[data.labels["split"] == TRAIN]
    total, images = int(train["pixels"].sum()), len(data.of(TRAIN))
    pixels, held = train.groupby("name")["pixels"].sum().to_dict(), data.images(TRAIN)
    rare = [
        name
        for name, count in held.items()
        if pixels[name] < RARE_PIXELS * total or count < RARE_IMAGES * images
    ]
    if not rare:
        return None
    listed = _listed(
        f"{name} ({100 * pixels[name] / total:.2g}% of the pixels, {counted(held[name], 'image')})"
        for name in rare
    )
    return Notice(
        name="imbalance",
        found=f"Rare among train's {images} images: {listed}.",
        parameter="train.sampling, train.class_weights, gate.min_class_iou",
        action="Set train.sampling: rare_first, or train.class_weights: median_frequency; "
        f"gate.min_class_iou: {{{rare[0]}: 0.3}} refuses a model that gives a class up.",
    )


def _empty(data: _Data, split: str) -> Notice | None:
    if data.background is None:
        return None
    held = data.labels[data.labels["split"] == split].groupby("image_id")["name"].agg(set)
    empty = sum(one == {data.background} for one in held)
    if empty <= EMPTY * len(data.of(split)):
        return None
    return Notice(
        name=f"empty masks in {split}",
        found=f"{empty} of {counted(len(data.of(split)), 'mask')} of {split} hold "
        f"{data.background} alone.",
        parameter="train.sampling",
        action="Check that these images were labelled. If they were, train.sampling: rare_first "
        "draws images with objects more often.",
    )


def _void(data: _Data) -> Notice | None:
    void = [
        (image_id, split)
        for image_id, split, ids in data.facts[["image_id", "split", "label_ids"]].itertuples(
            index=False, name=None
        )
        if ids is not None and list(ids) == [VOID]
    ]
    if not void:
        return None
    return Notice(
        name="masks of void alone",
        found=f"{counted(len(void), 'mask')} without a labelled pixel: "
        f"{_listed([f'{image_id} in {split}' for image_id, split in void])}. They count in no loss "
        "and no metric.",
        parameter="validate.max_void_fraction",
        action="Label the images or remove them from the lists; a lower max_void_fraction refuses "
        "them.",
    )


def _soft(data: _Data) -> Notice | None:
    soft, between = [], 0
    columns = ["image_id", "label_ids", "label_pixels", "label_border"]
    for image_id, *cells in data.facts[columns].dropna().itertuples(index=False, name=None):
        ids, pixels, border = (np.asarray(cell, dtype=np.int64) for cell in cells)
        thin = (border >= THIN * pixels) & (ids != VOID)
        if thin.sum() >= THIN_IDS and 2 * thin.sum() >= (ids != VOID).sum():
            soft.append(image_id)
            solid = ids[~thin]
            between += bool(solid.size and solid.min() < ids[thin].min() < solid.max())
    if not soft:
        return None
    ramp = " The values lie between those of two areas." if 2 * between > len(soft) else ""
    return Notice(
        name="soft masks",
        found=f"{counted(len(soft), 'mask')} with {THIN_IDS} or more values that are nothing but "
        f"thin outlines, as smoothed edges have: {_listed(soft)}.{ramp}",
        parameter="",
        action="Export the masks without smoothing, as PNG, and resample them with nearest "
        "neighbour; `segops data import folder --threshold` cuts masks of two classes.",
    )


def _together(data: _Data) -> Notice | None:
    images = data.labels["image_id"].nunique()
    held = data.labels[data.labels["name"] != data.background].groupby("name")["image_id"].agg(set)
    groups = defaultdict(list)
    for name in data.names:
        if name in held and TOGETHER <= len(held[name]) <= EVERYWHERE * images:
            groups[frozenset(held[name])].append(name)
    said = [
        f"{' and '.join(names)} ({counted(len(where), 'image')})"
        for where, names in groups.items()
        if len(names) > 1
    ]
    if not said:
        return None
    return Notice(
        name="classes never apart",
        found=f"Always in the same images: {_listed(said, '; ')}. No image shows that one is there "
        "without the other.",
        parameter="data.classes",
        action="Add images that hold one of them, or make them one class "
        "(`segops data import --merge`).",
    )


def _noisy(data: _Data) -> Notice | None:
    border, loose = (
        data.labels.groupby("name")[column].sum().to_dict() for column in ("border", "loose")
    )
    noisy = {
        name: loose[name] / border[name]
        for name in data.names
        if name in border and loose[name] >= max(LEAST_LOOSE, LOOSE * border[name])
    }
    if not noisy:
        return None
    listed = _listed([f"{name} ({share:.0%})" for name, share in noisy.items()])
    return Notice(
        name="label noise at borders",
        found=f"Border pixels with no more than one neighbour of their class: {listed}. Drawn "
        "outlines have under 5%.",
        parameter="",
        action="Look at these masks: they may be resampled, compressed with loss or predicted. "
        "Make them again, or set the specks to void (255).",
    )


def _listed(names: Iterable[str], between: str = ", ") -> str:
    names = list(names)
    rest = f" and {len(names) - MOST} more" if len(names) > MOST else ""
    return between.join(names[:MOST]) + rest
