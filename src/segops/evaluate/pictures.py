"""Which images to show: those that a model sees best, as usual and worst, and of every error."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING, Literal

import pandas as pd

from segops.evaluate.bootstrap import PIXELS
from segops.evaluate.score import EXPLAINED
from segops.metrics.iou import iou
from segops.report.page_inputs import GalleryPicture, Mistake

if TYPE_CHECKING:
    from segops.data.store import PackedStore
    from segops.evaluate.score import Scores

Group = Literal["best", "median", "worst"]
GALLERY = 120
"""Most images of a page: with these it stays well under 15 MB."""
OF_EACH_ERROR = 6
"""Most images that are chosen because of one class and kind of error."""


def image_scores(counts: pd.DataFrame) -> dict[str, float]:
    """The image score of each image: the mean IoU over the classes in that image's truth.

    It ranks pictures. It is no mIoU, which comes from the summed counts of a whole split.

    Args:
        counts: Table of counts; see :mod:`segops.evaluate.bootstrap`.

    Returns:
        Scores in 0..1 by image id; images whose truth is all void have none.
    """
    rows = counts[counts["truth"] > 0]
    values = iou(*(rows[name].to_numpy() for name in PIXELS))
    means = pd.Series(values, rows.index).groupby(rows["image_id"]).mean()
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


def to_explain(counts: pd.DataFrame, errors: pd.DataFrame, number: int) -> dict[str, int]:
    """Choose the worst images, and of each the class that most wrong pixels are put down to.

    Args:
        counts: Table of counts.
        errors: Table of errors; see :data:`segops.evaluate.score.ERRORS`.
        number: How many.

    Returns:
        Class ids by image id, the worst image first. Images without errors are left out; of
        classes with equally many wrong pixels it is the one of the lowest id.
    """
    scores = image_scores(counts)
    wrong = errors.groupby(["image_id", "class_id"])["pixels"].sum().reset_index()
    wrong = wrong.sort_values(["image_id", "pixels", "class_id"], ascending=[True, False, True])
    first = wrong.drop_duplicates("image_id")
    worst = dict(zip(first["image_id"].astype(str), first["class_id"].astype(int), strict=True))
    ranked = sorted(worst.keys() & scores.keys(), key=lambda one: (scores[one], one))
    return {image_id: worst[image_id] for image_id in ranked[:number]}


def choose_gallery(counts: pd.DataFrame, errors: pd.DataFrame, most: int = GALLERY) -> list[str]:
    """Choose the images of the gallery.

    First come the worst images, which are explained, and some of the best and the median ones.
    Then, in turn for every class and kind of error, come the image with most pixels of that error,
    the one with second most, and so on, so that no class crowds out another.

    Args:
        counts: Table of counts.
        errors: Table of errors.
        most: Most images.

    Returns:
        Ids, none twice, ordered by image score from the worst on. Ties are broken by id.
    """
    scores = image_scores(counts)
    chosen = dict.fromkeys(to_explain(counts, errors, EXPLAINED))
    chosen |= dict.fromkeys(image_id for _, image_id in choose(scores))
    for image_id in _worst_of_each(errors[errors["image_id"].isin(list(scores))]):
        if len(chosen) >= most:
            break
        chosen[image_id] = None
    return sorted(list(chosen)[:most], key=lambda one: (scores[one], one))


def _worst_of_each(errors: pd.DataFrame) -> Iterator[str]:
    """Ids by how bad they are at one class and kind of error: all firsts, all seconds, ..."""
    ordered = errors.sort_values(
        ["class_id", "kind", "pixels", "image_id"], ascending=[True, True, False, True]
    )
    place = ordered.groupby(["class_id", "kind"]).cumcount()
    for number in range(OF_EACH_ERROR):
        yield from ordered.loc[place == number, "image_id"].astype(str)


def gallery(scores: Scores, store: PackedStore) -> Iterator[GalleryPicture]:
    """Yield the images of the gallery with all that the page shows of them, one at a time.

    Args:
        scores: Scores whose masks were kept.
        store: The packed data that was scored on.

    Yields:
        The pictures, the worst image first.

    Raises:
        SegopsError: The masks were not kept.
    """
    by_image = image_scores(scores.counts)
    errors = _errors_by_image(scores)
    for image_id in choose_gallery(scores.counts, scores.errors):
        explained = scores.explained.get(image_id)
        yield GalleryPicture(
            image_id=image_id,
            score=by_image[image_id],
            image=store.image(image_id),
            truth=store.mask(image_id),
            prediction=scores.prediction(image_id),
            kinds=scores.kinds(image_id),
            errors=errors.get(image_id, ()),
            confidence=scores.confidences[image_id],
            activation=scores.activation(image_id),
            explained=None if explained is None else scores.class_names[explained],
        )


def _errors_by_image(scores: Scores) -> dict[str, tuple[Mistake, ...]]:
    """What went wrong in each image, largest first."""
    ordered = scores.errors.sort_values(
        ["image_id", "pixels", "class_id", "kind"], ascending=[True, False, True, True]
    )
    found: dict[str, list[Mistake]] = {}
    for image_id, class_id, kind, pixels in ordered.itertuples(index=False):
        error = Mistake(scores.class_names[class_id], kind, int(pixels))
        found.setdefault(image_id, []).append(error)
    return {image_id: tuple(errors) for image_id, errors in found.items()}
