"""Where the errors are: by kind, by pair of classes, by slice of the data."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from segops.metrics.catalogue import number_at
from segops.report.error_kinds import KINDS
from segops.report.page_inputs import Opponent


def error_kinds(
    evaluation: Mapping[str, Any], opponents: Sequence[Opponent]
) -> dict[str, Any] | None:
    """Pixels of each kind of error and their shares; None where the evaluation counts no kinds."""
    if not isinstance(evaluation.get("errors"), Mapping):
        return None
    wrong = _wrong(evaluation)
    total = sum(wrong.values())
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
                    _over_labelled(_wrong(one.evaluation)[kind.name], one.evaluation)
                    if isinstance(one.evaluation.get("errors"), Mapping)
                    else None
                    for one in opponents
                ],
            }
            for kind in KINDS
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
    rows, last = [], None
    for one in evaluation.get("slices") or []:
        key = (one.get("group"), one.get("name"))
        rows.append(
            {
                "first": one.get("group") != last,
                "group": one.get("group"),
                "name": one.get("name"),
                "definition": one.get("definition", ""),
                **{name: number_at(one, name) for name in ("objects", "images", "pixels")},
                **{name: number_at(one, name) for name in ("recall", "found", "miou")},
                "others": [_slice_recall(other.evaluation, key) for other in opponents],
            }
        )
        last = one.get("group")
    return rows


def _slice_recall(evaluation: Mapping[str, Any], key: tuple[Any, Any]) -> float | None:
    for one in evaluation.get("slices") or []:
        if (one.get("group"), one.get("name")) == key:
            return number_at(one, "recall")
    return None


def _wrong(evaluation: Mapping[str, Any]) -> dict[str, int]:
    errors = evaluation.get("errors") or {}
    return {kind.name: int(errors.get(kind.name) or 0) for kind in KINDS}


def _over_labelled(pixels: int, evaluation: Mapping[str, Any]) -> float | None:
    classes = evaluation.get("classes", {}).values()
    labelled = sum(int(number_at(one, "truth_pixels") or 0) for one in classes)
    return pixels / labelled if labelled else None
