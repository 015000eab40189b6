"""Parity: a sound export passes, and each way in which exporters break models is found out."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import helper, numpy_helper

from segops import files, paths
from segops.data.packing import pack
from segops.data.store import PackedStore
from segops.evaluate import exports
from segops.evaluate.score import score
from segops.export import make
from segops.params.evaluate import EvaluateParams
from segops.params.gate import ExportGate
from segops.predict.bundle import TORCH, bundle_digest, load_bundle
from segops.release.exports import refusals
from segops.runtime.classes import VOC_CLASSES
from segops.runtime.masks import write_mask
from segops.runtime.networks.zoo import build
from segops.stages import evaluate
from segops.voc.layout import open_layout
from tests.support.bundles import write_bundle
from tests.support.networks import small, wake
from tests.unit.evaluate.test_score import SPEC, lively
from tools.sample import generate

pytestmark = pytest.mark.slow
FORMS = ("onnx", "onnx-int8")
POLICY = ExportGate()


@pytest.fixture(scope="module")
def workspace(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A model that is right everywhere on val, its exports, and their evaluation."""
    root = tmp_path_factory.mktemp("parity")
    layout = root / "voc"
    generate(layout, train=4, val=5, seed=3, size=(80, 72))
    pack(open_layout(layout), root / "first", VOC_CLASSES)
    store = PackedStore(root / "first")
    predict = {"flip": True, "mode": "window", "window": [64, 56]}
    write_bundle(root / paths.SEGMENTER, lively(store), SPEC, VOC_CLASSES, {}, {}, predict)
    model = load_bundle(root / paths.SEGMENTER)
    for image_id in store.ids("val"):
        mask = model.predict_mask(store.image(image_id))
        write_mask(layout / "SegmentationClass" / f"{image_id}.png", mask)
    pack(open_layout(layout), root / paths.PACKED, VOC_CLASSES)
    store = PackedStore(root / paths.PACKED)
    (root / "params.yaml").write_text(
        "hardware: {threads: 1}\nevaluate: {bootstrap_samples: 100}\nreport: {pictures: false}\n"
    )
    targets = {name: root / paths.EXPORTS / name for name in FORMS}
    ids = store.ids("train")
    digests = make.export(root / paths.SEGMENTER, targets, ids, map(store.image, ids))
    files.write_json(root / paths.EXPORTS / paths.EXPORT_LIST, digests)
    evaluate.run(root)
    return root


def figures(root: Path) -> dict[str, Any]:
    found: dict[str, Any] = json.loads((root / paths.EXPORT_PARITY).read_text())
    return found


def test_a_sound_export_is_the_model(workspace: Path) -> None:
    found = figures(workspace)
    assert set(found) == {TORCH, *FORMS}
    one = found["onnx"]
    assert one["error"] is None
    assert one["miou"] == pytest.approx(1, abs=1e-3)
    assert one["miou_difference"] == pytest.approx(0, abs=1e-3)
    assert one["differing_pixels"] < 1e-3
    assert one["digest"] == bundle_digest(workspace / paths.EXPORTS / "onnx")
    assert refusals(one, POLICY) == []
    assert refusals(one, ExportGate(max_mib=0.001)) == [
        f"it has {one['mib']:.3f} MiB; at most 0.001 (gate.export.max_mib) are allowed"
    ]
    slow = refusals(one, ExportGate(max_milliseconds=1e-6))
    assert len(slow) == 1
    assert "gate.export.max_milliseconds" in slow[0]


def test_int8_is_measured_and_loses_something(workspace: Path) -> None:
    one = figures(workspace)["onnx-int8"]
    assert one["error"] is None
    assert one["miou_difference"] < 0
    assert one["miou_low"] <= one["miou_difference"] <= one["miou_high"]
    assert one["worst_class_difference"] <= one["miou_difference"]
    assert one["worst_class"] in VOC_CLASSES
    assert 0 < one["differing_pixels"] < 0.5
    strict = ExportGate(max_miou_loss=0, max_class_loss=0)
    reasons = " ".join(refusals(one, strict))
    assert "gate.export.max_miou_loss" in reasons
    assert "gate.export.max_class_loss" in reasons


def test_time_and_memory_stand_beside_those_of_torch(workspace: Path) -> None:
    found = figures(workspace)
    for one in found.values():
        assert 0 < one["milliseconds_p50"] <= one["milliseconds_p95"]
        assert one["peak_mib"] > 20
        assert one["mib"] > 0
    assert found["onnx"]["peak_mib"] < found[TORCH]["peak_mib"]


def test_the_page_shows_them(workspace: Path) -> None:
    page = (workspace / paths.EVALUATION_PAGE).read_text()
    section = page[page.index('<section id="exports">') :]
    section = section[: section.index("</section>")]
    for name in ("torch<br>", *FORMS):
        assert name in section
    assert "broken" not in section


def swap_channels(model: Any) -> None:
    """Blue for red, as where an image was read in another order."""
    graph = model.graph
    graph.initializer.append(numpy_helper.from_array(np.array([2, 1, 0]), "order"))
    for node in graph.node:
        for place, name in enumerate(node.input):
            if name == "images" and node.op_type != "Shape":
                node.input[place] = "swapped"
    graph.node.insert(0, helper.make_node("Gather", ["images", "order"], ["swapped"], axis=1))


def resize_otherwise(model: Any) -> None:
    """Logits enlarged with their corners aligned."""
    (node,) = [one for one in model.graph.node if one.op_type == "Resize"]
    for attribute in node.attribute:
        if attribute.name == "coordinate_transformation_mode":
            attribute.s = b"align_corners"


def pad_otherwise(model: Any) -> None:
    """Padding by a grey far from the mean, in place of the mean colour."""
    (node,) = [one for one in model.graph.node if one.op_type == "Pad"]
    model.graph.initializer.append(numpy_helper.from_array(np.array(40, np.float32), "grey"))
    node.input.extend([""] * (3 - len(node.input)))
    node.input[2] = "grey"


def freeze_batch(model: Any) -> None:
    """One image at a time only."""
    dimension = model.graph.input[0].type.tensor_type.shape.dim[0]
    dimension.ClearField("dim_param")
    dimension.dim_value = 1


def freeze_size(model: Any) -> None:
    """Square images only, as the exporter saw them."""
    for axis in (2, 3):
        dimension = model.graph.input[0].type.tensor_type.shape.dim[axis]
        dimension.ClearField("dim_param")
        dimension.dim_value = 64


def forget_the_image(model: Any) -> None:
    """Logits of nothing: every pixel is the first class."""
    graph = model.graph
    graph.initializer.append(numpy_helper.from_array(np.array(0, np.float32), "nothing"))
    for node in graph.node:
        for place, name in enumerate(node.output):
            if name == "logits":
                node.output[place] = "unweighted"
    graph.node.append(helper.make_node("Mul", ["unweighted", "nothing"], ["logits"]))


@pytest.mark.parametrize(
    ("bug", "said"),
    [
        (swap_channels, "other logits than the model"),
        (resize_otherwise, "other logits than the model"),
        (pad_otherwise, "other logits than the model"),
        (forget_the_image, "other logits than the model"),
        (freeze_batch, "index: 0 Got: 2 Expected: 1"),
        (freeze_size, "64 x 72 pixels: InvalidArgument"),
    ],
)
def test_a_broken_export_is_found_out(
    workspace: Path, tmp_path: Path, bug: Callable[[Any], None], said: str
) -> None:
    shutil.copytree(workspace / paths.EXPORTS / "onnx", tmp_path / paths.EXPORTS / "onnx")
    network = tmp_path / paths.EXPORTS / "onnx" / "model.onnx"
    model = onnx.load(network)
    bug(model)
    onnx.checker.check_model(model)
    network.write_bytes(model.SerializeToString())
    found = judged(workspace, tmp_path)
    reasons = " ".join(refusals(found["onnx"], POLICY))
    assert said in reasons, reasons
    assert found[TORCH]["milliseconds_p50"] > 0


def test_an_export_that_was_changed_since_it_was_made_gets_no_figures(
    workspace: Path, tmp_path: Path
) -> None:
    directory = tmp_path / paths.EXPORTS / "onnx"
    shutil.copytree(workspace / paths.EXPORTS / "onnx", directory)
    made = bundle_digest(directory)
    (directory / "model.onnx").write_bytes(b"small")
    one = judged(workspace, tmp_path, made)["onnx"]
    assert f"expected {made}" in one["error"]
    assert "mib" not in one
    assert refusals(one, POLICY)


def judged(workspace: Path, root: Path, digest: str | None = None) -> dict[str, Any]:
    """The parity of the export in `root`, on masks that the model did not make."""
    digest = digest or bundle_digest(root / paths.EXPORTS / "onnx")
    files.write_json(root / paths.EXPORTS / paths.EXPORT_LIST, {"onnx": digest})
    store, bundle = PackedStore(workspace / "first"), workspace / paths.SEGMENTER
    scores = score(bundle, store, "val", root / "scores", threads=1, masks=True)
    settings = EvaluateParams(bootstrap_samples=100)
    return exports.judge(root, bundle, scores, store, "val", settings, 1)


def test_swapped_channels_show_in_the_pixels_whatever_the_masks_say(
    workspace: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As in INT8 or a model that is wrong everywhere: no logits are compared, no mIoU is lost."""
    shutil.copytree(workspace / paths.EXPORTS / "onnx", tmp_path / paths.EXPORTS / "onnx")
    network = tmp_path / paths.EXPORTS / "onnx" / "model.onnx"
    model = onnx.load(network)
    swap_channels(model)
    network.write_bytes(model.SerializeToString())
    monkeypatch.setattr(exports, "score", lambda *given, export_of, **named: score(*given, **named))
    one = judged(workspace, tmp_path)["onnx"]
    assert one["error"] is None
    policy = ExportGate(max_miou_loss=None, max_class_loss=None)
    assert "gate.export.max_differing_pixels" in " ".join(refusals(one, policy))


@pytest.mark.parametrize("part", ["speed", "scoring"])
def test_an_export_that_dies_does_not_end_the_evaluation(
    workspace: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, part: str
) -> None:
    shutil.copytree(workspace / paths.EXPORTS / "onnx", tmp_path / paths.EXPORTS / "onnx")
    code = tmp_path / paths.EXPORTS / "onnx" / "runtime" / "exported" / "onnx_network.py"
    with code.open("a") as file:
        file.write(f"import os, sys\nif 'segops.evaluate.{part}' in sys.orig_argv: os.abort()\n")
    found = judged(workspace, tmp_path)
    assert "ended with status -6" in found["onnx"]["error"]
    assert found[TORCH]["milliseconds_p50"] > 0


def test_a_network_of_queries_is_compared_as_any_other(workspace: Path, tmp_path: Path) -> None:
    spec = replace(small("eomt"), classes=len(VOC_CLASSES))
    network = build(spec)
    wake(network)
    bundle = tmp_path / paths.SEGMENTER
    write_bundle(bundle, network, spec, VOC_CLASSES, {}, {})
    digests = make.export(bundle, {"onnx": tmp_path / paths.EXPORTS / "onnx"})
    files.write_json(tmp_path / paths.EXPORTS / paths.EXPORT_LIST, digests)
    store, settings = PackedStore(workspace / paths.PACKED), EvaluateParams(bootstrap_samples=100)
    scores = score(
        bundle, store, "val", tmp_path / "scores", bundle_digest(bundle), threads=1, masks=True
    )
    found = exports.judge(tmp_path, bundle, scores, store, "val", settings, 1)["onnx"]
    assert found["error"] is None
    assert found["differing_pixels"] < 2e-3
    assert refusals(found, POLICY) == []


def test_without_exports_there_is_nothing(workspace: Path, tmp_path: Path) -> None:
    files.write_json(tmp_path / paths.EXPORTS / paths.EXPORT_LIST, {})
    assert exports.exports(tmp_path) == {}
    assert exports.exports(tmp_path / "none") == {}
