"""Fixtures of the tests of training."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.support.training import Jobs, job_maker, part_without_masks


@pytest.fixture
def unlabelled_job(tiny_voc: Path, tmp_path: Path, one_thread: None) -> Jobs:
    """Makes jobs on the tiny data set, five of whose images have lost their masks."""
    part_without_masks(tiny_voc, 5)
    return job_maker(tiny_voc, tmp_path, "unlabelled")
