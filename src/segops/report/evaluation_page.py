"""The evaluation page: metrics, errors, comparisons and pictures of a model."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping, Sequence
from itertools import chain
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from jinja2.utils import htmlsafe_json_dumps
from markupsafe import Markup
from numpy.typing import NDArray

from segops.files import write_text
from segops.metrics.iou import ratio
from segops.report import svg
from segops.report.class_table import class_table
from segops.report.gallery import gallery, picture_budget
from segops.report.html import render
from segops.report.model_facts import lineages
from segops.report.overlay import error_kinds as kinds_of
from segops.report.page_inputs import GalleryPicture, ImageRow, LabelErrors, Opponent, Place
from segops.report.reliability import reliability
from segops.report.sections import (
    background_of,
    confusions,
    error_kinds,
    interval,
    slices,
    tiles,
    union_errors,
    verdicts,
)
from segops.runtime.classes import Classes

NAME = "this model"
IMAGES_SHOWN = 2000
"""Most images in the table: all of PASCAL VOC's val (1449), about 2 MB of the page of a model."""
MATRIX_CLASSES = 40
MATRIX_OPEN = 24
CURVES = (
    ("train_loss", "Training loss", "train"),
    ("selection_miou", "mIoU on the selection split", "val"),
    ("lr", "Learning rate", "train"),
    ("pseudo_label_loss", "Loss against pseudo-labels (mean teacher)", "train"),
    ("confident_share", "Share of the unlabelled pixels that the teacher is sure of", "train"),
    ("adversarial_loss", "Adversarial loss on images with masks", "train"),
    ("discriminator_loss", "Loss of the discriminator", "train"),
    ("unlabelled_adversarial_loss", "Adversarial loss on images without masks", "train"),
    ("self_taught_loss", "Loss against predictions taken for masks", "train"),
)


def write_evaluation_page(
    path: Path,
    evaluation: Mapping[str, Any],
    confusion: NDArray[np.int64],
    pictures: Iterable[GalleryPicture],
    learning_curves: Path | None,
    opponents: Sequence[Opponent] = (),
    name: str = NAME,
    about: str = "",
    evaluated: str = "",
    registered: str = "",
    classes: Classes | None = None,
    speeds: Sequence[Mapping[str, Any]] = (),
    exports: Sequence[Mapping[str, Any]] = (),
    images: Sequence[ImageRow] = (),
    places: Mapping[str, Place] | None = None,
    labels: LabelErrors | None = None,
) -> None:
    """Write the page; the same inputs give the same bytes.

    The page stays under :data:`segops.report.gallery.PAGE_LIMIT` bytes: the last pictures are left
    out where they do not fit, and the page says so.

    Args:
        path: The HTML file.
        evaluation: As ``metrics/evaluation.json`` holds it; `classes` in id order. Figures that an
            evaluation of an older release lacks are shown as dashes.
        confusion: int64 (C, C), pixels; rows are true classes, columns predicted ones.
        pictures: Images to show, most telling first; none where photographs are private.
        learning_curves: The CSV of training; None or a missing file leaves the curves out.
        opponents: Models to compare with, as the champion.
        name: What people call the model; given, the page's title names all the models.
        about: Its network in words; see :func:`segops.report.model_facts.network_words`.
        evaluated: When it was evaluated, in words.
        registered: Name of the registered model that it is or may become a version of.
        classes: The classes with their colours and background; None: as `evaluation` says, in VOC's
            colours.
        speeds: Speed and memory of the models that were measured, with `name` and `mib`, the size
            of the bundle; see :func:`segops.evaluate.exports.of_model`.
        exports: Parity of its exports, the model first; see :mod:`segops.evaluate.exports`.
        images: Figures of every image, the worst first; the page shows :data:`IMAGES_SHOWN`. All
            have the scores of the same number of opponents, the first ones.
        places: The images that figures come from, by the key of the figure; see
            :mod:`segops.evaluate.places`. A click on such a figure shows its images.
        labels: What a label audit says of the images; None: no audit is known.

    Raises:
        ValueError: `confusion` and the classes of `evaluation` differ in number.
    """
    names = list(evaluation["classes"])
    if confusion.shape != (len(names), len(names)):
        raise ValueError(f"confusion matrix {confusion.shape} for {len(names)} classes")
    if classes is None:
        classes = Classes.of_model({"background": background_of(evaluation), "class_names": names})
    unions, pairs = union_errors(evaluation, classes), confusions(evaluation)
    cells = {
        *_cells(most_confused(confusion, MATRIX_CLASSES)).values(),
        *(pair["key"] for pair in pairs),
        *(part["key"] for row in unions for part in row["parts"]),
    }
    linked = {
        key: place
        for key, place in (places or {}).items()
        if place.rows and (key in cells or not key.startswith("cell-"))
    }
    context: dict[str, Any] = {
        "e": evaluation,
        "name": name,
        "named": name != NAME,
        "title": _title(name, opponents),
        "opponents": [one.name for one in opponents],
        "interval": interval(evaluation, opponents),
        "verdicts": verdicts(evaluation, opponents),
        "tiles": tiles(evaluation, opponents),
        "in_truth": int((confusion.sum(axis=1) > 0).sum()),
        "table": class_table(evaluation, opponents, classes),
        "errors": error_kinds(evaluation, opponents),
        "union_errors": unions,
        "confusions": pairs,
        "slices": slices(evaluation, opponents),
        "reliability": reliability(evaluation, opponents, linked),
        "matrix": _matrix(confusion, names, linked),
        "linked": linked,
        "labels": labels,
        "places": _places_data(linked),
        "curves": _curves(learning_curves),
        "speeds": speeds,
        "exports": exports,
        "images": images[:IMAGES_SHOWN],
        "images_in_all": len(images),
        "kinds": kinds_of(background_of(evaluation)),
        "about": about,
        "evaluated": evaluated,
        "registered": registered,
        "weights": str(evaluation.get("weights_sha256") or "")[:12],
        "lineages": lineages(name, about, evaluation, opponents),
    }
    bare = render("evaluation.html", gallery=gallery((), classes, 0), **context)
    shown = gallery(pictures, classes, picture_budget(bare))
    write_text(path, render("evaluation.html", gallery=shown, **context))


def _title(name: str, opponents: Sequence[Opponent]) -> str:
    if name == NAME:
        return "Evaluation"
    if not opponents:
        return f"Evaluation of {name}"
    *others, last = (one.name for one in opponents)
    return f"{name} compared with {', '.join(others)}{' and ' if others else ''}{last}"


def _places_data(places: Mapping[str, Place]) -> Markup:
    """The places as the page's script reads them: how many images, then pairs row, pixels."""
    data = {key: [one.images, *chain.from_iterable(one.rows)] for key, one in places.items()}
    return htmlsafe_json_dumps(data)


def _matrix(
    confusion: NDArray[np.int64], names: Sequence[str], linked: Collection[str]
) -> dict[str, Any]:
    """The confusion matrix drawn: of many classes those with the most confused pixels."""
    occur = occurring(confusion)
    shown = most_confused(confusion, MATRIX_CLASSES)
    return {
        "chart": svg.heat_map(
            row_shares(confusion)[np.ix_(shown, shown)],
            [names[index] for index in shown],
            {at: key for at, key in _cells(shown).items() if key in linked},
        ),
        "shown": len(shown),
        "classes": len(occur),
        "open": len(shown) <= MATRIX_OPEN,
    }


def _cells(shown: NDArray[np.intp]) -> dict[tuple[int, int], str]:
    """The key of each cell of the matrix of some classes, by row and column."""
    return {
        (row, column): f"cell-{truth}-{predicted}"
        for row, truth in enumerate(shown)
        for column, predicted in enumerate(shown)
    }


def occurring(confusion: NDArray[np.int64]) -> NDArray[np.intp]:
    """Ids of the classes that occur in truth or prediction, ascending."""
    return np.flatnonzero(confusion.sum(axis=0) + confusion.sum(axis=1))


def most_confused(confusion: NDArray[np.int64], most: int) -> NDArray[np.intp]:
    """Ids of the classes with most pixels off the diagonal, at most `most` of them, ascending."""
    ids = occurring(confusion)
    wrong = confusion.sum(axis=0) + confusion.sum(axis=1) - 2 * confusion.diagonal()
    ranked = sorted(ids.tolist(), key=lambda index: (-int(wrong[index]), index))
    return np.array(sorted(ranked[:most]), dtype=np.intp)


def row_shares(confusion: NDArray[np.int64]) -> NDArray[np.float64]:
    """Every row divided by its sum, float64 (C, C) in [0, 1]; NaN in rows without true pixels."""
    return ratio(confusion, np.broadcast_to(confusion.sum(axis=1, keepdims=True), confusion.shape))


def _curves(path: Path | None) -> list[dict[str, Any]]:
    """A chart for every column of the CSV of training; none where there is no file."""
    if path is None or not path.exists():
        return []
    table = pd.read_csv(path)
    curves = []
    for column, title, name in CURVES:
        if column not in table:
            continue
        points = [
            (float(epoch), float(value))
            for epoch, value in table[["epoch", column]].dropna(subset=column).to_numpy()
        ]
        if not points:
            continue
        best, text = None, ""
        if column == "selection_miou":
            best = max(points, key=lambda point: point[1])
            text = (
                f"Best: {best[1]:.3f} in epoch {best[0]:g}, whose weights were kept. "
                "The split is held out from train."
            )
        chart = svg.line(points, title, name, best, unit=best is not None)
        curves.append({"title": title, "chart": chart, "text": text})
    return curves
