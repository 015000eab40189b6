"""An Optuna study in a SQLite file, bound to data, parameters and ranges."""

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

from segops.params.file import Params, is_whole_number
from segops.params.tune import RangeParams
from segops.record.tuning import Trial
from segops.train.fingerprint import content_hash

STARTUP_TRIALS = 8
"""Number of random trials before the sampler learns."""
UNPRUNED_TRIALS = 4
"""Number of complete trials before others are compared with them and pruned."""
PARTS, ROWS, MESSAGE, AGAIN = "parts", "rows", "message", "again"
"""Names of our user attributes in Optuna."""


@dataclass
class Study:
    """A study with its ranges, by dotted key.

    `labels` maps Optuna's labels of choices to their values. `news` is a sentence that says whether
    the study is new or continued.
    """

    inner: optuna.Study
    ranges: dict[str, BaseDistribution]
    labels: dict[str, dict[Any, Any]]
    seed: int
    news: str

    @property
    def name(self) -> str:
        """Its name, unique for its data, parameters and ranges."""
        return self.inner.study_name

    def ask(self) -> tuple[optuna.trial.Trial, dict[str, Any]]:
        """Begin a trial; return it and its values by dotted key.

        The values depend only on the seed and on the trials so far, so a killed study continues as
        it would have without the interruption.
        """
        digest = hashlib.blake2b(f"study {self.seed} {len(self.ended())}".encode(), digest_size=4)
        self.inner.sampler = optuna.samplers.TPESampler(
            n_startup_trials=STARTUP_TRIALS, seed=int.from_bytes(digest.digest(), "little")
        )
        trial = self.inner.ask(self.ranges)
        return trial, self._values(trial.params)

    def trials(self) -> list[Trial]:
        """The trials that have ended, by number, lost trials included."""
        trials = self.inner.get_trials(deepcopy=False)
        return [self._trial(trial) for trial in trials if trial.state.is_finished()]

    def ended(self) -> list[Trial]:
        """The trials that are complete, pruned or failed, but not lost."""
        return [trial for trial in self.trials() if trial.outcome != "lost"]

    def best(self) -> Trial | None:
        """The complete trial with the highest score; None without a complete trial."""
        complete = [trial for trial in self.ended() if trial.outcome == "complete"]
        return max(complete, key=lambda trial: trial.score or 0.0, default=None)

    def propose(self, settings: Params) -> None:
        """Enqueue the current parameter values as a trial, if they are within the ranges."""
        flat = settings.flat()
        params = {}
        for key, distribution in self.ranges.items():
            value = flat.get(key)
            if key in self.labels:
                matching = [label for label, choice in self.labels[key].items() if choice == value]
                if not matching:
                    return
                value = matching[0]
            elif not isinstance(value, int | float) or not _holds(distribution, value):
                return
            params[key] = value
        self.inner.enqueue_trial(params)

    def requeue_lost(self) -> int:
        """Enqueue the trials of killed processes again; return their number.

        The caller holds the lock of the study, so no running trial has a live process.
        """
        trials = self.inner.get_trials(deepcopy=False)
        queued = {
            trial.user_attrs.get(AGAIN) for trial in trials if trial.state == TrialState.WAITING
        }
        running = [trial for trial in trials if trial.state == TrialState.RUNNING]
        for trial in running:
            if trial.params.keys() == self.ranges.keys() and trial.number not in queued:
                self.inner.enqueue_trial(trial.params, user_attrs={AGAIN: trial.number})
            self.inner.tell(trial.number, state=TrialState.FAIL)
        return len(running)

    def _values(self, params: Mapping[str, Any]) -> dict[str, Any]:
        return {
            key: self.labels[key][value] if key in self.labels else value
            for key, value in params.items()
        }

    def _trial(self, trial: FrozenTrial) -> Trial:
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
    """Continue the study of these parameters and this data, a hash, in a SQLite file, or begin it.

    `epochs` are those of a trial; None where its length is given in iterations.
    """
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    path.parent.mkdir(parents=True, exist_ok=True)
    storage = optuna.storages.RDBStorage(f"sqlite:///{path}")
    parts = study_parts(settings, data)
    name = f"search-{content_hash(parts)[:12]}"
    others = optuna.get_all_study_summaries(storage)
    is_new = all(study.study_name != name for study in others)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", optuna.exceptions.ExperimentalWarning)
        inner = optuna.create_study(
            study_name=name,
            storage=storage,
            direction="maximize",
            pruner=optuna.pruners.MedianPruner(
                n_startup_trials=UNPRUNED_TRIALS,
                # No trial is pruned in its first quarter, nor in its first epoch.
                n_warmup_steps=max(1, (epochs or 1) // 4) + 1,
            ),
            load_if_exists=True,
        )
    distributions, labels = _distributions(settings)
    study = Study(inner, distributions, labels, settings.tune.seed, "")
    if is_new:
        inner.set_user_attr(PARTS, parts)
        study.propose(settings)
        study.news = _news(name, parts, others)
    else:
        study.news = f"Continuing study {name}: {len(study.ended())} trials are done."
    return study


def study_parts(settings: Params, data: str) -> dict[str, str]:
    """Hashes of data, parameters and ranges; scores are comparable only where all agree."""
    searched = settings.tune.ranges
    skipped = {"train.epochs", "train.iterations"} if settings.tune.epochs else set()
    outside = {
        key: value
        for key, value in settings.flat().items()
        if key.partition(".")[0] in ("augment", "model", "train")
        and not any(key == name or key.startswith(f"{name}.") for name in searched)
        and key not in skipped
    }
    ranges = {key: value.model_dump(mode="json") for key, value in searched.items()}
    return {
        "data": content_hash([data, settings.data.class_names]),
        "parameters": content_hash([outside, settings.tune.epochs]),
        "ranges": content_hash([ranges, settings.tune.seed]),
    }


def _news(name: str, parts: Mapping[str, str], others: list[Any]) -> str:
    dated = [study for study in others if study.datetime_start is not None]
    if not dated:
        return f"New study {name}."
    last = max(dated, key=lambda study: study.datetime_start)
    before = last.user_attrs.get(PARTS, {})
    changed = [part for part, value in parts.items() if before.get(part) != value]
    return (
        f"New study {name}: {' and '.join(changed)} differ from those of {last.study_name}, "
        f"which is kept ({last.n_trials} trials)."
    )


def _distributions(
    settings: Params,
) -> tuple[dict[str, BaseDistribution], dict[str, dict[Any, Any]]]:
    now = settings.flat()
    ranges: dict[str, BaseDistribution] = {}
    labels: dict[str, dict[Any, Any]] = {}
    for key, given in settings.tune.ranges.items():
        if given.choices is not None:
            # As JSON holds them: tuples become lists.
            choices = json.loads(json.dumps(given.choices))
            labels[key] = {_label(choice): choice for choice in choices}
            ranges[key] = CategoricalDistribution(tuple(labels[key]))
        else:
            ranges[key] = _numbers(key, given, now.get(key))
    return ranges, labels


def _numbers(key: str, given: RangeParams, now: Any) -> BaseDistribution:
    assert given.low is not None
    assert given.high is not None
    is_whole = given.low == int(given.low) and given.high == int(given.high)
    # An entry of model.options has no declared type, so its value decides.
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
    """The label of a choice in Optuna, which stores plain values only."""
    return choice if choice is None or isinstance(choice, str | int | float) else json.dumps(choice)
