"""The rules that a data set must meet before a training."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import pandas as pd
from pydantic import Field

from segops.params.base import Sections
from segops.params.data import DataParams
from segops.params.validate import ValidateParams
from segops.quality.checks import DataCheck, Finding, Validation
from segops.quality.described import describe_images, describe_labels, labels_in
from segops.quality.misfit import legal_ids, misfit
from segops.quality.runner import Column, Expectation, ExpectationOutcome, evaluate, gxe, spelled
from segops.runtime.classes import VOID
from segops.voc.layout import ALL_SPLITS, LISTS, SPLITS
from segops.voc.mask_ids import UNNAMED
from segops.words import counted

Row = Mapping[Any, Any]
_TWINS = 3
"""Most images of another split that a finding names."""


@dataclass(frozen=True)
class Rule:
    """An expectation and its texts.

    Attributes:
        name: Short name, for a table.
        expected: What is expected, a sentence.
        action: What to do if it is not met, a sentence.
        expectation: The expectation that decides.
        explain: Function from the failing rows to findings.
        observed: Function from outcome and number of rows to the observation, a sentence.
        frame: Name of the frame to evaluate it on.
    """

    name: str
    expected: str
    action: str
    expectation: Expectation
    explain: Callable[[Sequence[Row]], list[Finding]]
    observed: Callable[[ExpectationOutcome, int], str]
    frame: str = "images"


class Bounds(Sections):
    """The parameters of the rules."""

    data: DataParams = DataParams()
    validate_: ValidateParams = Field(ValidateParams(), alias="validate")


def check(facts: pd.DataFrame, params: Bounds) -> Validation:
    """Check a facts table of :func:`segops.quality.facts.scan` against all rules.

    A rule that cannot be evaluated fails and is marked `errored`. Where the masks look like those
    of other classes, :func:`segops.quality.misfit.misfit` says so first, in place of the rules
    about classes.
    """
    images = describe_images(facts)
    labels = describe_labels(images, params.data.class_names)
    doubt = misfit(facts, params.data, params.validate_)
    rules = [
        *_count_rules(params.validate_),
        *_file_rules(),
        *(_label_rules(labels, params) if doubt is None else ()),
        *_split_rules(images),
    ]
    outcomes = evaluate(
        {
            "images": images,
            **{split: labels[labels["split"] == split] for split in ("train", "val")},
        },
        {rule.name: (rule.frame, rule.expectation) for rule in rules},
    )
    rows = {(row["image_id"], row["split"]): row for row in images.to_dict("records")}
    checks = [_check(rule, outcomes.get(rule.name), rows, len(images)) for rule in rules]
    return Validation(
        checks=(*(() if doubt is None else (doubt,)), *checks),
        images={
            split: int(count)
            for split in ALL_SPLITS
            if (count := (images["split"] == split).sum()) or split in SPLITS
        },
    )


def unreadable(root: Path, message: str) -> Validation:
    """Return the validation of a data set whose layout cannot be read.

    `message` is that of :func:`segops.voc.layout.open_layout`, a line per defect.
    """
    head, *lines = message.splitlines()
    findings = []
    for line in lines or [head]:
        file, _, words = line.strip().removeprefix(f"{root}/").partition(": ")
        findings.append(Finding(file, words) if words else Finding(".", line.strip()))
    return Validation(
        checks=(
            DataCheck(
                name="layout is VOC's",
                expected="JPEGImages, SegmentationClass and the lists ImageSets/Segmentation/"
                "train.txt and val.txt are there and can be read; no list repeats an id.",
                passed=False,
                observed="No image could be read.",
                action="Correct what is listed and validate again.",
                findings=tuple(findings),
            ),
        ),
        images=dict.fromkeys(SPLITS, 0),
    )


def _count_rules(bounds: ValidateParams) -> list[Rule]:
    return [
        Rule(
            name="data set not empty",
            expected="The lists name at least one image.",
            action=f"Fill {_list('train')} and {_list('val')}.",
            expectation=gxe.ExpectTableRowCountToBeBetween(min_value=1),
            explain=lambda _: [Finding(LISTS, "no list names any image")],
            observed=lambda outcome, _: f"{outcome.observed} listed.",
        ),
        _least("train", bounds.min_train_images),
        _least("val", bounds.min_val_images),
    ]


def _least(split: str, least: int) -> Rule:
    key = f"validate.min_{split}_images"
    return Rule(
        name=f"enough images in {split}",
        expected=f"{split} holds at least {counted(least, 'image')}.",
        action=f"Add images to {split}, or lower {key}.",
        expectation=gxe.ExpectTableRowCountToBeBetween(
            min_value=least, row_condition=Column("split") == split
        ),
        explain=lambda _: [
            Finding(_list(split), f"names fewer than {counted(least, 'image')} ({key})")
        ],
        observed=lambda outcome, _: f"{split} holds {counted(outcome.observed, 'image')}.",
    )


def _file_rules() -> list[Rule]:
    def missing(row: Row) -> list[Finding]:
        kinds = [kind for kind in ("image", "mask") if kind in row["missing"]]
        return [
            Finding(row[f"{kind}_path"], f"no such file; {row['split']} lists {row['image_id']}")
            for kind in kinds
        ]

    return [
        Rule(
            name="pairs complete",
            expected="Every listed image has its photograph and its mask.",
            action="Add the files, or remove the ids from the lists.",
            expectation=gxe.ExpectColumnValuesToBeNull(column="missing"),
            explain=_each(missing),
            observed=_share("lack a file"),
        ),
        _file_rule(
            "image",
            "have an unreadable image",
            lambda row: row["unreadable_image"],
            name="images readable",
            expected="Every image is a JPEG, PNG, TIFF or WebP that decodes to its last pixel.",
            action="Replace damaged files with intact copies; save images of other formats as PNG.",
            expectation=gxe.ExpectColumnValuesToBeNull(column="unreadable_image"),
        ),
        _file_rule(
            "mask",
            "have an unreadable mask",
            lambda row: row["unreadable_mask"],
            name="masks readable",
            expected="Every mask is a PNG that decodes to class ids.",
            action="Replace the files; a mask holds class ids, or the colours of VOC's palette.",
            expectation=gxe.ExpectColumnValuesToBeNull(column="unreadable_mask"),
        ),
        _file_rule(
            "mask",
            "have a mask of another size",
            lambda row: f"is {row['mask_size']} pixels, its image {row['size']}",
            name="sizes equal",
            expected="Every mask is as large as its image.",
            action="Make the mask again at the image's own size; resample with nearest neighbour.",
            expectation=gxe.ExpectColumnPairValuesToBeEqual(
                column_A="size", column_B="mask_size", ignore_row_if="either_value_is_missing"
            ),
        ),
        _file_rule(
            "image",
            "are rotated by EXIF",
            lambda row: f"has EXIF orientation {row['orientation']}, not 1",
            name="images upright",
            expected="No image is rotated by EXIF, which would not rotate its mask.",
            action="Save the image with rotated pixels and without the EXIF tag, and check that "
            "the mask matches.",
            expectation=gxe.ExpectColumnValuesToBeInSet(column="orientation", value_set=[1]),
        ),
    ]


def _label_rules(labels: pd.DataFrame, params: Bounds) -> list[Rule]:
    names = params.data.class_names
    bound = params.validate_.max_void_fraction
    legal = legal_ids(params.data)

    def illegal(row: Row) -> str:
        counts = dict(zip(row["label_ids"], row["label_pixels"], strict=True))
        bad = [label for label in labels_in(row["label_ids"]) if label >= len(names)]
        listed = ", ".join(
            f"id {label % UNNAMED} ({counted(counts[label], 'pixel')})" for label in bad
        )
        return f"holds {listed}; legal are {legal}, {VOID}"

    return [
        _file_rule(
            "mask",
            "have a mask with other ids",
            illegal,
            name="ids legal",
            expected=f"Masks hold ids {legal} and {VOID} (void) only.",
            action="Correct the masks, or name all their classes in data.classes; data.ignore "
            "makes ids void.",
            expectation=gxe.ExpectColumnValuesToBeBetween(
                column="highest_label", min_value=0, max_value=len(names) - 1
            ),
        ),
        _file_rule(
            "mask",
            "have too much void",
            lambda row: f"is void on {row['void_fraction']:.1%} of its area",
            name="void within bounds",
            expected=f"At most {bound:.0%} of a mask is void (id {VOID}).",
            action="Label the images, remove them from the lists, or raise "
            "validate.max_void_fraction.",
            expectation=gxe.ExpectColumnValuesToBeBetween(
                column="void_fraction", min_value=0, max_value=bound
            ),
        ),
        *(_required_rule(labels, params, split) for split in ("train", "val")),
    ]


def _required_rule(labels: pd.DataFrame, params: Bounds, split: str) -> Rule:
    names = params.data.class_names
    required = params.validate_.required(names)
    other = "val" if split == "train" else "train"
    masks = {name: rows.groupby("class").size().to_dict() for name, rows in labels.groupby("split")}
    absent = [name for name in required if name not in masks.get(split, {})]
    return Rule(
        name=f"required classes in {split}",
        expected=f"Every required class ({len(required)} of {len(names)}) occurs in a mask of "
        f"{split}.",
        action=f"Add images of the absent classes to {split}, or remove the classes from "
        "validate.required_classes.",
        expectation=gxe.ExpectColumnDistinctValuesToContainSet(
            column="class", value_set=list(required)
        ),
        explain=lambda _: [
            Finding(
                _list(split),
                f"no mask holds {name} (id {names.index(name)}); "
                f"{other} has {counted(masks.get(other, {}).get(name, 0), 'mask')} with it",
            )
            for name in absent
        ],
        observed=lambda _outcome, _rows: f"{len(required) - len(absent)} of {len(required)} occur.",
        frame=split,
    )


def _split_rules(images: pd.DataFrame) -> list[Rule]:
    listed = images.groupby("image_id")["split"].agg(list).to_dict()
    doubtful = images[images["in_two_splits"]].sort_values("image_path")
    twins = doubtful.groupby(["content", "split"])[["image_path", "image_sha256"]].agg(list)

    def repeated(row: Row) -> list[Finding]:
        where = listed[row["image_id"]]
        others = ", ".join(_list(split) for split in dict.fromkeys(where) if split != where[0])
        message = f"{row['image_id']} is also in {others}"
        if not others:
            message = f"{row['image_id']} is listed {len(where)} times"
        return [Finding(_list(where[0]), message)]

    def leaked(row: Row) -> str:
        others, count, hashes = list[str](), 0, set[str]()
        for split, paths, sha256 in twins.loc[row["content"]].itertuples(name=None):
            if split != row["split"]:
                others += [f"{path} in {split}" for path in paths[:_TWINS]]
                count += len(paths) - len(paths[:_TWINS])
                hashes |= {*sha256[:_TWINS]}
        same_file = hashes == {row["image_sha256"]}
        relation = "is the same file as" if same_file else "has the same pixels as"
        more = f" and {count} more" if count else ""
        return f"in {row['split']} {relation} {', '.join(others)}{more}"

    return [
        Rule(
            name="ids listed once",
            expected="No image id is listed twice, in one list or in several.",
            action="Remove the repeated ids from a list.",
            expectation=gxe.ExpectColumnValuesToBeUnique(column="image_id"),
            explain=_each(repeated),
            observed=_share("repeat an id"),
        ),
        _file_rule(
            "image",
            "are in two splits",
            leaked,
            name="splits apart",
            expected="No image is in two splits under two ids (compared by pixels).",
            action="Remove the image from one of the lists: it would raise the score.",
            expectation=gxe.ExpectColumnValuesToBeInSet(column="in_two_splits", value_set=[False]),
        ),
    ]


def _check(
    rule: Rule, outcome: ExpectationOutcome | None, rows: Mapping[tuple[str, str], Row], total: int
) -> DataCheck:
    stated = partial(DataCheck, rule.name, rule.expected, expectation=spelled(rule.expectation))
    if outcome is None or outcome.error is not None:
        reason = "no result came back" if outcome is None else outcome.error
        return stated(
            passed=False,
            observed=f"It could not be evaluated: {reason}",
            action="This says nothing about the data; report it as a defect of the check.",
            errored=True,
        )
    findings = [] if outcome.success else rule.explain([rows[key] for key in outcome.rows])
    return stated(
        passed=outcome.success,
        observed=rule.observed(outcome, total),
        action=rule.action,
        findings=tuple(dict.fromkeys(findings)),
        rows=outcome.rows,
    )


def _file_rule(kind: str, failing: str, message: Callable[[Row], str], **texts: Any) -> Rule:
    """A rule about every image, or every mask: what failing ones do, and the finding on each."""

    def explain(row: Row) -> list[Finding]:
        return [Finding(row[f"{kind}_path"], message(row))]

    return Rule(explain=_each(explain), observed=_share(failing), **texts)


def _each(explain: Callable[[Row], list[Finding]]) -> Callable[[Sequence[Row]], list[Finding]]:
    return lambda rows: [finding for row in rows for finding in explain(row)]


def _share(failing: str) -> Callable[[ExpectationOutcome, int], str]:
    return lambda outcome, total: f"{len(outcome.rows)} of {total} {failing}."


def _list(split: str) -> str:
    return f"{LISTS}/{split}.txt"
