"""Which device each worker gets."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from segops.runtime.errors import SegopsError
from segops.serve import settings
from segops.threads import cores


def test_one_worker_a_core_or_as_many_as_asked_for() -> None:
    assert settings.devices("cpu", None) == ("cpu",) * cores()
    assert settings.devices("cpu", 5) == ("cpu",) * 5
    assert settings.devices("cpu", 5, threads=2) == ("cpu",) * 5


def test_one_worker_for_the_cores_of_an_image(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(settings, "cores", lambda: 8)
    for threads, workers in ((1, 8), (2, 4), (3, 2), (8, 1), (9, 1)):
        assert settings.devices("cpu", None, threads) == ("cpu",) * workers


def test_one_worker_a_card(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """No card is here; the driver's file and torch's count are those of a machine with two."""
    driver = tmp_path / "version"
    monkeypatch.setattr(settings, "NVIDIA", driver)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    assert set(settings.devices("auto", None)) == {"cpu"}
    with pytest.raises(SegopsError, match="no usable GPU"):
        settings.devices("cuda", None)
    driver.write_text("")
    assert settings.devices("auto", None) == ("cuda:0", "cuda:1")
    assert settings.devices("cuda", 3) == ("cuda:0", "cuda:1", "cuda:0")
    assert settings.devices("cpu", 1) == ("cpu",)
