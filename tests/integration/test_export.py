"""Exports from the stage to `segops predict --runtime`: measured, decided, kept and fetched."""

from __future__ import annotations

import shutil
from pathlib import Path

import numpy as np
import pytest

from segops import files, paths
from segops.predict.bundle import bundle_digest
from segops.runtime.masks import read_mask
from tests.integration.conftest import dvc, segops, set_params
from tests.support import registry_workspace as made

pytestmark = [pytest.mark.slow, pytest.mark.timeout(1800)]


@pytest.fixture(scope="module")
def exported(reproduced: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A workspace whose champion has an offered float32 export and an INT8 one that is not."""
    root = tmp_path_factory.mktemp("exported") / "workspace"
    record = shutil.ignore_patterns("mlflow.db*", "mlartifacts")
    shutil.copytree(reproduced, root, symlinks=True, ignore=record)
    set_params(
        root,
        export={"formats": ["onnx"], "quantize": "int8", "calibration_images": 4},
        gate={"min_miou": 0.0, "export": {"max_miou_loss": 1e-4, "max_class_loss": 1e-3}},
    )
    done = dvc(root, "repro")
    assert done.returncode == 0, done.stderr
    assert "Running stage 'export'" in done.stdout
    assert "Running stage 'train'" not in done.stdout
    done = segops(root, "promote")
    assert done.returncode == 0, done.stdout + done.stderr
    return root


def test_the_export_that_the_gate_offers_predicts_in_the_models_place(exported: Path) -> None:
    parity = files.read_json(exported / paths.EXPORT_PARITY)
    assert set(parity) == {"torch", "onnx", "onnx-int8"}
    images = str(exported / "data/voc/JPEGImages")
    runtimes = ("torch", "onnx")
    for runtime in runtimes:
        done = segops(
            exported, "predict", images, "--runtime", runtime, "--output", f"by-{runtime}"
        )
        assert done.returncode == 0, done.stderr
    masks = sorted((exported / "by-onnx").glob("*.png"))
    assert masks
    differing = [
        (read_mask(one) != read_mask(exported / "by-torch" / one.name)).mean() for one in masks
    ]
    assert np.mean(differing) < 1e-3
    done = segops(exported, "predict", images, "--runtime", "onnx-int8", "--output", "no")
    assert done.returncode == 1
    assert "onnx-int8 is not offered: " in done.stderr
    assert not (exported / "no").exists()
    arguments = ("--runtime", "onnx", "--explain", "auto", "--output", "no")
    done = segops(exported, "predict", images, *arguments)
    assert done.returncode == 1
    assert "--explain: the model is an export for onnx" in done.stderr
    assert not (exported / "no").exists()
    done = segops(exported, "predict", images, "--runtime", "openvino", "--output", "no")
    assert done.returncode == 1
    assert "without an export openvino (it has: onnx" in done.stderr
    card = segops(exported, "card").stdout
    assert "onnx is offered" in card


def test_the_figures_stand_beside_those_of_the_model_everywhere(exported: Path) -> None:
    parity = files.read_json(exported / paths.EXPORT_PARITY)
    evaluation = files.read_json(exported / paths.EVALUATION)
    onnx, torch = parity["onnx"], parity["torch"]
    client = made.client(exported)
    (version,) = client.search_model_versions("name = 'segops'")
    logged = client.get_run(str(version.run_id)).data.metrics
    assert logged["export_torch_miou"] == evaluation["miou"]
    assert logged["export_torch_boundary_iou"] == evaluation["boundary"]["iou"]
    assert logged["export_torch_milliseconds_p50"] == torch["milliseconds_p50"]
    assert logged["export_onnx_miou_difference_low"] == onnx["miou_low"]
    assert logged["export_onnx_miou_difference_high"] == onnx["miou_high"]
    decision = next(one for one in made.lines(exported)[::-1] if one["kind"] == "decision")
    decided = decision["details"]["exports"]
    for form in ("onnx", "onnx-int8"):
        assert decided[form]["model"] == {
            "miou": evaluation["miou"],
            "boundary_iou": evaluation["boundary"]["iou"],
            **{key: torch[key] for key in ("mib", "milliseconds_p50", "milliseconds_p95")},
            "peak_mib": torch["peak_mib"],
        }
        assert decided[form]["peak_mib"] == parity[form]["peak_mib"]
    card = segops(exported, "card").stdout
    assert f"| torch, the model | {evaluation['miou']:.3f} |" in card
    assert f"| onnx | {onnx['miou']:.3f} |" in card


def test_the_command_hands_out_the_export_that_was_judged(exported: Path) -> None:
    done = segops(exported, "export", "models:/segops@champion", "--output", "mine")
    assert done.returncode == 0, done.stderr
    parity = files.read_json(exported / paths.EXPORT_PARITY)["onnx"]
    assert bundle_digest(exported / "mine") == parity["digest"]
    assert f"digest {parity['digest'][:12]}, the one that the gate decided on" in done.stdout
    assert f"onnx is offered: mIoU {parity['miou']:.3f}" in done.stdout
    refused = segops(
        exported, "export", "models:/segops@champion", "--quantize", "int8", "--output", "no"
    )
    assert refused.returncode == 1
    assert "onnx-int8 is not offered: " in refused.stderr
    assert not (exported / "no").exists()
    again = segops(exported, "export", "models:/segops@champion", "--output", "mine")
    assert again.returncode == 1
    assert "exists already" in again.stderr


@pytest.mark.parametrize(
    "model", [("models:/segops@champion", "--format", "openvino"), ("models/segmenter",)]
)
def test_the_command_says_that_no_gate_judged_what_it_makes(
    exported: Path, model: tuple[str, ...]
) -> None:
    done = segops(exported, "export", *model, "--output", f"made{len(model)}")
    assert done.returncode == 0, done.stderr
    assert "made now. No gate has judged it" in done.stdout
    assert bundle_digest(exported / f"made{len(model)}")[:12] in done.stdout


def test_a_changed_export_is_not_run(exported: Path) -> None:
    digest = files.read_json(exported / paths.EXPORT_PARITY)["onnx"]["digest"]
    (kept,) = exported.rglob(f"exports/{digest}/model.onnx")
    with kept.open("ab") as file:
        file.write(b"\0")
    images = str(exported / "data/voc/JPEGImages")
    done = segops(exported, "predict", images, "--runtime", "onnx", "--output", "no")
    assert done.returncode == 1
    assert "They were changed" in done.stderr
