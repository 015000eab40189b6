"""A student learns more with its teacher than without, as the benchmark measures it."""

from __future__ import annotations

import statistics
from pathlib import Path

import pytest

from benchmarks import distillation


@pytest.mark.long
@pytest.mark.timeout(5400)
def test_a_student_with_its_teacher_beats_the_same_student_without_it(tmp_path: Path) -> None:
    """Equal steps, three seeds, the shipped sample; a single seed may lose (one of three did)."""
    gains = distillation.compare(distillation.arguments([]), tmp_path)
    assert len(gains) == 3
    assert statistics.mean(gains) > 0
