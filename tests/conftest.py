"""Fixtures that many tests share, and switches that keep every library quiet and offline."""

from __future__ import annotations

import os
import shutil
from pathlib import Path

import pytest

os.environ.update(
    DVC_NO_ANALYTICS="1",
    DO_NOT_TRACK="true",
    MLFLOW_DISABLE_TELEMETRY="true",
    PREFECT_SERVER_ANALYTICS_ENABLED="false",
    NO_ALBUMENTATIONS_UPDATE="1",
    HF_HUB_OFFLINE="1",
    # The test processes share the cores; torch's threads would wait for each other.
    OMP_NUM_THREADS="1",
)


@pytest.fixture(scope="session")
def generated_voc(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A small generated data set, made once. Shared: read it, do not change it."""
    from tools.sample import generate

    target = tmp_path_factory.mktemp("generated") / "voc"
    generate(target, train=12, val=6, seed=3, size=(80, 64))
    return target


@pytest.fixture
def tiny_voc(generated_voc: Path, tmp_path: Path) -> Path:
    """A small generated data set in VOC layout: 12 train and 6 val images of 80 x 64 pixels."""
    target = tmp_path / "voc"
    shutil.copytree(generated_voc, target)
    return target
