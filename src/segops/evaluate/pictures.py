"""Which images to show: those that a model sees best, as usual, and worst."""

from __future__ import annotations

import pandas as pd

from segops.report.overlay import Group


def image_scores(counts: pd.DataFrame) -> dict[str, float]:
    """The image score of each image: the mean IoU over the classes in that image's truth.

    It ranks pictures. It is no mIoU, which comes from the summed counts of a whole split.

    Args:
        counts: Table of counts; see :mod:`segops.evaluate.bootstrap`.

    Returns:
        Scores in 0..1 by image id; images whose truth is all void have none.
    """
    rows = counts[counts["truth"] > 0]
    iou = rows["intersection"] / (rows["predicted"] + rows["truth"] - rows["intersection"])
    means = iou.groupby(rows["image_id"]).mean()
    return {str(image_id): float(value) for image_id, value in means.items()}


def choose(scores: dict[str, float], most: int = 3) -> list[tuple[Group, str]]:
    """Choose images of each group, at most `most` a group, none twice.

    Args:
        scores: Image scores by image id.
        most: Most images of a group.

    Returns:
        Group and image id: the best ones (best first), those around the median (best first), the
        worst ones (worst first). Equal scores are ordered by id.
    """
    ranked = sorted(scores, key=lambda image_id: (-scores[image_id], image_id))
    number = min(most, max(1, len(ranked) // 3))
    best, rest = ranked[:number], ranked[number:]
    worst = rest[len(rest) - min(number, len(rest)) :]
    middle = rest[: len(rest) - len(worst)]
    start = max(0, (len(middle) - number) // 2)
    return [
        *(("best", one) for one in best),
        *(("median", one) for one in middle[start : start + number]),
        *(("worst", one) for one in reversed(worst)),
    ]
