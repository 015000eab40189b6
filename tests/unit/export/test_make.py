"""Exports: what they predict, what they say of themselves, and that they do without torch."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import sysconfig
from collections.abc import Mapping
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime
import pytest
import torch
from numpy.typing import NDArray

from segops.children import child_environment
from segops.data.packing import pack
from segops.data.store import PackedStore
from segops.export import make
from segops.export.calibration import chosen
from segops.predict import package
from segops.predict.bundle import EXPORT, BundledPredictor, bundle_digest, load_bundle
from segops.runtime import opener
from segops.runtime.classes import VOC_CLASSES
from segops.runtime.errors import SegopsError
from segops.runtime.networks.zoo import ARCHITECTURES, build
from segops.voc.layout import open_layout
from tests.support.bundles import weights_sha256, write_bundle
from tests.support.networks import CLASSES, small, wake
from tests.unit.predict.test_bundle import IMAGES, NAMES, SPEC, made, picture
from tools.sample import generate

pytestmark = pytest.mark.usefixtures("one_thread")

FORMS = ["onnx", "onnx-int8"]
if find_spec("openvino"):
    FORMS += ["openvino", "openvino-int8"]
QUICK = ("plain_cnn", "pspnet")
WAYS: list[dict[str, Any]] = [
    {},
    {"flip": True, "scales": [0.75, 1, 1.5]},
    {"mode": "window", "window": [24, 32], "flip": True},
]


def calibration() -> list[NDArray[np.uint8]]:
    return [picture(seed) for seed in range(100, 108)]


@pytest.fixture(scope="module")
def exported(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A bundle in `bundle`, and its exports beside it."""
    root = tmp_path_factory.mktemp("exported")
    settings = {"flip": True, "max_pixels": 4000}
    write_bundle(root / "bundle", made(), SPEC, NAMES, IMAGES, {}, settings)
    targets = {name: root / name for name in FORMS}
    digests = make.export(root / "bundle", targets, ["a", "b"], calibration())
    assert digests == {name: bundle_digest(root / name) for name in FORMS}
    return root


def agree(found: BundledPredictor, expected: BundledPredictor, image: NDArray[np.uint8]) -> None:
    wanted = expected.predict_probabilities(image)
    np.testing.assert_allclose(found.predict_probabilities(image), wanted, atol=1e-5)
    clear = np.diff(np.sort(wanted, axis=0)[-2:], axis=0)[0] > 1e-4
    assert clear.mean() > 0.9
    prediction = found.predict(image)
    np.testing.assert_array_equal(
        prediction.mask[clear], expected.predict_mask(image)[clear], strict=True
    )
    mask, top = found.predict_tensors(image)
    np.testing.assert_array_equal(mask, prediction.mask)
    np.testing.assert_allclose(top, wanted.max(axis=0), atol=1e-5)
    assert prediction.confidence == pytest.approx(expected.predict(image).confidence, abs=1e-5)


@pytest.mark.slow
@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("form", [name for name in FORMS if "int8" not in name])
def test_an_export_predicts_what_the_bundle_predicts(
    exported: Path, form: str, way: dict[str, Any]
) -> None:
    expected = load_bundle(exported / "bundle", predict=way)
    found = load_bundle(exported / form, "auto", bundle_digest(exported / form), way, threads=1)
    assert (found.runtime, expected.runtime) == (form, "torch")
    for image in (picture(3), picture(4)[:, :29], picture(5)[:8, :8]):
        agree(found, expected, np.ascontiguousarray(image))


@pytest.mark.slow
@pytest.mark.parametrize("form", [name for name in FORMS if "int8" in name])
def test_int8_is_near_and_not_equal(exported: Path, form: str) -> None:
    expected, found = load_bundle(exported / "bundle"), load_bundle(exported / form)
    apart, wrong = [], []
    for seed in range(5):
        wanted = expected.predict_probabilities(picture(seed))
        probabilities = found.predict_probabilities(picture(seed))
        apart.append(np.abs(probabilities - wanted).max())
        wrong.append((probabilities.argmax(axis=0) != wanted.argmax(axis=0)).mean())
    assert 1e-4 < max(apart) < 0.15
    assert np.mean(wrong) < 0.05


@pytest.mark.slow
def test_int8_has_a_scale_for_each_channel_and_a_float_classifier(exported: Path) -> None:
    graph = onnx.load(exported / "onnx-int8" / "model.onnx").graph
    tensors = {one.name: onnx.numpy_helper.to_array(one) for one in graph.initializer}
    assert {"QuantizeLinear", "DequantizeLinear"} <= {node.op_type for node in graph.node}
    lowered = [one for one in tensors.values() if one.dtype == np.int8 and one.ndim == 4]
    assert len(lowered) == 6  # of seven convolutions
    scales = [one for name, one in tensors.items() if "weight_scale" in name and one.ndim == 1]
    assert {len(one) for one in scales} == {8, 16, 32}


@pytest.mark.slow
def test_the_same_bundle_gives_the_same_bytes_without_a_trace_of_here(
    exported: Path, tmp_path: Path
) -> None:
    shutil.copytree(exported / "bundle", tmp_path / "elsewhere")
    targets = {name: tmp_path / name for name in FORMS}
    make.export(tmp_path / "elsewhere", targets, ["a", "b"], calibration())
    for name in FORMS:
        assert bundle_digest(tmp_path / name) == bundle_digest(exported / name), name
        for path in (tmp_path / name).glob("model.*"):
            content = path.read_bytes()
            for trace in (str(tmp_path), str(Path(make.__file__).parents[3]), sys.prefix):
                assert trace.encode() not in content, (path, trace)


@pytest.mark.slow
@pytest.mark.parametrize("form", FORMS)
def test_it_states_the_whole_contract(exported: Path, form: str) -> None:
    bundle = json.loads((exported / "bundle" / "model.json").read_text())
    model = json.loads((exported / form / "model.json").read_text())
    contract = model.pop(EXPORT)
    runtime = form.removesuffix("-int8")
    assert model == bundle | {"format": runtime}
    assert contract["runtime"] == runtime
    assert contract["weights_sha256"] == weights_sha256(exported / "bundle")
    assert contract["bundle_digest"] == bundle_digest(exported / "bundle")
    assert contract["quantize"] == ("int8" if "int8" in form else None)
    assert contract["calibration_images"] == (["a", "b"] if "int8" in form else [])
    assert (contract["stride"], contract["max_pixels"]) == (32, 4000)
    assert contract["palette"] == ["#000000", "#800000", "#008000"]
    assert contract["input"]["name"] == "images"
    if runtime == "onnx":
        session = onnxruntime.InferenceSession(exported / form / "model.onnx")
        (given,), (made_of,) = session.get_inputs(), session.get_outputs()
        assert (given.name, made_of.name) == ("images", "logits")
        assert given.type == made_of.type == "tensor(float)"
        versions = {
            one.domain: one.version
            for one in onnx.load(exported / form / "model.onnx").opset_import
        }
        assert versions[""] == contract["opset"]


@pytest.mark.slow
def test_a_changed_export_is_refused(exported: Path, tmp_path: Path) -> None:
    copy = tmp_path / "copy"
    shutil.copytree(exported / "onnx", copy)
    digest = bundle_digest(copy)
    with (copy / "model.onnx").open("ab") as file:
        file.write(b"\0")
    with pytest.raises(SegopsError, match="changed after it was made"):
        load_bundle(copy, expected_digest=digest)
    (copy / "model.onnx").write_bytes(b"no model")
    with pytest.raises(SegopsError, match=r"model\.onnx: ONNX Runtime does not take it"):
        load_bundle(copy)
    (copy / "model.onnx").unlink()
    with pytest.raises(SegopsError, match=r"model\.onnx|not a model bundle"):
        load_bundle(copy)


@pytest.mark.slow
def test_what_an_export_cannot_do_is_said(exported: Path, tmp_path: Path) -> None:
    found = load_bundle(exported / "onnx")
    with pytest.raises(SegopsError, match="export for onnx, which has no network"):
        found.network  # noqa: B018
    with pytest.raises(SegopsError, match="device cuda: an export runs on the CPU"):
        load_bundle(exported / "onnx", "cuda")
    with pytest.raises(SegopsError, match=r"predict\.crf\.iterations is 2"):
        load_bundle(exported / "onnx", predict={"crf": {"iterations": 2}})
    with pytest.raises(SegopsError, match="is an export itself"):
        make.export(exported / "onnx", {"onnx": tmp_path / "again"})
    with pytest.raises(SegopsError, match="pixels"):
        found.predict_bytes(_png(np.zeros((80, 80, 3), np.uint8)))
    assert not (tmp_path / "again").exists()


def test_a_bundle_with_a_crf_is_not_exported(tmp_path: Path) -> None:
    write_bundle(tmp_path / "b", made(), SPEC, NAMES, {}, {}, {"crf": {"iterations": 3}})
    with pytest.raises(SegopsError, match=r"predict\.crf\.iterations is 3"):
        make.export(tmp_path / "b", {"onnx": tmp_path / "onnx"})
    assert not (tmp_path / "onnx").exists()


def test_int8_without_an_image_to_calibrate_on_is_refused(tmp_path: Path) -> None:
    write_bundle(tmp_path / "b", made(), SPEC, NAMES, {}, {})
    with pytest.raises(SegopsError, match="no image to calibrate on"):
        make.export(tmp_path / "b", {"onnx-int8": tmp_path / "onnx-int8"})
    assert not (tmp_path / "onnx-int8").exists()


def test_a_missing_library_is_named(tmp_path: Path) -> None:
    """In an interpreter that sees all libraries of this one but OpenVINO."""
    write_bundle(tmp_path / "b", made(), SPEC, NAMES, {}, {})
    (tmp_path / "libraries").mkdir()
    for one in Path(sysconfig.get_path("purelib")).iterdir():
        if not one.name.startswith("openvino"):
            (tmp_path / "libraries" / one.name).symlink_to(one)
    done = subprocess.run(
        [sys.executable, "-S", "-m", "segops", "export", "b", "--format", "openvino", "--output",
         "o"],
        cwd=tmp_path,
        env=os.environ | {"PYTHONPATH": f"{package.ROOM.parents[1]}:{tmp_path / 'libraries'}"},
        capture_output=True,
        text=True,
    )  # fmt: skip
    assert done.returncode == 1
    assert "openvino is not installed" in done.stderr
    assert "Traceback" not in done.stderr
    assert not (tmp_path / "o").exists()


@pytest.mark.slow
@pytest.mark.parametrize("form", [name for name in FORMS if "int8" not in name])
def test_a_network_that_was_checked_is_used_whatever_is_put_in_its_place_then(
    exported: Path, form: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_bundle(tmp_path / "bundle", made(seed=1), SPEC, NAMES, IMAGES, {})
    make.export(tmp_path / "bundle", {form: tmp_path / "other"})
    shutil.copytree(exported / form, tmp_path / form)
    digest, counted = bundle_digest(exported / form), opener.digest

    def then_swap(contents: Mapping[str, bytes]) -> str:
        found = counted(contents)
        (tmp_path / form).rename(tmp_path / "before")
        (tmp_path / "other").rename(tmp_path / form)
        return found

    monkeypatch.setattr(opener, "digest", then_swap)
    loaded = load_bundle(tmp_path / form, "cpu", digest, threads=1)
    monkeypatch.undo()
    agree(loaded, load_bundle(exported / "bundle"), picture(3))
    assert bundle_digest(tmp_path / form) != loaded.digest == digest


@pytest.mark.slow
@pytest.mark.parametrize("place", ["weights.bin", "../weights.bin", "absolute"])
def test_weights_outside_of_the_network_are_refused(
    exported: Path, place: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """ONNX Runtime reads them from the current directory, and no digest covers them."""
    (tmp_path / "below").mkdir()
    directory = shutil.copytree(exported / "onnx", tmp_path / "onnx")
    model = onnx.load(directory / "model.onnx")
    held = next(one for one in model.graph.initializer if len(one.raw_data) > 100)
    for where in (tmp_path, tmp_path / "below"):
        (where / "weights.bin").write_bytes(held.raw_data)
    location = str(tmp_path / "weights.bin") if place == "absolute" else place
    onnx.external_data_helper.set_external_data(held, location, 0, len(held.raw_data))
    held.ClearField("raw_data")
    (directory / "model.onnx").write_bytes(model.SerializeToString())
    monkeypatch.chdir(tmp_path / "below")
    if place == "weights.bin":  # the trap works; of the others this version takes care
        onnxruntime.InferenceSession((directory / "model.onnx").read_bytes())
    with pytest.raises(SegopsError, match=r"model\.onnx: ONNX Runtime does not take it"):
        load_bundle(directory)


def _png(image: NDArray[np.uint8]) -> bytes:
    from io import BytesIO

    from PIL import Image

    stream = BytesIO()
    Image.fromarray(image).save(stream, "PNG")
    return stream.getvalue()


WITHOUT_TORCH = """
import sys
from pathlib import Path

class NoTorch:
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] in ("torch", "torchvision", "timm", "mlflow", "pandas"):
            raise ImportError(f"{name} is blocked")

sys.meta_path.insert(0, NoTorch())
from segops.predict.bundle import load_bundle

directory, image = map(Path, sys.argv[1:])
mask, _ = load_bundle(directory, threads=1).predict_bytes(image.read_bytes())
sys.stdout.buffer.write(mask)
"""


@pytest.mark.slow
@pytest.mark.parametrize("form", FORMS)
def test_it_predicts_where_torch_cannot_be_imported(
    exported: Path, form: str, tmp_path: Path
) -> None:
    (tmp_path / "image.png").write_bytes(_png(picture(7)))
    done = subprocess.run(
        [sys.executable, "-c", WITHOUT_TORCH, exported / form, tmp_path / "image.png"],
        capture_output=True,
        cwd=tmp_path,
        env=child_environment(),
    )
    assert done.returncode == 0, done.stderr.decode()
    expected = load_bundle(exported / form, threads=1).predict_bytes(_png(picture(7)))[0]
    assert done.stdout == expected


def test_the_calibration_images_depend_on_their_ids_alone(tmp_path: Path) -> None:
    generate(tmp_path / "voc", train=6, val=2, seed=3, size=(40, 32))
    pack(open_layout(tmp_path / "voc"), tmp_path / "packed", VOC_CLASSES)
    store = PackedStore(tmp_path / "packed")
    assert set(chosen(store, 99)) == set(store.ids("train"))
    assert chosen(store, 3) == chosen(store, 99)[:3]
    assert chosen(store, 99) != store.ids("train")


@pytest.mark.slow
@pytest.mark.parametrize(
    "architecture",
    [
        pytest.param(one, marks=[] if one in QUICK else pytest.mark.long)
        for one in sorted(ARCHITECTURES)
    ],
)
def test_every_architecture_is_exported(architecture: str, tmp_path: Path) -> None:
    torch.manual_seed(3)
    network = build(small(architecture))
    wake(network)
    names = [f"class {number}" for number in range(CLASSES)]
    write_bundle(tmp_path / "bundle", network, small(architecture), names, {}, {})
    make.export(tmp_path / "bundle", {"onnx": tmp_path / "onnx"})
    session = onnxruntime.InferenceSession(tmp_path / "onnx" / "model.onnx")
    expected = load_bundle(tmp_path / "bundle").network.eval()
    for count, height, width in ((1, 75, 101), (2, 64, 96), (1, 30, 200)):
        images = torch.rand(count, 3, height, width) * 255
        with torch.inference_mode():
            logits = expected(images).numpy()
        (found,) = session.run(["logits"], {"images": images.numpy()})
        assert logits.std() > 0
        tolerance = 1e-4 * float(np.abs(logits).max())
        np.testing.assert_allclose(found, logits, rtol=0, atol=tolerance, strict=True)
