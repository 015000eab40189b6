"""The model card of a version as Markdown, in the form of the Hugging Face Hub."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import yaml
from markupsafe import Markup

from segops.metrics.catalogue import SPLIT_METRICS, number_at, shown
from segops.params.registry import CardParams
from segops.record.lineage import tag
from segops.release import exports
from segops.release.chain import Entry
from segops.report.card_pictures import Picture
from segops.report.figures import level, sentence
from segops.report.html import decimal, render
from segops.report.markdown import escaped
from segops.report.model_facts import WITHOUT_ENCODER, predict_words
from segops.report.sections import slices
from segops.runtime.bands import RGB
from segops.words import counted

DESCRIPTION_LIMIT = 4900
"""Characters of a description; MLflow's databases take 5,000."""
WORST = 5
MOST = 30
"""How many classes a line lists."""
_GAPS = re.compile(r"\n{3,}")
HUB_METRICS = {"miou": "mean_iou", "pixel_accuracy": "accuracy"}
"""Metric of the catalogue -> its type on the Hub; others keep their name."""


@dataclass(frozen=True)
class Facts:
    """What a card is made from; what is not known is empty.

    Attributes:
        model: Name of the registered model.
        number: The version.
        tags: The version's tags.
        params: The parameters of its training, dotted key -> value as MLflow spells it.
        epochs: `epochs_run` and `best_epoch` of its training.
        verdict: The content of ``data/verdict.json``.
        evaluation: The content of ``metrics/evaluation.json``, of this version's bundle.
        data_since: The champion before it and how its data differ, where they do.
        decision: The gate's last decision on it.
        withdrawn: Why a rollback withdrew it, or None.
        machines: The machines that reproduced it.
        test: Its last score on a test split.
        stated: What the user says about it.
        pictures: Pictures of the worst classes.
    """

    model: str
    number: str
    tags: Mapping[str, str]
    params: Mapping[str, str] = field(default_factory=dict)
    epochs: Mapping[str, float] = field(default_factory=dict)
    verdict: Mapping[str, Any] = field(default_factory=dict)
    evaluation: Mapping[str, Any] = field(default_factory=dict)
    data_since: tuple[str, str] | None = None
    decision: Entry | None = None
    withdrawn: str | None = None
    machines: Sequence[str] = ()
    test: Entry | None = None
    stated: CardParams = field(default_factory=CardParams)
    pictures: Sequence[Picture] = ()

    def lineage(self, name: str) -> str:
        """A field of the lineage; empty where not recorded."""
        return self.tags.get(tag(name), "")

    def param(self, key: str) -> Any:
        """A parameter of the training; None where not recorded."""
        value = self.params.get(key)
        try:
            return None if value is None else json.loads(value)
        except ValueError:
            return value


def page(facts: Facts) -> str:
    """Return the whole card, with YAML front matter and links to its pictures."""
    return _render(facts, short=False, worst=WORST, sliced=True, checked=True)


def description(facts: Facts) -> str:
    """Return the card without front matter and pictures, within :data:`DESCRIPTION_LIMIT`.

    The slices, the checks and the worst classes are left out, in this order, if it is too long.
    """
    whole = ""
    for sliced, checked, worst in ((1, 1, WORST), (0, 1, WORST), (0, 0, WORST), (0, 0, 0)):
        whole = _render(facts, short=True, worst=worst, sliced=bool(sliced), checked=bool(checked))
        if len(whole) <= DESCRIPTION_LIMIT:
            return whole
    return f"{whole[: DESCRIPTION_LIMIT - 2]} …"


def _render(facts: Facts, *, short: bool, worst: int, sliced: bool, checked: bool) -> str:
    e, stated = facts.evaluation, facts.stated
    text = render(
        "card.md",
        short=short,
        front="" if short else _yaml(front_matter(facts)),
        name=escaped(f"{facts.model} version {facts.number}"),
        number=facts.number,
        sentence=escaped(_score(facts)),
        verdict=escaped(_verdict(facts)),
        intended_use=escaped(stated.intended_use or ""),
        data=[(label, escaped(text)) for label, text in _data(facts, short)],
        recipe=[(label, escaped(text)) for label, text in _recipe(facts) if text],
        metrics=list(_metrics(e)) if e else [],
        test=escaped(_test(facts.test)),
        calibration=_calibration(e),
        worst=_worst(e)[:worst],
        pictures=() if short else [
            {"text": escaped(one.text), "file": one.file} for one in facts.pictures
        ],
        slices=[
            {**row, "name": escaped(f"{row['group']}: {row['name']}")} for row in slices(e, ())
        ] if sliced else (),
        gate=_gate(facts, checked),
        exports=_exports(facts.decision, short),
        commit=facts.lineage("code_commit")[:12] or "unknown",
        reproduced=_reproduced(facts.machines),
        limits=[escaped(one) for one in _limits(facts)],
    )  # fmt: skip
    return _GAPS.sub("\n\n", text.strip()) + "\n"


def front_matter(facts: Facts) -> dict[str, Any]:
    """Return the YAML front matter of the Hub's model cards."""
    stated, architecture = facts.stated, facts.param("model.architecture")
    encoder = facts.param("model.encoder")
    names = [architecture, encoder if architecture not in WITHOUT_ENCODER else None]
    tags = ["image-segmentation", "semantic-segmentation", *(str(one) for one in names if one)]
    tree: dict[str, Any] = {
        **({"license": stated.model_licence} if stated.model_licence else {}),
        "library_name": "segops",
        "pipeline_tag": "image-segmentation",
        "tags": tags,
        "datasets": [_data_name(facts)],
    }
    metrics = [
        {"type": HUB_METRICS.get(one.name, one.name), "value": value, "name": one.label}
        for one in SPLIT_METRICS
        if one.places and (value := one.read(facts.evaluation)) is not None
    ]
    if metrics:
        dataset = {"type": _data_name(facts), "name": _data_name(facts)}
        dataset |= {"split": facts.evaluation["split"], "revision": facts.lineage("data_hash")}
        result = {
            "task": {"type": "image-segmentation", "name": "Semantic segmentation"},
            "dataset": {key: value for key, value in dataset.items() if value},
            "metrics": metrics,
        }
        tree["model-index"] = [{"name": facts.model, "results": [result]}]
    return tree


def _yaml(tree: dict[str, Any]) -> Markup:
    return Markup(yaml.safe_dump(tree, sort_keys=False, allow_unicode=True))


def _data_name(facts: Facts) -> str:
    return str(facts.param("data.path") or "data/voc").rpartition("/")[2]


def _score(facts: Facts) -> str:
    if facts.evaluation:
        return sentence(facts.evaluation)
    miou = facts.tags.get(tag("miou"))
    return f"mIoU {float(miou):.3f} on val" if miou not in (None, "none") else "Not evaluated"


def _verdict(facts: Facts) -> str:
    if facts.withdrawn is not None:
        return f"Withdrawn by a rollback: {facts.withdrawn}"
    return "" if facts.decision is None else f"Gate: {facts.decision.verdict}."


def _data(facts: Facts, short: bool) -> Iterator[tuple[str, str]]:
    """Yield label and text of each line about the data; empty texts are not stated."""
    yield "data set", str(facts.param("data.path") or "")
    classes = [
        str(name) for name in facts.verdict.get("classes") or facts.evaluation.get("classes") or ()
    ]
    yield "classes", f"{len(classes)}: {_listed(classes)}" if classes else ""
    images = facts.verdict.get("images") or {}
    if images:
        yield "images", ", ".join(f"{count} in {split}" for split, count in images.items())
    if facts.data_since is not None:
        champion, changed = facts.data_since
        yield f"since version {champion}", changed
    digits = 12 if short else 64
    for label, name in (("hash", "data_hash"), ("hash of val", "val_hash")):
        if facts.lineage(name):
            yield label, facts.lineage(name)[:digits]
    channels, further = facts.param("data.channels"), facts.param("data.bands") or ()
    if channels not in (None, RGB) or further:
        first = "RGB" if channels in (None, RGB) else f"{channels} bands of each image file"
        yield "channels", ", ".join([first, *map(str, further)])
    yield "licence", facts.stated.data_licence or ""


def _listed(names: Sequence[str]) -> str:
    return ", ".join(names[:MOST]) + (", …" if len(names) > MOST else "")


def _recipe(facts: Facts) -> Iterator[tuple[str, str]]:
    """Yield label and text of each line of the recipe; empty texts are left out."""
    param, epochs = facts.param, facts.epochs
    architecture = param("model.architecture")
    yield "architecture", str(architecture or "")
    if architecture not in WITHOUT_ENCODER:
        yield "encoder", str(param("model.encoder") or "")
    weights = param("model.start_from") or param("model.encoder_weights")
    licence = facts.lineage("weights_licence") or _evidence(facts, "licence", "name")
    start = str(weights) if weights else "random weights" if facts.params else ""
    yield "started from", f"{start}, licence {licence or 'unknown'}" if weights else start
    if param("train.pruning"):
        yield "pruned", f"without {param('train.pruning'):.0%} of the channels that it started from"
    yield "loss", _loss(param("train.loss"))
    if param("train.teacher"):
        share = param("train.distillation.weight")
        teacher = facts.lineage("teacher_model") or param("train.teacher")
        yield "teacher", f"{teacher}, {share:.0%} of the loss"
    optimizer, lr, schedule = (param(f"train.{one}") for one in ("optimizer", "lr", "schedule"))
    if optimizer:
        yield "optimizer", f"{optimizer}, learning rate {lr}, schedule {schedule}"
    batch = param("train.batch_size")
    yield "batch size", str(batch or "")
    if "epochs_run" in epochs:
        best = epochs.get("best_epoch")
        yield "epochs", f"{epochs['epochs_run']:g}" + (f", best {best:g}" if best else "")
    yield "seed", facts.lineage("seed")
    machine = [facts.lineage(name) for name in ("device", "gpu", "precision")]
    yield "trained on", ", ".join(one for one in machine if one)
    yield "licence of the model", facts.stated.model_licence or "not stated"
    if facts.evaluation.get("predict"):
        yield "predicts", predict_words(facts.evaluation.get("predict"))


def _loss(value: Any) -> str:
    """Return `train.loss` in words: a name, or a list of names and weights."""
    if not isinstance(value, list):
        return str(value or "")
    return " + ".join(f"{one.get('weight', 1):g} × {one['name']}" for one in value)


def _evidence(facts: Facts, *path: str) -> str:
    value: Any = None if facts.decision is None else facts.decision.details.get("evidence")
    for key in path:
        value = value.get(key) if isinstance(value, Mapping) else None
    return value if isinstance(value, str) else ""


def _metrics(evaluation: Mapping[str, Any]) -> Iterator[tuple[str, str]]:
    miou, low, high = (number_at(evaluation, key) for key in ("miou", "miou_low", "miou_high"))
    interval = ""
    if low is not None and high is not None:
        interval = f" ({level(evaluation['confidence'])} interval {low:.3f} to {high:.3f})"
    yield "mIoU", f"{decimal(miou)}{interval}"
    for metric in shown(SPLIT_METRICS, "page"):
        if metric.read(evaluation) is not None:
            yield metric.label, metric.text(evaluation)


def _test(entry: Entry | None) -> str:
    if entry is None:
        return ""
    before = int(entry.details.get("before", 0))
    looks = "No model was scored on it before"
    if before:
        looks = f"Models were scored on it {before} {'time' if before == 1 else 'times'} before"
    return f"{entry.reason} {looks}; this score is of {entry.time[:10]} and decided nothing."


def _calibration(evaluation: Mapping[str, Any]) -> str:
    error = number_at(evaluation, "calibration.expected_calibration_error")
    confidence = number_at(evaluation, "calibration.confidence")
    accuracy = number_at(evaluation, "pixel_accuracy")
    if error is None or confidence is None or accuracy is None:
        return ""
    side = "over" if confidence > accuracy else "under"
    return (
        f"Its mean confidence is {confidence:.3f}, its pixel accuracy {accuracy:.3f}: it is "
        f"{side}confident. The expected calibration error is {error:.3f}."
    )


def worst_classes(evaluation: Mapping[str, Any]) -> list[str]:
    """Return the classes in the ground truth by their IoU, lowest first."""
    present = {
        name: figures
        for name, figures in (evaluation.get("classes") or {}).items()
        if number_at(figures, "truth_pixels")
    }
    return sorted(present, key=lambda name: (number_at(present[name], "iou") or 0.0, name))


def _worst(evaluation: Mapping[str, Any]) -> list[dict[str, Any]]:
    keys = ("iou", "recall", "precision", "truth_pixels")
    return [
        {
            "name": escaped(name),
            **{key: number_at(evaluation["classes"][name], key) for key in keys},
        }
        for name in worst_classes(evaluation)
    ]


def _gate(facts: Facts, checked: bool) -> dict[str, Any]:
    decision = facts.decision
    if decision is None:
        return {"summary": "Not decided yet.", "checks": []}
    compared = decision.details.get("champion")
    against = f"compared with version {compared}" if compared else "without a champion before it"
    summary = f"{decision.verdict} at {decision.time[:16].replace('T', ' ')} UTC, {against}."
    if not checked:
        return {"summary": escaped(f"{summary} {decision.reason[:600]}"), "checks": []}
    checks = [
        escaped(f"{_outcome(one)}: {one['sentence']}")
        for one in decision.details.get("checks") or ()
    ]
    return {"summary": escaped(summary), "checks": checks}


def _exports(decision: Entry | None, short: bool) -> dict[str, Any]:
    """Return sentences about the exports and, where the card is whole, rows of their table."""
    told = {} if decision is None else decision.details.get(exports.EXPORTS) or {}
    if short:
        return {"sentences": list(map(escaped, exports.sentences(told))), "rows": ()}
    return {
        "sentences": [escaped(exports.verdict(name, one)) for name, one in sorted(told.items())],
        "rows": [
            {**row, "worst_class": escaped(row["worst_class"] or "")} for row in exports.rows(told)
        ],
    }


def _outcome(check: Mapping[str, Any]) -> str:
    """Return the outcome of a check; an entry of an earlier segops says only whether it passed."""
    return str(check.get("outcome") or ("passed" if check.get("passed") else "failed"))


def _reproduced(machines: Sequence[str]) -> str:
    if not machines:
        return "No machine has done so yet."
    return f"{counted(len(machines), 'machine')} did so."


def _limits(facts: Facts) -> Iterator[str]:
    if facts.stated.limits:
        yield facts.stated.limits
    else:
        yield "None stated."
    absent = [
        name
        for name, figures in (facts.evaluation.get("classes") or {}).items()
        if not number_at(figures, "truth_pixels")
    ]
    if absent:
        yield f"Not scored, because val holds no pixel of them: {_listed(absent)}."
    yield "Every pixel gets one of the classes above; there is no answer for anything else."
