"""What a change does to the model, in Markdown, for a pull request."""

from __future__ import annotations

import io
import json
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

import pandas as pd
import yaml
from pydantic import ValidationError

from segops import paths
from segops.evaluate.bootstrap import paired_difference, true_classes
from segops.metrics.catalogue import SPLIT_METRICS, number_at
from segops.operate import data_diff, worktree
from segops.operate.past_outputs import WORKSPACE, Outputs
from segops.operate.results import DIRECTORY
from segops.params import yaml_guard
from segops.params.base import flatten
from segops.params.file import Params, load_params
from segops.release.check import at_least
from segops.release.gate import Decision
from segops.release.preview import preview
from segops.report.diff_page import sentences
from segops.report.figures import level, sentence
from segops.report.markdown import escaped
from segops.runtime.errors import SegopsError, TransientError

MARK = "<!-- segops report -->"
"""First line: what updates a comment finds it by this."""
MOST = 30
"""Most classes, and most parameters, that a table names."""
MARKS = {"passed": "passed", "failed": "**failed**", "undecided": "undecided"}


def report(root: Path, against: str) -> str:
    """Compare the workspace, else its HEAD, with a commit; nothing is trained or written.

    Metrics come from the workspace, git or DVC's cache. Sections that lack what they need say in a
    sentence what is missing.

    Args:
        root: The workspace.
        against: A commit, as git takes it.

    Raises:
        SegopsError: There is no such commit, or ``params.yaml`` is not usable.
    """
    settings = load_params(root)
    now, before = (
        Outputs(root, WORKSPACE, None),
        Outputs(root, against, worktree.commit_of(root, against)),
    )
    evaluations = [_evaluation(side) for side in (now, before)]
    parts = [
        MARK,
        f"## Model of this change against {escaped(against)}",
        *_metrics(settings, now, before, evaluations),
        *_classes(evaluations, before.name),
        "### Parameters",
        *_params(now, before),
        "### Data",
        *_data(root, settings, now, before),
        "### Gate",
        *_gate(root, settings, now, evaluations[0]),
        *(str(escaped(one)) for one in (*now.notes, *before.notes)),
    ]
    return "\n\n".join(parts) + "\n"


def _evaluation(side: Outputs) -> dict[str, Any] | None:
    tree = _json(side.read(paths.EVALUATION))
    return tree if tree is not None and isinstance(tree.get("classes"), dict) else None


def _json(content: bytes | None) -> dict[str, Any] | None:
    try:
        tree = json.loads(content or b"null")
    except ValueError:
        return None
    return tree if isinstance(tree, dict) else None


def _metrics(
    settings: Params, now: Outputs, before: Outputs, evaluations: list[dict[str, Any] | None]
) -> Iterator[str]:
    for side, tree in zip((now, before), evaluations, strict=True):
        if tree is None:
            yield (
                f"{escaped(side.name)} has no {paths.EVALUATION}, neither in git nor in DVC's "
                "cache: `segops run --isolated` commits it below `results/`, `segops run` makes it."
            )
    present, past = evaluations
    if present is None:
        return
    yield f"**{escaped(sentence(present))}**"
    if past is None:
        return
    yield f"{escaped(before.name)}: {escaped(sentence(past))}"
    yield _difference(settings, now, before)
    rows = [
        (metric.label, metric.text(past), metric.text(present))
        for metric in SPLIT_METRICS
        if metric.read(past) is not None or metric.read(present) is not None
    ]
    yield _table(("metric", before.name, "this change"), rows)


def _difference(settings: Params, now: Outputs, before: Outputs) -> str:
    """Return the paired difference of mIoU in words, or why there is none."""
    contents = [side.read(paths.COUNTS) for side in (now, before)]
    if None in contents:
        return (
            f"No interval of the difference: {paths.COUNTS} of one side is not in DVC's cache here."
        )
    chosen = settings.evaluate
    try:
        ours, theirs = (pd.read_parquet(io.BytesIO(one or b"")) for one in contents)
        found = paired_difference(
            ours, theirs, true_classes(ours), chosen.bootstrap_samples,
            (1 + chosen.confidence) / 2, chosen.seed,
        )  # fmt: skip
    except (SegopsError, OSError, ValueError, LookupError) as error:
        return f"No interval of the difference: {escaped(error)}"
    return (
        f"Difference of mIoU on the same {found.images} images: {found.difference:+.3f} "
        f"({level(chosen.confidence)} interval {found.low:+.3f} to {found.high:+.3f})."
    )


def _classes(evaluations: list[dict[str, Any] | None], name: str) -> Iterator[str]:
    present, past = evaluations
    if present is None or past is None:
        return
    rows = []
    for label in dict.fromkeys((*present["classes"], *past["classes"])):
        values = [number_at(tree["classes"].get(label) or {}, "iou") for tree in (past, present)]
        if any(value is not None for value in values):
            rows.append((label, *values))
    changed = [row for row in rows if row[1] is None or row[2] is None or row[1] != row[2]]
    changed.sort(key=_by_change)
    yield "### Classes"
    if not changed:
        yield f"The IoU of all {len(rows)} classes is the same."
        return
    shown = [
        (label, _shown(one), _shown(other), _shown(_minus(other, one), "+"))
        for label, one, other in changed[:MOST]
    ]
    yield _table(("class", f"IoU, {name}", "IoU now", "change"), shown)
    if len(changed) > MOST:
        yield f"and {len(changed) - MOST} classes with smaller changes."


def _by_change(row: tuple[str, float | None, float | None]) -> tuple[float, str]:
    change = _minus(row[2], row[1])
    return (-1.0 if change is None else -abs(change), row[0])


def _minus(one: float | None, other: float | None) -> float | None:
    return None if one is None or other is None else one - other


def _shown(value: float | None, sign: str = "") -> str:
    return "–" if value is None else f"{value:{sign}.3f}"


def _params(now: Outputs, before: Outputs) -> Iterator[str]:
    flat = []
    for side in (before, now):
        try:
            tree = yaml_guard.load(side.text("params.yaml") or "") or {}
            flat.append(flatten(tree))
        except (SegopsError, ValueError, AttributeError, TypeError, yaml.YAMLError):
            yield f"params.yaml of {escaped(side.name)} cannot be read."
            return
    old, new = flat
    keys = [key for key in dict.fromkeys((*new, *old)) if old.get(key) != new.get(key)]
    if not keys:
        yield "The same."
        return
    rows = [(key, _value(old, key), _value(new, key)) for key in keys[:MOST]]
    yield _table(("key", before.name, "now"), rows)
    if len(keys) > MOST:
        yield f"and {len(keys) - MOST} more."


def _value(flat: Mapping[str, Any], key: str) -> str:
    return json.dumps(flat[key], ensure_ascii=False) if key in flat else "not set"


def _data(root: Path, settings: Params, now: Outputs, before: Outputs) -> Iterator[str]:
    pointer = f"{settings.data.path}.dvc"
    ours, theirs = now.text(pointer), before.text(pointer)
    if ours is not None and ours == theirs:
        yield "The same."
        return
    try:
        changes = data_diff.diff(root, settings, before.commit or "HEAD", None)
    except SegopsError as error:
        yield f"Not compared: {escaped(error)}"
        return
    yield "\n".join(f"- {escaped(one)}" for one in sentences(changes))


def _gate(
    root: Path, settings: Params, now: Outputs, evaluation: dict[str, Any] | None
) -> Iterator[str]:
    decision, why = None, ""
    if (root / paths.SEGMENTER).is_dir():
        try:
            decision = preview(root)
            yield f"It would decide now: **{escaped(decision.verdict)}**."
        except TransientError as error:
            why = str(error)
        except (SegopsError, OSError) as error:
            why = str(error)
    else:
        decision = _decided(now)
        if decision is not None:
            yield f"It decided in the run: **{escaped(decision.verdict)}**."
    if decision is not None:
        checks = (
            f"| {escaped(one.name)} | {MARKS[one.outcome]} | {escaped(one.sentence)} |"
            for one in decision.checks
        )
        yield "\n".join(("| check | outcome | what was found |", "| --- | --- | --- |", *checks))
        return
    yield f"No preview: {escaped(why or 'the model is not in this checkout')}"
    miou = None if evaluation is None else number_at(evaluation, "miou")
    if miou is not None:
        check = at_least("mIoU", "mIoU", miou, settings.gate.min_miou)
        yield f"Of the policy alone: {escaped(check.sentence)}"


def _decided(now: Outputs) -> Decision | None:
    """Return the decision that a run committed beside its metrics, or None."""
    text = now.text((DIRECTORY / paths.DECISION.name).as_posix())
    try:
        return None if text is None else Decision.model_validate_json(text)
    except ValidationError:
        return None


def _table(names: Iterable[str], rows: Iterable[Iterable[str]]) -> str:
    head = [str(escaped(name)) for name in names]
    lines = [head, ["---", *("---:" for _ in head[1:])]]
    lines += [[str(escaped(cell)) for cell in row] for row in rows]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)
