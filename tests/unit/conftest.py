"""Fixtures that unit tests share."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from tests.support.training import Jobs


@pytest.fixture
def one_thread() -> Iterator[None]:
    """One thread of torch, so that its bits do not depend on the machine."""
    import torch

    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture
def job(tiny_voc: Path, tmp_path: Path, one_thread: None) -> Jobs:
    """Makes jobs on the tiny data set; each named directory is one workspace."""
    from tests.support.training import job_maker

    return job_maker(tiny_voc, tmp_path)
