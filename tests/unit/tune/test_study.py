"""The study in its SQLite file: what it is bound to, what it asks, what a killed one leaves."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from optuna.distributions import CategoricalDistribution, FloatDistribution, IntDistribution
from optuna.trial import TrialState
from PIL import Image

from segops.params.file import Params, parse_params
from segops.record.tuning import Trial
from segops.tune.plots import write_search_picture
from segops.tune.study import MESSAGE, ROWS, Study, open_study, study_parts

RANGES: dict[str, Any] = {
    "train.lr": {"low": 1e-4, "high": 0.1, "log": True},
    "train.warmup_epochs": {"low": 0, "high": 2},
    "train.batch_size": {"low": 2, "high": 8},
    "train.loss": {"choices": ["cross_entropy", [{"name": "dice", "weight": 2.0}]]},
    "train.gradient_clip": {"choices": [None, 1.0]},
}


def settings(ranges: dict[str, Any] | None = None, **train: Any) -> Params:
    base = {"lr": 0.01, "epochs": 8, "batch_size": 4} | train
    return parse_params({"train": base, "tune": {"ranges": RANGES if ranges is None else ranges}})


def opened(path: Path, given: Params | None = None, data: str = "data") -> Study:
    return open_study(path / "tune.db", given or settings(), data, 8)


def finish(study: Study, score: float) -> dict[str, Any]:
    trial, values = study.ask()
    trial.set_user_attr(ROWS, [{"epoch": 1, "selection_miou": score}])
    study.inner.tell(trial, score)
    return values


def test_ranges_become_distributions_of_their_kind(tmp_path: Path) -> None:
    study = opened(tmp_path)
    assert study.ranges == {
        "train.lr": FloatDistribution(1e-4, 0.1, log=True),
        "train.warmup_epochs": FloatDistribution(0, 2),
        "train.batch_size": IntDistribution(2, 8),
        "train.loss": CategoricalDistribution(
            ("cross_entropy", '[{"name": "dice", "weight": 2.0}]')
        ),
        "train.gradient_clip": CategoricalDistribution((None, 1.0)),
    }


def test_a_parameter_of_whole_numbers_is_searched_in_whole_numbers(tmp_path: Path) -> None:
    """Also where none is set now, and the value of now does not say so."""
    given = settings({"train.early_stopping_patience": {"low": 2, "high": 8}})
    assert given.train.early_stopping_patience is None
    found = opened(tmp_path, given).ranges
    assert found == {"train.early_stopping_patience": IntDistribution(2, 8)}


def test_the_values_of_params_come_first(tmp_path: Path) -> None:
    first = finish(opened(tmp_path), 0.5)
    assert first == {
        "train.lr": 0.01,
        "train.warmup_epochs": 1.0,
        "train.batch_size": 4,
        "train.loss": "cross_entropy",
        "train.gradient_clip": None,
    }
    outside = settings(lr=0.5)
    assert finish(opened(tmp_path, outside), 0.5)["train.lr"] != 0.5


def test_choices_come_back_as_they_were_given(tmp_path: Path) -> None:
    study = opened(tmp_path)
    seen = [finish(study, 0.5)["train.loss"] for _ in range(8)]
    assert [{"name": "dice", "weight": 2.0}] in seen
    assert "cross_entropy" in seen


def test_a_study_opened_anew_asks_what_the_unbroken_one_asks(tmp_path: Path) -> None:
    (tmp_path / "a").mkdir()
    (tmp_path / "b").mkdir()
    unbroken = opened(tmp_path / "a")
    asked = [finish(unbroken, 0.1 * n) for n in range(10)]
    again: list[dict[str, Any]] = []
    for length in (3, 9, 10):  # the last one is the sampler's, after those at random
        broken = opened(tmp_path / "b")
        again += [finish(broken, 0.1 * n) for n in range(len(again), length)]
    assert again == asked
    assert len({one["train.lr"] for one in asked}) == 10


def test_a_killed_trial_is_asked_again_and_does_not_count(tmp_path: Path) -> None:
    study = opened(tmp_path)
    finish(study, 0.5)
    lost, values = study.ask()
    lost.report(0.9, 1)
    after = opened(tmp_path)
    assert after.requeue_lost() == 1
    assert [one.outcome for one in after.trials()] == ["complete", "lost"]
    assert [one.number for one in after.ended()] == [0]
    assert finish(after, 0.25) == values
    assert [one.outcome for one in after.trials()] == ["complete", "lost", "complete"]
    assert opened(tmp_path).requeue_lost() == 0
    best = after.best()
    assert best is not None
    assert (best.number, best.score) == (0, 0.5)


def test_failed_and_pruned_trials_are_told_apart(tmp_path: Path) -> None:
    study = opened(tmp_path)
    failed, _ = study.ask()
    failed.set_user_attr(MESSAGE, "train.lr: too high")
    study.inner.tell(failed, state=TrialState.PRUNED)
    pruned, _ = study.ask()
    pruned.set_user_attr(ROWS, [{"epoch": 1, "selection_miou": 0.125}])
    study.inner.tell(pruned, state=TrialState.PRUNED)
    told = [(one.outcome, one.score, one.message) for one in study.ended()]
    assert told == [("failed", None, "train.lr: too high"), ("pruned", 0.125, None)]
    assert study.best() is None


def test_a_study_is_bound_to_data_parameters_and_ranges(tmp_path: Path) -> None:
    first = opened(tmp_path)
    finish(first, 0.5)
    assert opened(tmp_path).news == f"Continuing study {first.name}: 1 trials are done."
    # What has a range, and what no trial depends on, may change.
    for same in (settings(lr=0.02), settings(batch_size=8)):
        assert opened(tmp_path, same).name == first.name
    narrower = RANGES | {"train.lr": {"low": 1e-3, "high": 0.1, "log": True}}
    others = {
        "data": opened(tmp_path, data="other"),
        "parameters": opened(tmp_path, settings(seed=1)),
        "ranges": opened(tmp_path, settings(ranges=narrower)),
    }
    assert len({first.name, *(one.name for one in others.values())}) == 4
    for part, study in others.items():
        assert f"{part} differ from those of {first.name}" in study.news


def test_the_trial_s_own_length_binds_and_the_training_s_does_not() -> None:
    tree = settings().model_dump(mode="json", by_alias=True)
    tree["tune"]["epochs"] = 3
    short = parse_params(tree)
    tree["train"]["epochs"] = 99
    assert (
        study_parts(short, "d")
        == study_parts(parse_params(tree), "d")
        != study_parts(settings(), "d")
    )
    assert study_parts(settings(), "d") != study_parts(settings(epochs=99), "d")


@pytest.mark.parametrize("scores", [[0.5], [0.5, 0.5], [0.1, 0.4, 0.3]])
def test_the_picture_is_whole(tmp_path: Path, scores: list[float]) -> None:
    study = opened(tmp_path)
    trials = [
        Trial(number, "complete", values, score, [])
        for number, score in enumerate(scores)
        for values in [study.ask()[1]]
    ]
    trials.append(Trial(9, "failed", trials[0].values, None, [], "no"))
    best = max(trials, key=lambda one: one.score or 0)
    path = tmp_path / "search.png"
    write_search_picture(path, trials, best, settings().tune.ranges)
    with Image.open(path) as image:
        pixels = np.asarray(image.convert("L"))
    assert pixels.shape[1] > 1200
    assert (pixels < 128).mean() > 0.005
    border = [pixels[0], pixels[-1], pixels[:, 0], pixels[:, -1]]
    assert all((side == 255).all() for side in border)
