"""An Optuna study in a SQLite file: what it is bound to, what it holds, how it goes on."""

from __future__ import annotations

import hashlib
import json
import warnings
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import optuna
from optuna.distributions import (
    BaseDistribution,
    CategoricalDistribution,
    FloatDistribution,
    IntDistribution,
)
from optuna.trial import FrozenTrial, TrialState

from segops.files import sha256_bytes
from segops.params.file import Params, is_whole_number
from segops.params.tune import RangeParams
from segops.record.tuning import Trial

STARTUP_TRIALS = 8
"""Trials at random, before the sampler learns from them."""
UNPRUNED_TRIALS = 4
"""Complete trials, before others are held against them."""
PARTS, ROWS, MESSAGE, AGAIN = "parts", "rows", "message", "again"
"""Names of what is kept beside Optuna's own fields."""


@dataclass
class Study:
    """A study and what it is bound to.

    Attributes:
        inner: Optuna's object.
        ranges: What each parameter may be, by dotted key.
        labels: Of choices, Optuna's label -> the value that it stands for, by dotted key.
        seed: Seed of the study.
        news: How it was found or made, for a person.
    """

    inner: optuna.Study
    ranges: dict[str, BaseDistribution]
    labels: dict[str, dict[Any, Any]]
    seed: int
    news: str

    @property
    def name(self) -> str:
        """Its name, unique for what it is bound to."""
        return self.inner.study_name

    def ask(self) -> tuple[optuna.trial.Trial, dict[str, Any]]:
        """Begin a trial; returns it and its values by dotted key.

        What is asked depends on the seed and on the trials so far alone, so that a study that was
        killed goes on as it would have.
        """
        self.inner.sampler = _sampler(self.seed, len(self.ended()))
        trial = self.inner.ask(self.ranges)
        return trial, self._values(trial.params)

    def trials(self) -> list[Trial]:
        """The trials that have ended, those of killed processes too; by number."""
        found = self.inner.get_trials(deepcopy=False)
        return [self._told(one) for one in found if one.state.is_finished()]

    def ended(self) -> list[Trial]:
        """The trials that count: complete, pruned or failed."""
        return [one for one in self.trials() if one.outcome != "lost"]

    def best(self) -> Trial | None:
        """The complete trial with the highest score; None where none is complete."""
        complete = [one for one in self.ended() if one.outcome == "complete"]
        return max(complete, key=lambda one: one.score or 0.0, default=None)

    def propose(self, settings: Params) -> None:
        """Have the values that the parameters hold now tried first, where the ranges hold them."""
        flat = settings.flat()
        params = {}
        for key, distribution in self.ranges.items():
            value = flat.get(key)
            if key in self.labels:
                value = next((own for own, one in self.labels[key].items() if one == value), None)
                if value not in self.labels[key]:
                    return
            elif not isinstance(value, int | float) or not _holds(distribution, value):
                return
            params[key] = value
        self.inner.enqueue_trial(params)

    def requeue_lost(self) -> int:
        """Have the trials of killed processes tried once more; returns how many there were.

        The caller holds the lock that says that nobody else works on the study.
        """
        trials = self.inner.get_trials(deepcopy=False)
        queued = {one.user_attrs.get(AGAIN) for one in trials if one.state == TrialState.WAITING}
        running = [one for one in trials if one.state == TrialState.RUNNING]
        for one in running:
            if one.params.keys() == self.ranges.keys() and one.number not in queued:
                self.inner.enqueue_trial(one.params, user_attrs={AGAIN: one.number})
            self.inner.tell(one.number, state=TrialState.FAIL)
        return len(running)

    def _values(self, params: Mapping[str, Any]) -> dict[str, Any]:
        return {
            key: self.labels[key][value] if key in self.labels else value
            for key, value in params.items()
        }

    def _told(self, trial: FrozenTrial) -> Trial:
        message = trial.user_attrs.get(MESSAGE)
        outcome = {TrialState.COMPLETE: "complete", TrialState.FAIL: "lost"}.get(
            trial.state, "failed" if message else "pruned"
        )
        rows = trial.user_attrs.get(ROWS, [])
        scores = [row["selection_miou"] for row in rows if row["selection_miou"] is not None]
        return Trial(
            number=trial.number,
            outcome=outcome,
            values=self._values(trial.params),
            score=trial.value if outcome == "complete" else max(scores, default=None),
            rows=rows,
            message=message,
        )


def open_study(path: Path, settings: Params, data: str, epochs: int | None) -> Study:
    """The study of these parameters and this data: the one that was begun, or a new one.

    Args:
        path: The SQLite file; it is made where missing.
        settings: The parameters; the ranges are theirs.
        data: Hash of the train split.
        epochs: Epochs of a trial; None where its length is given in iterations.
    """
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    path.parent.mkdir(parents=True, exist_ok=True)
    storage = optuna.storages.RDBStorage(f"sqlite:///{path}")
    parts = study_parts(settings, data)
    name = f"search-{sha256_bytes(json.dumps(parts, sort_keys=True).encode())[:12]}"
    others = optuna.get_all_study_summaries(storage)
    found = next((one for one in others if one.study_name == name), None)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", optuna.exceptions.ExperimentalWarning)
        inner = optuna.create_study(
            study_name=name,
            storage=storage,
            direction="maximize",
            pruner=optuna.pruners.MedianPruner(
                n_startup_trials=UNPRUNED_TRIALS,
                # The first quarter of a trial, its first epoch at least, decides nothing.
                n_warmup_steps=max(1, (epochs or 1) // 4) + 1,
            ),
            load_if_exists=True,
        )
    distributions, labels = _distributions(settings)
    study = Study(inner, distributions, labels, settings.tune.seed, "")
    if found is None:
        inner.set_user_attr(PARTS, parts)
        study.propose(settings)
        study.news = _news(name, parts, others)
    else:
        study.news = f"Going on with study {name}: {len(study.ended())} trials are done."
    return study


def study_parts(settings: Params, data: str) -> dict[str, str]:
    """What a study is bound to, as hashes: with one of them changed, scores do not compare."""
    searched = settings.tune.ranges
    skipped = {"train.epochs", "train.iterations"} if settings.tune.epochs else set()
    outside = {
        key: value
        for key, value in settings.flat().items()
        if key.partition(".")[0] in ("augment", "model", "train")
        and not any(key == one or key.startswith(f"{one}.") for one in searched)
        and key not in skipped
    }
    ranges = {key: value.model_dump(mode="json") for key, value in searched.items()}
    return {
        "data": _hash([data, settings.data.class_names]),
        "parameters": _hash([outside, settings.tune.epochs]),
        "ranges": _hash([ranges, settings.tune.seed]),
    }


def _news(name: str, parts: Mapping[str, str], others: list[Any]) -> str:
    dated = [one for one in others if one.datetime_start is not None]
    if not dated:
        return f"New study {name}."
    last = max(dated, key=lambda one: one.datetime_start)
    before = last.user_attrs.get(PARTS, {})
    changed = [part for part, value in parts.items() if before.get(part) != value]
    return (
        f"New study {name}, because of other {' and '.join(changed)} than those of "
        f"{last.study_name}, which stays as it is ({last.n_trials} trials)."
    )


def _distributions(
    settings: Params,
) -> tuple[dict[str, BaseDistribution], dict[str, dict[Any, Any]]]:
    now = settings.flat()
    ranges: dict[str, BaseDistribution] = {}
    labels: dict[str, dict[Any, Any]] = {}
    for key, given in settings.tune.ranges.items():
        if given.choices is not None:
            labels[key] = {_label(one): _plain(one) for one in given.choices}
            ranges[key] = CategoricalDistribution(tuple(labels[key]))
        else:
            ranges[key] = _numbers(key, given, now.get(key))
    return ranges, labels


def _numbers(key: str, given: RangeParams, now: Any) -> BaseDistribution:
    assert given.low is not None
    assert given.high is not None
    is_whole = given.low == int(given.low) and given.high == int(given.high)
    # An entry of model.options has no type but that of its value.
    is_integer = is_whole_number(key) or (isinstance(now, int) and not isinstance(now, bool))
    if given.integer or (is_integer and is_whole):
        return IntDistribution(int(given.low), int(given.high), log=given.log)
    return FloatDistribution(given.low, given.high, log=given.log)


def _holds(distribution: BaseDistribution, value: float) -> bool:
    if isinstance(distribution, IntDistribution) and value != int(value):
        return False
    assert isinstance(distribution, FloatDistribution | IntDistribution)
    return distribution.low <= value <= distribution.high


def _label(choice: Any) -> Any:
    """What Optuna keeps of a choice: it stores plain values only."""
    plain = _plain(choice)
    return plain if plain is None or isinstance(plain, str | int | float) else json.dumps(plain)


def _plain(choice: Any) -> Any:
    return json.loads(json.dumps(choice))


def _sampler(seed: int, ended: int) -> optuna.samplers.TPESampler:
    digest = hashlib.blake2b(f"study {seed} {ended}".encode(), digest_size=4).digest()
    return optuna.samplers.TPESampler(
        n_startup_trials=STARTUP_TRIALS, seed=int.from_bytes(digest, "little")
    )


def _hash(content: Any) -> str:
    return sha256_bytes(json.dumps(content, sort_keys=True).encode())
