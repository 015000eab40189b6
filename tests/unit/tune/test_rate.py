"""The learning-rate range test: on curves whose answer is known, and on a real training."""

from __future__ import annotations

import math
import random
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from segops.edit import put
from segops.params.file import load_params
from segops.runtime.errors import SegopsError
from segops.stages.train import build_job
from segops.train.job import TrainingSettings
from segops.tune.rate import analyse, learning_rates, range_test
from segops.tune.setup import build_trial, open_store
from tests.support.tune_workspace import prepare, tree_of


def curve(rate: float, noise: float = 0.0) -> float:
    """Falls around 1e-3, where its slope is greatest, and rises around 0.1."""
    place = math.log10(rate)
    return 3 - 2 / (1 + math.exp(-4 * (place + 3))) + math.exp(6 * (place + 1)) + noise


@pytest.mark.parametrize("noise", [0.0, 0.1])
@pytest.mark.parametrize("steps", [60, 200])
def test_a_known_curve_is_read_right(steps: int, noise: float) -> None:
    draw = random.Random(steps)
    rates = learning_rates(1e-6, 1.0, steps)
    found = analyse(rates, [curve(rate, draw.gauss(0, noise)) for rate in rates])
    assert found.steepest is not None
    assert abs(math.log10(found.steepest) + 3) < 0.5
    # Half of the gain of two is lost where exp(6 (x + 1)) is one: at 0.1.
    assert found.divergence is not None
    assert found.cautious is not None
    assert abs(math.log10(found.divergence) + 1) < 0.3
    assert found.cautious == pytest.approx(found.divergence / 10)
    assert found.suggestion == pytest.approx(found.steepest, rel=0.06)


def test_the_smoothed_curve_does_not_lag() -> None:
    """An exponential mean would put the step later, hence at a higher rate."""
    rates = learning_rates(1e-4, 1.0, 101)
    found = analyse(rates, [3.0 if rate < 1e-2 else 1.0 for rate in rates])
    assert found.steepest == pytest.approx(1e-2, rel=0.1)
    smoothed = np.array(analyse(rates, [2.0] * 101).smoothed)
    np.testing.assert_allclose(smoothed, 2.0)


def test_rates_rise_by_equal_factors() -> None:
    rates = learning_rates(1e-4, 1.0, 9)
    assert rates[0] == pytest.approx(1e-4)
    assert rates[-1] == pytest.approx(1.0)
    assert [after / before for before, after in pairwise(rates)] == (
        pytest.approx([math.sqrt(10)] * 8)
    )


def test_a_loss_that_only_rises_gives_no_suggestion() -> None:
    rates = learning_rates(1e-3, 10.0, 50)
    found = analyse(rates, [1 + rate for rate in rates])
    assert (found.steepest, found.divergence, found.suggestion) == (None, None, None)


def test_an_infinite_loss_is_divergence() -> None:
    rates = learning_rates(1e-4, 1.0, 40)[:30]
    found = analyse(rates, [3 - 0.05 * step for step in range(29)] + [math.inf])
    assert found.divergence == pytest.approx(rates[-1], rel=0.5)
    assert all(map(math.isfinite, found.smoothed))


def test_the_suggestion_keeps_off_the_divergence() -> None:
    rates = learning_rates(1e-4, 1.0, 100)
    found = analyse(rates, [3.0 if rate < 0.05 else 1.0 if rate < 0.07 else 9.0 for rate in rates])
    assert found.suggestion is not None
    assert found.divergence is not None
    assert found.suggestion <= 0.5 * found.divergence * 1.05


def test_a_real_sweep_touches_nothing_of_a_training(tiny_voc: Path) -> None:
    root = prepare(tiny_voc.parent)
    (root / ".segops").mkdir()
    (root / ".segops" / "resume").mkdir()
    (root / ".segops" / "resume" / "state.pt").write_bytes(b"someone's")
    before = tree_of(root)
    settings = load_params(root)
    found, picture = range_test(root, settings, 1e-5, 1e4, 40)
    again, _ = range_test(root, settings, 1e-5, 1e4, 40)
    assert found == again
    assert found.losses[0] > min(found.smoothed)
    assert found.divergence is not None
    assert found.steepest is not None
    assert 1e-5 < found.steepest < found.divergence
    after = tree_of(root)
    assert set(after) - set(before) == {str(picture)}
    assert {name: after[name] for name in before} == before
    with Image.open(root / picture) as image:
        pixels = np.asarray(image.convert("L"))
    assert pixels.shape[1] > 900
    # Nothing is cut off: the border is white.
    border = [pixels[0], pixels[-1], pixels[:, 0], pixels[:, -1]]
    assert all((side == 255).all() for side in border)


def test_what_cannot_be_swept_is_refused(tiny_voc: Path) -> None:
    root = tiny_voc.parent
    (root / "params.yaml").write_text("{}")
    with pytest.raises(SegopsError, match="no data are prepared for training"):
        range_test(root, load_params(root), 1e-5, 1.0, 10)
    with pytest.raises(SegopsError, match="expected 0 < low < high"):
        range_test(root, load_params(root), 1.0, 1e-5, 10)


def test_a_trial_is_named_by_the_policy_that_it_trains_with(tiny_voc: Path, tmp_path: Path) -> None:
    """Not by that which stage augment wrote, which may be older than the parameters."""
    root = prepare(tiny_voc.parent)
    settings, store = load_params(root), open_store(root)
    names = [build_trial(root, settings, store, tmp_path).history.fingerprint]
    for change in ({"augment.crop": [32, 32]}, {"augment.copy_paste.p": 0.5}):
        changed = put(settings, change, "a test")
        names.append(build_trial(root, changed, store, tmp_path).history.fingerprint)
    assert len(set(names)) == 3
    written = build_job(root, TrainingSettings.of(settings), store)
    assert written.history.fingerprint == names[0]
