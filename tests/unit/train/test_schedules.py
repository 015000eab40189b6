"""Learning rates step by step."""

from __future__ import annotations

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from segops.params.train import TrainParams
from segops.train.schedules import Plateau, Schedule

STEPS = 10


def schedule(**values: object) -> Schedule:
    given_values = {"epochs": 20, "lr": 0.1, "warmup_epochs": 2, **values}
    return Schedule.of(TrainParams.model_validate(given_values), STEPS)


@pytest.mark.parametrize("name", ["poly", "cosine", "step", "plateau"])
def test_warmup_is_linear_and_ends_at_the_peak(name: str) -> None:
    chosen = schedule(schedule=name)
    rates = [chosen.learning_rate(step) for step in range(20)]
    assert rates == pytest.approx([0.1 * (step + 1) / 20 for step in range(20)])
    assert chosen.learning_rate(20) == pytest.approx(0.1)


def test_a_part_of_an_epoch_warms_up() -> None:
    assert schedule(warmup_epochs=0.5).warmup_steps == 5
    assert schedule(warmup_epochs=0).learning_rate(0) == 0.1


@pytest.mark.parametrize(
    ("name", "share", "expected"),
    [
        ("poly", 0.5, 0.1 * 0.5**0.9),
        ("poly", 1.0, 0.0),
        ("cosine", 0.5, 0.05),
        ("cosine", 0.25, 0.1 * (1 + math.sqrt(0.5)) / 2),
        ("cosine", 1.0, 0.0),
        ("plateau", 0.7, 0.1),
    ],
)
def test_after_the_warmup(name: str, share: float, expected: float) -> None:
    step = 20 + round(share * 180)
    assert schedule(schedule=name).learning_rate(step) == pytest.approx(expected, abs=1e-12)


def test_poly_takes_its_power() -> None:
    rate = schedule(schedule="poly", poly_power=2).learning_rate(20 + 90)
    assert rate == pytest.approx(0.1 * 0.25)


def test_step_drops_every_so_many_epochs_after_the_warmup() -> None:
    chosen = schedule(schedule="step", step_epochs=3, step_factor=0.5)
    rates = [chosen.learning_rate(step) for step in (20, 49, 50, 79, 80)]
    assert rates == pytest.approx([0.1, 0.1, 0.05, 0.05, 0.025])


def test_cosine_ends_at_the_floor() -> None:
    chosen = schedule(schedule="cosine", min_lr=0.02)
    assert chosen.learning_rate(200) == pytest.approx(0.02)
    assert chosen.learning_rate(110) == pytest.approx(0.06)


@given(
    name=st.sampled_from(["poly", "cosine", "step", "plateau"]),
    step=st.integers(0, 500),
    floor=st.floats(0, 0.1),
    scale=st.floats(0, 1),
)
def test_rates_stay_between_floor_and_peak_and_fall_after_the_warmup(
    name: str, step: int, floor: float, scale: float
) -> None:
    chosen = schedule(schedule=name, min_lr=floor, selection_share=0.1)
    rate = chosen.learning_rate(step, scale)
    assert floor <= rate <= 0.1 + 1e-12
    if step >= chosen.warmup_steps:
        assert chosen.learning_rate(step + 1, scale) <= rate + 1e-12


def test_plateau_drops_after_patience_epochs_without_gain() -> None:
    plateau = Plateau(factor=0.1, patience=2)
    scales = []
    for score in [0.2, 0.3, 0.3, 0.29, 0.31, 0.1, 0.1, 0.1, 0.1]:
        plateau.update(score)
        scales.append(plateau.scale)
    assert scales == pytest.approx([1, 1, 1, 0.1, 0.1, 0.1, 0.01, 0.01, 0.001])


@given(scores=st.lists(st.floats(0, 1), max_size=20), split=st.integers(0, 20))
def test_a_restored_plateau_goes_on_as_the_unbroken_one(scores: list[float], split: int) -> None:
    unbroken = Plateau(0.5, 3)
    for score in scores:
        unbroken.update(score)
    first, second = Plateau(0.5, 3), Plateau(0.5, 3)
    for score in scores[:split]:
        first.update(score)
    second.restore(first.state())
    for score in scores[split:]:
        second.update(score)
    assert second.state() == unbroken.state()


def test_losses_without_masks_gain_their_weight_over_the_ramp() -> None:
    schedule = Schedule.of(TrainParams(epochs=10, ramp_up_epochs=2), 5)
    shares = [schedule.ramp_up(step) for step in range(12)]
    assert shares[0] == pytest.approx(math.exp(-5))
    assert shares[5] == pytest.approx(math.exp(-5 / 4))
    assert shares[10:] == [1, 1]
    assert shares == sorted(shares)
    assert Schedule.of(TrainParams(epochs=10, ramp_up_epochs=0), 5).ramp_up(0) == 1
