"""The figures of every image of a split, the worst first: for the page and as CSV."""

from __future__ import annotations

import csv
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from segops import files
from segops.cells import cell
from segops.evaluate.bootstrap import PIXELS
from segops.evaluate.pictures import image_scores
from segops.metrics.iou import iou
from segops.metrics.wrong_pixels import KINDS
from segops.report.page_inputs import ImageRow, LabelErrors

if TYPE_CHECKING:
    from segops.evaluate.score import Scores

COLUMNS = (
    "image", "score", "labelled_pixels", "wrong_pixels",
    *(kind.replace(" ", "_") for kind in KINDS), "worst_class", "worst_class_iou", "confidence",
    "suspected_label", "suspected_pixels",
)  # fmt: skip


def image_rows(scores: Scores, labels: LabelErrors | None = None) -> list[ImageRow]:
    """One row for each image: by image score from the worst on, those of void alone at the end.

    `labels` is what a label audit says. Of classes with an equal IoU the worst is the one of the
    lowest id.
    """
    by_image = image_scores(scores.counts)
    counts = scores.counts.groupby("image_id")[["truth", "intersection"]].sum()
    totals = dict(zip(counts.index, counts.itertuples(index=False), strict=True))
    by_kind = scores.errors.groupby(["image_id", "kind"])["pixels"].sum().to_dict()
    worst = _worst_classes(scores)
    rows = []
    for image_id in scores.images:
        labelled, right = totals.get(image_id, (0, 0))
        name, value = worst.get(image_id, (None, None))
        rows.append(
            ImageRow(
                image_id=image_id,
                score=by_image.get(image_id),
                pixels=int(labelled),
                wrong=int(labelled - right),
                kinds={kind: int(by_kind.get((image_id, kind), 0)) for kind in KINDS},
                worst_class=name,
                worst_iou=value,
                confidence=scores.confidences[image_id],
                suspected=None if labels is None else image_id in labels.pixels,
                suspected_pixels=None if labels is None else labels.pixels.get(image_id),
            )
        )
    last = float("inf")
    return sorted(rows, key=lambda row: (last if row.score is None else row.score, row.image_id))


def _worst_classes(scores: Scores) -> dict[str, tuple[str, float]]:
    """Name and IoU of the class in each image's truth that was found worst there."""
    rows = scores.counts[scores.counts["truth"] > 0]
    rows = rows.assign(iou=iou(*(rows[name].to_numpy() for name in PIXELS)))
    first = rows.sort_values(["iou", "class_id"]).drop_duplicates("image_id")
    return {
        str(image_id): (scores.class_names[int(class_id)], float(value))
        for image_id, class_id, value in zip(
            first["image_id"], first["class_id"], first["iou"], strict=True
        )
    }


def write_image_table(path: Path, rows: Sequence[ImageRow]) -> None:
    """Write the rows, whole or not at all, with the columns :data:`COLUMNS`.

    Figures have six significant digits. A name that a spreadsheet would take for a formula is
    written as :mod:`segops.cells` writes it.
    """
    with files.atomic_path(path) as temporary, temporary.open("w", encoding="utf-8") as file:
        writer = csv.writer(file, lineterminator="\n")
        writer.writerow(COLUMNS)
        for row in rows:
            score, worst_iou, confidence = (
                "" if value is None else f"{value:.6g}"
                for value in (row.score, row.worst_iou, row.confidence)
            )
            writer.writerow(
                [
                    cell(row.image_id, "./"), score, row.pixels, row.wrong,
                    *(row.kinds[kind] for kind in KINDS),
                    cell(row.worst_class or "", "class "), worst_iou, confidence,
                    "" if row.suspected is None else int(row.suspected),
                    "" if row.suspected_pixels is None else row.suspected_pixels,
                ]
            )  # fmt: skip
