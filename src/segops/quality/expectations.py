"""The rules that a data set must meet before a training."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pandas as pd
from pydantic import Field

from segops.params.base import Sections
from segops.params.data import DataParams
from segops.params.validate import ValidateParams
from segops.quality.checks import DataCheck, Finding, Validation
from segops.quality.frames import describe_images, describe_labels, labels_in
from segops.quality.runner import Column, Expectation, ExpectationOutcome, evaluate, gxe, spelled
from segops.runtime.classes import VOID
from segops.voc.layout import LISTS, SPLITS
from segops.words import counted

Row = Mapping[str, Any]


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
    """DataCheck a facts table against all rules.

    Args:
        facts: As :func:`segops.quality.facts.scan` returns it.
        params: Classes and bounds.

    Returns:
        A check for each rule. A rule that cannot be evaluated fails and is marked `errored`.
    """
    images = describe_images(facts)
    labels = describe_labels(images, params.data.class_names)
    rules = rules_for(images, labels, params)
    outcomes = evaluate(
        {"images": images, "labels": labels[labels["split"] == "train"]},
        {rule.name: (rule.frame, rule.expectation) for rule in rules},
    )
    records: list[Row] = [
        {str(column): value for column, value in row.items()} for row in images.to_dict("records")
    ]
    rows = {(row["image_id"], row["split"]): row for row in records}
    return Validation(
        checks=tuple(_check(rule, outcomes.get(rule.name), rows, len(images)) for rule in rules),
        images={split: int((images["split"] == split).sum()) for split in SPLITS},
    )


def unreadable(root: Path, message: str) -> Validation:
    """Return the validation of a data set whose layout cannot be read.

    Args:
        root: The data set's directory.
        message: The message of :func:`segops.voc.layout.open_layout`, a line per defect.
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


def rules_for(images: pd.DataFrame, labels: pd.DataFrame, params: Bounds) -> list[Rule]:
    """Return the rules, in reading order."""
    return [
        *_count_rules(params),
        *_file_rules(),
        *_label_rules(images, labels, params),
        *_split_rules(images),
    ]


def _count_rules(params: Bounds) -> list[Rule]:
    bounds = params.validate_
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
            expected="Every listed image has its JPEG and its mask.",
            action="Add the files, or remove the ids from the lists.",
            expectation=gxe.ExpectColumnValuesToBeNull(column="missing"),
            explain=_each(missing),
            observed=_share("lack a file"),
        ),
        Rule(
            name="images readable",
            expected="Every image is a JPEG that decodes to its last pixel.",
            action="Replace damaged files with intact copies; save images of other formats as "
            "JPEG.",
            expectation=gxe.ExpectColumnValuesToBeNull(column="unreadable_image"),
            explain=_each(lambda row: [Finding(row["image_path"], row["unreadable_image"])]),
            observed=_share("have an unreadable image"),
        ),
        Rule(
            name="masks readable",
            expected="Every mask is a PNG that decodes to class ids.",
            action="Replace the files; a mask holds class ids, or the colours of VOC's palette.",
            expectation=gxe.ExpectColumnValuesToBeNull(column="unreadable_mask"),
            explain=_each(lambda row: [Finding(row["mask_path"], row["unreadable_mask"])]),
            observed=_share("have an unreadable mask"),
        ),
        Rule(
            name="sizes equal",
            expected="Every mask is as large as its image.",
            action="Make the mask again at the image's own size; resample with nearest neighbour.",
            expectation=gxe.ExpectColumnPairValuesToBeEqual(
                column_A="size", column_B="mask_size", ignore_row_if="either_value_is_missing"
            ),
            explain=_each(
                lambda row: [
                    Finding(
                        row["mask_path"],
                        f"is {row['mask_size']} pixels, its image {row['size']}",
                    )
                ]
            ),
            observed=_share("have a mask of another size"),
        ),
        Rule(
            name="images upright",
            expected="No image is rotated by EXIF, which would not rotate its mask.",
            action="Save the image with rotated pixels and without the EXIF tag, and check that "
            "the mask matches.",
            expectation=gxe.ExpectColumnValuesToBeInSet(column="orientation", value_set=[1]),
            explain=_each(
                lambda row: [
                    Finding(row["image_path"], f"has EXIF orientation {row['orientation']}, not 1")
                ]
            ),
            observed=_share("are rotated by EXIF"),
        ),
    ]


def _label_rules(images: pd.DataFrame, labels: pd.DataFrame, params: Bounds) -> list[Rule]:
    names = params.data.class_names
    required = params.validate_.required(names)
    bound = params.validate_.max_void_fraction
    present = labels.groupby("split")["class"].agg(set).to_dict()
    in_val = labels[labels["split"] == "val"].groupby("class").size().to_dict()
    absent = [name for name in required if name not in present.get("train", set())]

    def illegal(row: Row) -> list[Finding]:
        counts = dict(zip(row["label_ids"], row["label_pixels"], strict=True))
        bad = [label for label in labels_in(row["label_ids"]) if label >= len(names)]
        listed = ", ".join(f"id {label} ({counted(counts[label], 'pixel')})" for label in bad)
        return [
            Finding(row["mask_path"], f"holds {listed}; legal are 0 to {len(names) - 1}, {VOID}")
        ]

    return [
        Rule(
            name="ids legal",
            expected=f"Masks hold ids 0 to {len(names) - 1} and {VOID} (void) only.",
            action="Correct the masks, or name all their classes in data.classes.",
            expectation=gxe.ExpectColumnValuesToBeBetween(
                column="highest_label", min_value=0, max_value=len(names) - 1
            ),
            explain=_each(illegal),
            observed=_share("have a mask with other ids"),
        ),
        Rule(
            name="void within bounds",
            expected=f"At most {bound:.0%} of a mask is void (id {VOID}).",
            action="Label the images, remove them from the lists, or raise "
            "validate.max_void_fraction.",
            expectation=gxe.ExpectColumnValuesToBeBetween(
                column="void_fraction", min_value=0, max_value=bound
            ),
            explain=_each(
                lambda row: [
                    Finding(row["mask_path"], f"is void on {row['void_fraction']:.1%} of its area")
                ]
            ),
            observed=_share("have too much void"),
        ),
        Rule(
            name="required classes in train",
            expected=f"Every required class ({len(required)} of {len(names)}) occurs in a mask of "
            "train.",
            action="Add images of the absent classes to train, or remove the classes from "
            "validate.required_classes.",
            expectation=gxe.ExpectColumnDistinctValuesToContainSet(
                column="class", value_set=list(required)
            ),
            explain=lambda _: [
                Finding(
                    _list("train"),
                    f"no mask holds {name} (id {names.index(name)}); "
                    f"val has {counted(in_val.get(name, 0), 'mask')} with it",
                )
                for name in absent
            ],
            observed=lambda _outcome, _rows: (
                f"{len(required) - len(absent)} of {len(required)} occur."
            ),
            frame="labels",
        ),
    ]


def _split_rules(images: pd.DataFrame) -> list[Rule]:
    listed = images.groupby("image_id")["split"].agg(list).to_dict()
    twins = images.groupby("image_sha256")[["image_path", "split"]].agg(list).to_dict("index")

    def repeated(row: Row) -> list[Finding]:
        where = listed[row["image_id"]]
        message = f"{row['image_id']} is also in {_list('val')}"
        if len(set(where)) == 1:
            message = f"{row['image_id']} is listed {len(where)} times"
        return [Finding(_list("train" if "train" in where else "val"), message)]

    def leaked(row: Row) -> list[Finding]:
        twin = twins[row["image_sha256"]]
        others = sorted(
            {
                f"{path} in {split}"
                for path, split in zip(twin["image_path"], twin["split"], strict=True)
                if split != row["split"]
            }
        )
        return [
            Finding(row["image_path"], f"in {row['split']} is the same file as {', '.join(others)}")
        ]

    return [
        Rule(
            name="ids listed once",
            expected="No image id is listed twice, in one list or in both.",
            action="Remove the repeated ids from a list.",
            expectation=gxe.ExpectColumnValuesToBeUnique(column="image_id"),
            explain=_each(repeated),
            observed=_share("repeat an id"),
        ),
        Rule(
            name="train and val apart",
            expected="No image is in train and in val under two ids (compared by SHA-256).",
            action="Remove the image from one of the lists: it would raise the score on val.",
            expectation=gxe.ExpectColumnValuesToBeInSet(column="in_both_splits", value_set=[False]),
            explain=_each(leaked),
            observed=_share("are in both"),
        ),
    ]


def _check(
    rule: Rule, outcome: ExpectationOutcome | None, rows: Mapping[tuple[str, str], Row], total: int
) -> DataCheck:
    if outcome is None or outcome.error is not None:
        reason = "no result came back" if outcome is None else outcome.error
        return DataCheck(
            name=rule.name,
            expected=rule.expected,
            passed=False,
            observed=f"It could not be evaluated: {reason}",
            action="This says nothing about the data; report it as a defect of the check.",
            errored=True,
            expectation=spelled(rule.expectation),
        )
    findings: list[Finding] = []
    if not outcome.success:
        findings = rule.explain([rows[key] for key in outcome.rows])
    return DataCheck(
        name=rule.name,
        expected=rule.expected,
        passed=outcome.success,
        observed=rule.observed(outcome, total),
        action=rule.action,
        findings=tuple(dict.fromkeys(findings)),
        expectation=spelled(rule.expectation),
        rows=outcome.rows,
    )


def _each(explain: Callable[[Row], list[Finding]]) -> Callable[[Sequence[Row]], list[Finding]]:
    return lambda rows: [finding for row in rows for finding in explain(row)]


def _share(failing: str) -> Callable[[ExpectationOutcome, int], str]:
    return lambda outcome, total: f"{len(outcome.rows)} of {total} {failing}."


def _list(split: str) -> str:
    return f"{LISTS}/{split}.txt"
