"""The figures of every image of a split, the worst first: for pages and as CSV."""

from __future__ import annotations

import csv
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from segops import files
from segops.cells import cell
from segops.evaluate.bootstrap import PIXELS
from segops.evaluate.pictures import image_scores
from segops.evaluate.places import SUSPECTED, find_places, suspected_place
from segops.evaluate.subsets import subset_places
from segops.metrics.iou import iou
from segops.metrics.wrong_pixels import KINDS
from segops.report.evaluation_page import IMAGES_SHOWN
from segops.report.page_inputs import ImageRow, LabelErrors, Place

if TYPE_CHECKING:
    from segops.data.store import PackedStore
    from segops.evaluate.score import Scores

COLUMNS = (
    "image", "score", "labelled_pixels", "wrong_pixels",
    *(kind.replace(" ", "_") for kind in KINDS), "worst_class", "worst_class_iou", "confidence",
    "suspected_label", "suspected_pixels",
)  # fmt: skip


def image_rows(
    scores: Scores, labels: LabelErrors | None = None, others: Sequence[Scores] = ()
) -> list[ImageRow]:
    """One row for each image: by image score from the worst on, those of void alone at the end.

    With `others` the order is by the worst difference to one of them. Of classes with an equal IoU
    the worst is the one of the lowest id.

    Args:
        scores: The scores of a model.
        labels: What a label audit says of the images.
        others: The scores of other models on the same images.
    """
    by_image = image_scores(scores.counts)
    of_others = [image_scores(one.counts) for one in others]
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
                others=tuple(one.get(image_id) for one in of_others),
            )
        )
    return sorted(rows, key=lambda row: (_rank(row), row.image_id))


def _rank(row: ImageRow) -> float:
    """What the rows are ordered by."""
    values = row.differences if row.others else (row.score,)
    return min((one for one in values if one is not None), default=float("inf"))


def page_places(
    scores: Scores,
    store: PackedStore,
    split: str,
    rows: Sequence[ImageRow],
    labels: LabelErrors | None = None,
) -> dict[str, Place] | None:
    """The images of every figure of a page, by its key; see :mod:`segops.evaluate.places`.

    Args:
        scores: The scores of the page's model.
        store: The packed data.
        split: The split that was scored.
        rows: The rows of :func:`image_rows`.
        labels: What a label audit says of the images.

    Returns:
        None where the scores do not tell.
    """
    if scores.places is None:
        return None
    listed = [one.image_id for one in rows[:IMAGES_SHOWN]]
    places = find_places(scores.places, scores.images, listed)
    if (known := store.metadata(split)) is not None:
        places |= subset_places(known, scores.images, listed, len(scores.summary["slices"]))
    if labels is not None:
        places[SUSPECTED] = suspected_place(labels, listed)
    return places


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
