"""Where the errors are: by kind, by pair of classes, by slice of the data."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from segops.metrics.catalogue import number_at
from segops.report.overlay import ERROR_KINDS
from segops.report.page_inputs import Opponent


def error_kinds(
    evaluation: Mapping[str, Any], opponents: Sequence[Opponent]
) -> dict[str, Any] | None:
    """Pixels of each kind of error and their shares; None where the evaluation counts no kinds."""
    wrong = _wrong(evaluation)
    if wrong is None:
        return None
    total = sum(wrong.values())
    others = [(_wrong(one.evaluation), one.evaluation) for one in opponents]
    return {
        "pixels": total,
        "share": _over_labelled(total, evaluation),
        "rows": [
            {
                "name": kind.name,
                "colour": kind.colour,
                "meaning": kind.meaning,
                "pixels": wrong[kind.name],
                "of_errors": wrong[kind.name] / total if total else None,
                "of_pixels": _over_labelled(wrong[kind.name], evaluation),
                "others": [
                    None if theirs is None else _over_labelled(theirs[kind.name], other)
                    for theirs, other in others
                ],
            }
            for kind in ERROR_KINDS
        ],
    }


def confusions(evaluation: Mapping[str, Any]) -> list[dict[str, Any]]:
    """Pairs of classes in words, most pixels first, with the length of each pair's bar."""
    pairs = evaluation.get("confusions") or []
    most = max((pair["pixels"] for pair in pairs), default=1)
    return [
        {**pair, "length": pair["pixels"] / max(most, 1)}
        for pair in sorted(pairs, key=lambda pair: -int(pair["pixels"]))
        if pair["pixels"]
    ]


def slices(evaluation: Mapping[str, Any], opponents: Sequence[Opponent]) -> list[dict[str, Any]]:
    """Rows of the table of slices; the first of a group names it."""
    theirs = [_by_name(one.evaluation) for one in opponents]
    rows, last = [], None
    for (group, name), one in _by_name(evaluation).items():
        figures = ("objects", "images", "pixels", "recall", "found", "miou")
        rows.append(
            {
                "first": group != last,
                "group": group,
                "name": name,
                "definition": one.get("definition", ""),
                **{figure: number_at(one, figure) for figure in figures},
                "others": [number_at(other.get((group, name), {}), "recall") for other in theirs],
            }
        )
        last = group
    return rows


def _by_name(evaluation: Mapping[str, Any]) -> dict[tuple[Any, Any], Mapping[str, Any]]:
    return {(one.get("group"), one.get("name")): one for one in evaluation.get("slices") or []}


def _wrong(evaluation: Mapping[str, Any]) -> dict[str, int] | None:
    errors = evaluation.get("errors")
    if not isinstance(errors, Mapping):
        return None
    return {kind.name: int(errors.get(kind.name) or 0) for kind in ERROR_KINDS}


def _over_labelled(pixels: int, evaluation: Mapping[str, Any]) -> float | None:
    classes = evaluation.get("classes", {}).values()
    labelled = sum(int(number_at(one, "truth_pixels") or 0) for one in classes)
    return pixels / labelled if labelled else None
