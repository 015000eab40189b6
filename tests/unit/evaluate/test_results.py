"""The final numbers of a model as they go into MLflow."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import pytest

from segops.record.stage_outputs import Results


def metrics(evaluation: dict[str, Any] | None) -> dict[str, float]:
    return Results(Path(), {"epochs_run": 3}, evaluation, "w" * 64, "b" * 64).metrics()


OLD: dict[str, Any] = {
    "images": 8,
    "miou": 0.5,
    "miou_low": None,
    "classes": {"cat": {"iou": 0.25}, "dog": {"iou": None}},
}


def test_an_evaluation_of_an_older_release_has_no_new_names() -> None:
    found = metrics(OLD)
    assert (found["miou"], found["iou/cat"], found["val_images"], found["epochs_run"]) == (
        0.5,
        0.25,
        8,
        3,
    )
    assert math.isnan(found["iou/dog"])
    assert math.isnan(found["miou_low"])
    assert not any("boundary" in name or "calibration" in name for name in found)
    assert metrics(None) == {"epochs_run": 3}


def test_boundaries_and_calibration_are_logged() -> None:
    boundary = {"iou": 0.4, "f1": 0.6, "contour_distance": 3.5, "hausdorff95": None, "band": 0.02}
    classes = {
        "cat": {"iou": 0.25, "boundary_iou": 0.125},
        "dog": {"iou": None, "boundary_iou": None},
    }
    calibration = {"expected_calibration_error": 0.05, "confidence": 0.9, "bins": []}
    found = metrics(OLD | {"boundary": boundary, "calibration": calibration, "classes": classes})
    assert {name: found[name] for name in ("boundary_iou", "boundary_f1", "contour_distance")} == {
        "boundary_iou": 0.4,
        "boundary_f1": 0.6,
        "contour_distance": 3.5,
    }
    assert math.isnan(found["hausdorff95"])  # undefined, as where no class was found
    assert found["expected_calibration_error"] == 0.05
    assert found["boundary_iou/cat"] == 0.125
    assert math.isnan(found["boundary_iou/dog"])
    assert set(found) - set(metrics(OLD)) == {
        "boundary_iou", "boundary_f1", "contour_distance", "hausdorff95",
        "expected_calibration_error", "boundary_iou/cat", "boundary_iou/dog",
    }  # fmt: skip


@pytest.mark.parametrize("calibration", [None, {}])
def test_a_model_that_tells_no_probabilities_has_no_calibration(calibration: Any) -> None:
    assert "expected_calibration_error" not in metrics(OLD | {"calibration": calibration})
