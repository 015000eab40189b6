"""The final numbers of a model as they go into MLflow."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import pytest

from segops import files, paths
from segops.record.stage_outputs import Results, parity_of


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


def test_exports_are_logged_beside_their_model() -> None:
    onnx = {
        "digest": "d" * 64, "runtime": "onnx", "quantize": None, "error": None, "miou": 0.49,
        "miou_difference": -0.01, "miou_low": -0.03, "miou_high": None, "boundary_iou": 0.25,
        "boundary_iou_difference": -0.01, "worst_class": "cat", "worst_class_difference": -0.02,
        "differing_pixels": 0.001, "mib": 5.0, "milliseconds_p50": 20.0, "milliseconds_p95": 30.0,
        "peak_mib": 90.0,
    }  # fmt: skip
    torch = {
        "bundle_digest": "b" * 64, "error": None, "miou": 0.5, "boundary_iou": 0.26, "mib": 6.0,
        "milliseconds_p50": 25.0, "milliseconds_p95": 35.0, "peak_mib": 300.0, "threads": 1,
    }  # fmt: skip
    parity = {"torch": torch, "onnx": onnx}
    results = Results(Path(), {}, OLD, "w" * 64, "b" * 64, parity)
    assert results.exports == {"onnx": onnx}
    found = {name: value for name, value in results.metrics().items() if "export" in name}
    assert found == {
        "export_torch_miou": 0.5, "export_torch_boundary_iou": 0.26, "export_torch_mib": 6.0,
        "export_torch_milliseconds_p50": 25.0, "export_torch_milliseconds_p95": 35.0,
        "export_torch_peak_mib": 300.0, "export_onnx_miou": 0.49,
        "export_onnx_miou_difference": -0.01, "export_onnx_miou_difference_low": -0.03,
        "export_onnx_boundary_iou": 0.25, "export_onnx_worst_class_difference": -0.02,
        "export_onnx_differing_pixels": 0.001, "export_onnx_mib": 5.0,
        "export_onnx_milliseconds_p50": 20.0, "export_onnx_milliseconds_p95": 30.0,
        "export_onnx_peak_mib": 90.0,
    }  # fmt: skip


def test_figures_belong_to_the_evaluation_of_this_bundle(tmp_path: Path) -> None:
    evaluation = OLD | {"bundle_digest": "b" * 64, "boundary": {"iou": 0.26}}
    torch = {"bundle_digest": "b" * 64, "mib": 6.0}
    parity = {"torch": torch, "onnx": {"mib": 5.0}}
    assert parity_of(tmp_path, "b" * 64) == {}
    files.write_json(tmp_path / paths.EVALUATION, evaluation)
    files.write_json(tmp_path / paths.EXPORT_PARITY, parity)
    own = torch | {"miou": 0.5, "boundary_iou": 0.26}
    assert parity_of(tmp_path, "b" * 64) == {"torch": own, "onnx": {"mib": 5.0}}
    assert parity_of(tmp_path, "c" * 64) == {}
    files.write_json(tmp_path / paths.EXPORT_PARITY, {"torch": torch})
    assert parity_of(tmp_path, "b" * 64) == {}
