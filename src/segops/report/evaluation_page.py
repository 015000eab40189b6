"""The evaluation page: metrics, errors, comparisons and pictures of a model."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from segops.files import write_text
from segops.report import svg
from segops.report.breakdown import confusions, error_kinds, slices
from segops.report.class_table import class_table
from segops.report.confusion_chart import most_confused, occurring, row_shares
from segops.report.curves import learning_curves as draw_curves
from segops.report.error_kinds import KINDS
from segops.report.gallery import gallery
from segops.report.headline import interval, tiles, verdicts
from segops.report.html import render
from segops.report.model_facts import lineages
from segops.report.page_inputs import GalleryPicture, Opponent
from segops.report.reliability import reliability

NAME = "this model"
PAGE_LIMIT = 15_000_000
# The legend and the words around the pictures.
GALLERY_FRAME = 100_000
MATRIX_CLASSES = 40
MATRIX_OPEN = 24


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
) -> None:
    """Write the page; the same inputs give the same bytes.

    The page stays under :data:`PAGE_LIMIT` bytes: the last pictures are left out where they do not
    fit, and the page says so.

    Args:
        path: The HTML file.
        evaluation: As ``metrics/evaluation.json`` holds it; `classes` in id order. Figures that an
            evaluation of an older release lacks are shown as dashes.
        confusion: int64 (C, C), pixels; rows are true classes, columns predicted ones.
        pictures: Images to show, most telling first, gone through once; none where photographs are
            private.
        learning_curves: The CSV of training; None or a missing file leaves the curves out.
        opponents: Models to compare with, as the champion.
        name: What people call the model; given, the page's title names all the models.
        about: Its network in words; see :func:`segops.report.model_facts.network_words`.
        evaluated: When it was evaluated, in words.
        registered: Name of the registered model that it is or may become a version of.

    Raises:
        ValueError: `confusion` and the classes of `evaluation` differ in number.
    """
    names = list(evaluation["classes"])
    if confusion.shape != (len(names), len(names)):
        raise ValueError(f"confusion matrix {confusion.shape} for {len(names)} classes")
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
        "table": class_table(evaluation, opponents),
        "errors": error_kinds(evaluation, opponents),
        "confusions": confusions(evaluation),
        "slices": slices(evaluation, opponents),
        "reliability": reliability(evaluation, opponents),
        "matrix": _matrix(confusion, names),
        "curves": draw_curves(learning_curves),
        "kinds": KINDS,
        "about": about,
        "evaluated": evaluated,
        "registered": registered,
        "weights": str(evaluation.get("weights_sha256") or "")[:12],
        "lineages": lineages(name, about, evaluation, opponents),
    }
    bare = render("evaluation.html", gallery=gallery((), names, 0), **context)
    budget = PAGE_LIMIT - len(bare.encode()) - GALLERY_FRAME
    shown = gallery(pictures, names, budget)
    write_text(path, render("evaluation.html", gallery=shown, **context))


def _title(name: str, opponents: Sequence[Opponent]) -> str:
    if name == NAME:
        return "Evaluation"
    others = [one.name for one in opponents]
    if not others:
        return f"Evaluation of {name}"
    listed = others[0] if len(others) == 1 else f"{', '.join(others[:-1])} and {others[-1]}"
    return f"{name} compared with {listed}"


def _matrix(confusion: NDArray[np.int64], names: Sequence[str]) -> dict[str, Any]:
    """The confusion matrix drawn: of many classes those with the most confused pixels."""
    occur = occurring(confusion)
    shown = most_confused(confusion, MATRIX_CLASSES)
    return {
        "chart": svg.heat_map(
            row_shares(confusion)[np.ix_(shown, shown)], [names[index] for index in shown]
        ),
        "shown": len(shown),
        "classes": len(occur),
        "open": len(shown) <= MATRIX_OPEN,
    }
