"""The model that most tests of predictions use."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.support.folder_runs import make_bundle


@pytest.fixture(scope="session")
def bundle(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_bundle(tmp_path_factory.mktemp("model") / "bundle")
