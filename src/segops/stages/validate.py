"""Stage validate: reads every file and decides whether the data are fit for training."""

from __future__ import annotations

import logging
from dataclasses import replace
from pathlib import Path
from typing import Any

import pandas as pd

from segops.files import write_json
from segops.params.data import DataParams
from segops.params.hardware import HardwareParams
from segops.params.report import ReportParams
from segops.paths import FACTS, VALIDATION_JSON, VALIDATION_PAGE, VERDICT
from segops.quality import misfit
from segops.quality.checks import Notice, Validation
from segops.quality.duplicate_rules import allowed, notices
from segops.quality.duplicates import Duplicate, find
from segops.quality.expectations import Bounds, check, unreadable
from segops.quality.facts import data_hash, empty_facts, scan, split_hash, write_facts
from segops.quality.jpeg_damage import with_damage
from segops.quality.metadata import check_metadata
from segops.quality.warnings import warnings
from segops.report.validation_page import write_validation_page
from segops.runtime.errors import SegopsError
from segops.voc.bands import read_picture
from segops.voc.layout import Layout, open_layout
from segops.words import counted

log = logging.getLogger("segops")


class Settings(Bounds):
    """The parameters that the stage reads."""

    report: ReportParams = ReportParams()
    hardware: HardwareParams = HardwareParams()


def run(root: Path) -> None:
    """Scan the data set, check it, and write the facts, the findings, the page and the verdict.

    Raises:
        SegopsError: The data are not fit for training; the message lists every finding by file.
            All outputs are written before.
    """
    settings = Settings.read(root)
    layout = Layout(root / settings.data.path, settings.data.reading)
    try:
        layout = open_layout(layout.root, layout.reading, settings.data.unlabelled)
    except SegopsError as error:
        facts, validation = empty_facts(), unreadable(layout.root, str(error))
    else:
        data = settings.data
        facts = scan(layout, settings.hardware.workers)
        facts, damage = with_damage(facts, layout.root, settings.hardware.workers)
        checked = check(facts, settings)
        known = () if data.metadata is None else (check_metadata(layout, data.metadata),)
        pairs, most = _duplicates(facts, layout), settings.validate_.max_near_duplicates
        found: tuple[Notice, ...] = ()
        if all(one.name != misfit.NAME for one in checked.checks):
            background = data.drawn.background_name
            found = warnings(facts, data.class_names, background, layout.test_without_masks())
        validation = replace(
            checked,
            checks=(*checked.checks, *allowed(pairs, most), *known),
            warnings=(*found, *notices(pairs, most), *damage),
            duplicates=pairs,
        )
    write_facts(root / FACTS, facts)
    write_json(root / VALIDATION_JSON, validation.to_json())
    decided = verdict(facts, validation, settings.data)
    write_validation_page(
        root / VALIDATION_PAGE,
        validation,
        facts,
        layout,
        settings.data.drawn,
        pictures=settings.report.pictures,
        max_void_fraction=settings.validate_.max_void_fraction,
        data_hash=decided["data_hash"],
    )
    write_json(root / VERDICT, decided)
    for one in validation.warnings:
        log.warning("%s: %s %s", one.name, one.found, one.action)
    if not validation.passed:
        raise SegopsError(_failure_message(validation, settings.data.path))
    images = validation.images.items()
    log.info(
        "%s: fit for training. %s; %d checks passed.",
        settings.data.path,
        ", ".join(f"{counted(count, 'image')} in {split}" for split, count in images),
        len(validation.checks),
    )


def _duplicates(facts: pd.DataFrame, layout: Layout) -> tuple[Duplicate, ...]:
    return find(facts, lambda image_id: read_picture(layout, image_id))


def _failure_message(validation: Validation, name: str) -> str:
    """Return every failed check and every finding, a line each."""
    count = sum(len(check.findings) for check in validation.checks)
    failed = [check for check in validation.checks if not check.passed]
    where = f", {counted(count, 'finding')} in {counted(len(validation.findings), 'file')}"
    lines = [
        f"{name}: not fit for training. {len(failed)} of {len(validation.checks)} checks failed"
        f"{where if count else ''}."
    ]
    for failure in failed:
        lines.append(f"{failure.name}: {failure.observed} {failure.action}")
        findings = sorted(failure.findings, key=lambda finding: (finding.file, finding.message))
        lines += [f"  {finding.file}: {finding.message}" for finding in findings]
    return "\n".join([*lines, f"See {VALIDATION_PAGE}."])


def verdict(facts: pd.DataFrame, validation: Validation, data: DataParams) -> dict[str, Any]:
    """Return the verdict, the only validation output that later stages depend on."""
    names, reading = data.class_names, data.reading
    return {
        "passed": validation.passed,
        "data_hash": data_hash(facts, names, reading),
        **{
            f"{split}_hash": split_hash(facts, split, names, reading) for split in validation.images
        },
        "classes": list(names),
        "images": validation.images,
    }
