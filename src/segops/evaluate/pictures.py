"""Chooses the images of the evaluation page: best, median, worst, and some of every error."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING

import pandas as pd

from segops.evaluate.bootstrap import PIXELS
from segops.evaluate.score import EXPLAINED
from segops.metrics.iou import iou
from segops.report.page_inputs import GalleryPicture, Mistake
from segops.runtime.bands import false_colour

if TYPE_CHECKING:
    from segops.data.store import PackedStore
    from segops.evaluate.score import Scores

GALLERY = 120
"""Most images of a page: with these it stays well under 15 MB."""
OF_EACH_ERROR = 6
"""Most images that are chosen because of one class and kind of error."""


def image_scores(counts: pd.DataFrame) -> dict[str, float]:
    """The image score by image id, 0..1: the mean IoU over the classes in that image's truth.

    It ranks pictures. It is no mIoU, which comes from the summed counts of a whole split. Images
    whose truth is all void have none.
    """
    rows = counts[counts["truth"] > 0]
    values = iou(*(rows[name].to_numpy() for name in PIXELS))
    means = pd.Series(values, rows.index).groupby(rows["image_id"]).mean()
    return {str(image_id): float(value) for image_id, value in means.items()}


def rank(scores: dict[str, float]) -> list[str]:
    """Ids by image score, the worst first; equal scores are ordered by id."""
    return sorted(scores, key=lambda image_id: (scores[image_id], image_id))


def to_explain(counts: pd.DataFrame, errors: pd.DataFrame, number: int) -> dict[str, int]:
    """Choose the worst images, and of each the class with most of its wrong pixels.

    Returns:
        At most `number` class ids by image id, the worst image first. Images without errors are
        left out; of classes with equally many wrong pixels it is the one of the lowest id.
    """
    scores = image_scores(counts)
    wrong = errors.groupby(["image_id", "class_id"])["pixels"].sum().reset_index()
    wrong = wrong.sort_values(["image_id", "pixels", "class_id"], ascending=[True, False, True])
    first = wrong.drop_duplicates("image_id")
    worst = dict(zip(first["image_id"].astype(str), first["class_id"].astype(int), strict=True))
    ranked = [image_id for image_id in rank(scores) if image_id in worst]
    return {image_id: worst[image_id] for image_id in ranked[:number]}


def choose_gallery(counts: pd.DataFrame, errors: pd.DataFrame, most: int = GALLERY) -> list[str]:
    """Choose at most `most` images for the gallery, ordered by image score from the worst on.

    First come the worst images, which are explained, and the three worst, median and best ones.
    Then come, for every class and kind of error, the image with most pixels of that error; then
    for each of them the image with second most, and so on, so that no class crowds out another.
    Ties are broken by id.
    """
    scores = image_scores(counts)
    chosen = dict.fromkeys(to_explain(counts, errors, EXPLAINED))
    ranked, middle = rank(scores), len(scores) // 2
    near_median = ranked[max(0, middle - 1) : middle + 2]
    chosen |= dict.fromkeys([*ranked[:-4:-1], *near_median, *ranked[:3]])
    for image_id in _worst_of_each(errors[errors["image_id"].isin(list(scores))]):
        if len(chosen) >= most:
            break
        chosen[image_id] = None
    shown = set(list(chosen)[:most])
    return [image_id for image_id in ranked if image_id in shown]


def _worst_of_each(errors: pd.DataFrame) -> Iterator[str]:
    """Ids by how bad they are at one class and kind of error: all firsts, all seconds, ..."""
    ordered = errors.sort_values(
        ["class_id", "kind", "pixels", "image_id"], ascending=[True, True, False, True]
    )
    place = ordered.groupby(["class_id", "kind"]).cumcount()
    for number in range(OF_EACH_ERROR):
        yield from ordered.loc[place == number, "image_id"].astype(str)


def gallery(
    scores: Scores, store: PackedStore, others: Sequence[Scores] = ()
) -> Iterator[GalleryPicture]:
    """Yield the images of the gallery with all that the page shows of them, the worst first.

    `others` are scores of further models on the same images, whose predictions are shown too.

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
            image=false_colour(store.image(image_id)),
            truth=store.mask(image_id),
            prediction=scores.prediction(image_id),
            kinds=scores.kinds(image_id),
            errors=errors.get(image_id, ()),
            confidence=scores.confidences[image_id],
            activation=scores.activation(image_id),
            explained=None if explained is None else scores.class_names[explained],
            others=tuple(one.prediction(image_id) for one in others),
        )


def _errors_by_image(scores: Scores) -> dict[str, tuple[Mistake, ...]]:
    """What went wrong in each image, largest first."""
    ordered = scores.errors.sort_values(
        ["image_id", "pixels", "class_id", "kind"], ascending=[True, False, True, True]
    )
    found: dict[str, tuple[Mistake, ...]] = {}
    for image_id, class_id, kind, pixels in ordered.itertuples(index=False):
        error = Mistake(scores.class_names[class_id], kind, int(pixels))
        found[image_id] = (*found.get(image_id, ()), error)
    return found
