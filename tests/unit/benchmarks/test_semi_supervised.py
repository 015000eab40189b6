"""What the benchmark of training without masks compares."""

from __future__ import annotations

import pytest

from benchmarks import semi_supervised as benchmark
from benchmarks.common import settings_of


@pytest.mark.parametrize("method", benchmark.METHODS)
def test_methods_differ_in_what_they_learn_from_alone(method: str) -> None:
    given = benchmark.arguments([])
    train = settings_of(**benchmark.changes_of(method, 1, given, 3)).train
    assert (train.mean_teacher.weight > 0) == (method in ("mean teacher", "both"))
    assert (train.adversarial.weight > 0) == (method in ("adversarial", "both"))
    assert train.learns_unlabelled == (method != "masks alone")
    plain = settings_of(**benchmark.changes_of("masks alone", 1, given, 3)).train
    off = {"mean_teacher": plain.mean_teacher, "adversarial": plain.adversarial}
    assert train.model_copy(update=off) == plain
    assert plain.iterations == settings_of().train.epochs * 27 // 2
