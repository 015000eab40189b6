"""What counts as the model's fault where a fresh process loads it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

from segops import files
from segops.release import fresh
from segops.runtime.errors import SegopsError, TransientError


def chained(error: Exception, cause: Exception) -> Exception:
    error.__cause__ = cause
    return error


MEMORY = RuntimeError("[enforce fail] DefaultCPUAllocator: can't allocate memory: you tried")


@pytest.mark.parametrize(
    "error",
    [
        MEMORY,
        MemoryError(),
        OSError(28, "No space left on device"),
        TransientError("no answer"),
        torch.OutOfMemoryError("CUDA out of memory"),
        RuntimeError("CUDA error: all CUDA-capable devices are busy or unavailable"),
        RuntimeError("cuDNN error: CUDNN_STATUS_NOT_INITIALIZED"),
        chained(SegopsError("weights.safetensors does not fit model.json"), MEMORY),
    ],
)
def test_a_lack_of_the_machine_is_not_the_models_fault(error: Exception) -> None:
    assert fresh.is_lack(error)


@pytest.mark.parametrize(
    "error",
    [
        RuntimeError("size mismatch for weight"),
        ImportError("no module named elsewhere"),
        SegopsError("weights.safetensors does not fit model.json"),
        ValueError(),
    ],
)
def test_another_error_is_the_models_fault(error: Exception) -> None:
    assert not fresh.is_lack(error)


def answered(place: Path, root: Path, model: str) -> dict[str, Any]:
    request = {"root": str(root), "model": model, "digest": "0" * 64, "images": 0}
    files.write_json(place / "request.json", request | {"device": "cpu", "threads": None})
    fresh.main(place / "request.json")
    answer: dict[str, Any] = files.read_json(place / fresh.ANSWER)
    return answer


def test_only_a_model_that_was_fetched_can_fail(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    root = tmp_path / "checkout"
    root.mkdir()
    (root / "params.yaml").write_text("regstry: {}\n")
    answer = answered(tmp_path, root, "models:/segops@champion")
    assert "regstry" in answer["lacking"]
    assert answer["error"] == ""
    (tmp_path / "model.json").write_text("{}")
    answer = answered(tmp_path, root, str(tmp_path))
    assert answer["lacking"] == ""
    assert "not a model bundle" in answer["error"]
