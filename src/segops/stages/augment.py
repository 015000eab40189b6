"""Stage augment: builds the augmentation policy, checks it on samples, and writes it."""

from __future__ import annotations

import logging
from pathlib import Path

import numpy as np

from segops.augment.policy import Policy, build_policy, sample_seed, written
from segops.augment.proof import prove
from segops.data.store import PackedStore
from segops.files import write_json
from segops.params.augment import AugmentParams
from segops.params.base import Sections
from segops.params.data import DataParams
from segops.params.report import ReportParams
from segops.paths import AUGMENTATION_SHEET, PACKED, POLICY
from segops.report.augmentation import ContactRow, write_contact_sheet
from segops.report.overlay import colours
from segops.runtime.bands import false_colour
from segops.runtime.classes import VOC, Classes

PROVED_IMAGES = 8
PROVED_SEEDS = 4
ROWS = 5
VERSIONS = 5
log = logging.getLogger("segops")


class Settings(Sections):
    """The parameters that the stage reads."""

    data: DataParams = DataParams()
    augment: AugmentParams = AugmentParams()
    report: ReportParams = ReportParams()


def run(root: Path) -> None:
    """Write the policy that training uses, and its contact sheet.

    Raises:
        SegopsError: The policy misaligns image and mask; the message names every image and the
            violated property.
    """
    settings = Settings.read(root)
    store = PackedStore(root / PACKED)
    policy = build_policy(settings.augment, store.statistics.fill)
    ids = spread(store.ids("train"), PROVED_IMAGES)
    samples = ((image_id, store.image(image_id), store.mask(image_id)) for image_id in ids)
    crops = prove(policy, samples, (sample_seed(0, 0, seed) for seed in range(PROVED_SEEDS)))
    pictures, classes = settings.report.pictures, settings.data.drawn
    rows = [
        contact_row(store, policy, row, image_id, pictures, classes)
        for row, image_id in enumerate(ids[:ROWS])
    ]
    write_contact_sheet(root / AUGMENTATION_SHEET, rows, classes)
    write_json(root / POLICY, written(policy, settings.augment, classes.background))
    log.info("%s: image and mask stayed aligned on %d crops of %d images", POLICY, crops, len(ids))


def spread(ids: tuple[str, ...], count: int) -> tuple[str, ...]:
    """Return at most `count` of `ids`, evenly spaced."""
    chosen = np.linspace(0, len(ids) - 1, min(count, len(ids))).round().astype(int)
    return tuple(ids[place] for place in chosen)


def contact_row(
    store: PackedStore,
    policy: Policy,
    row: int,
    image_id: str,
    pictures: bool,
    classes: Classes = VOC,
) -> ContactRow:
    """Return an image and its augmented versions; without `pictures`, coloured masks instead."""
    image, mask = store.image(image_id), store.mask(image_id)
    versions = [policy(image, mask, sample_seed(0, epoch, row)) for epoch in range(VERSIONS)]
    if pictures:
        shown = [(false_colour(augmented), labels) for augmented, labels in versions]
        return ContactRow(image_id, false_colour(image), mask, shown)
    masks = [(colours(augmented, classes), augmented) for _, augmented in versions]
    return ContactRow(image_id, colours(mask, classes), mask, masks)
