"""A loss that is not finite is found at its exact step, however late the look."""

from __future__ import annotations

import math

import pytest
import torch

from segops.runtime.errors import SegopsError
from segops.train.losslog import LOSS, LossLog, Step

CPU = torch.device("cpu")


def step(number: int) -> Step:
    return Step(number, epoch=2, learning_rate=0.25, images=lambda: [f"a{number}", f"b{number}"])


@pytest.mark.parametrize("bad", [math.nan, math.inf, -math.inf])
@pytest.mark.parametrize("window", [1, 4, 100])
def test_the_step_is_named(bad: float, window: int) -> None:
    log = LossLog(CPU, window)
    values = [1.0, 2.0, 3.0, 4.0, 5.0, bad, 7.0, math.nan, 9.0]

    def epoch() -> None:
        for number, value in enumerate(values, 1):
            log.add(torch.tensor(value), step(number))
        log.close()

    with pytest.raises(SegopsError, match=r"at step 6 \(epoch 2\).*rate 0\.25.*: a6, b6\. Lower"):
        epoch()


def test_on_the_cpu_the_step_itself_fails() -> None:
    log = LossLog(CPU)
    log.add(torch.tensor(1.0), step(1))
    with pytest.raises(SegopsError, match="step 2"):
        log.add(torch.tensor(math.nan), step(2))


def test_nothing_is_looked_at_before_the_window_is_full() -> None:
    """Each look waits for the device."""
    log = LossLog(CPU, window=3)
    log.add(torch.tensor(math.nan), step(1))
    log.add(torch.tensor(1.0), step(2))
    with pytest.raises(SegopsError, match="step 1"):
        log.add(torch.tensor(1.0), step(3))


@pytest.mark.parametrize("window", [1, 3, 100])
def test_the_mean_is_over_the_losses_since_the_last(window: int) -> None:
    log = LossLog(CPU, window)
    for values in ([1.0, 2.0, 6.0, 1.0], [8.0], [0.5, 1.5]):
        for number, value in enumerate(values):
            log.add(torch.tensor(value, requires_grad=True), step(number))
        assert log.close()[LOSS] == pytest.approx(sum(values) / len(values))
    assert log.close()[LOSS] == 0


@pytest.mark.parametrize("split", range(6))
def test_a_restored_log_gives_the_same_mean(split: int) -> None:
    values = [0.1, 0.7, 0.3, 0.9, 0.2]
    unbroken, first, second = LossLog(CPU, 2), LossLog(CPU, 2), LossLog(CPU, 2)
    for value in values:
        unbroken.add(torch.tensor(value), step(1))
    for value in values[:split]:
        first.add(torch.tensor(value), step(1))
    second.restore(first.state())
    for value in values[split:]:
        second.add(torch.tensor(value), step(1))
    assert second.close() == unbroken.close()


def test_in_fp16_some_losses_in_a_row_may_overflow() -> None:
    """They count in no mean; a good one among them starts the count anew, a resume does not."""
    nan, good = torch.tensor(float("nan")), torch.tensor(2.0)
    log = LossLog(CPU, 1, tolerated=2)
    for number, loss in enumerate([nan, nan, good, nan], 1):
        log.add(loss, step(number))
    assert log.close()[LOSS] == 2.0
    resumed = LossLog(CPU, 1, tolerated=2)
    resumed.restore(log.state())
    resumed.add(nan, step(5))
    with pytest.raises(SegopsError, match="loss is nan at step 6"):
        resumed.add(nan, step(6))


def test_further_figures_have_means_of_their_own_and_go_on_after_a_restart() -> None:
    first, second = LossLog(CPU, 2), LossLog(CPU, 2)
    for number in range(3):
        first.add(torch.tensor(1.0 + number), step(number), {"other": torch.tensor(10.0 * number)})
    second.restore(first.state())
    second.add(torch.tensor(4.0), step(4), {"other": torch.tensor(30.0)})
    assert second.close() == {LOSS: 2.5, "other": 15.0}
    with pytest.raises(SegopsError, match="the other is nan at step 5"):
        for number in (5, 6):
            second.add(torch.tensor(1.0), step(number), {"other": torch.tensor(math.nan)})
