"""The bundle: self-contained, the same bytes again, checked before it is run, never mixed."""

from __future__ import annotations

import ast
import importlib.util
import json
import py_compile
import re
import shutil
import subprocess
import sys
import sysconfig
from collections.abc import Mapping
from importlib.metadata import packages_distributions
from pathlib import Path

import numpy as np
import pytest
import safetensors.torch
import torch
from numpy.typing import NDArray
from torch import nn

from segops import code, files
from segops.predict import package
from segops.predict.bundle import bundle_digest, load_bundle, read_model
from segops.predict.package import ENTRIES, LIBRARIES, ROOM, code_files
from segops.runtime import opener
from segops.runtime.errors import SegopsError
from segops.runtime.networks.zoo import ModelSpec, build
from segops.runtime.torch_predictor import TorchPredictor
from tests.support.bundles import weights_sha256, write_bundle

NAMES = ("background", "cat", "dog")
SPEC = ModelSpec("plain_cnn", "", 3, {"width": 8})
IMAGES = {"2007_000032": "ab" * 32, "2007_000001": "cd" * 32}


def made(seed: int = 0, spec: ModelSpec = SPEC) -> nn.Module:
    torch.manual_seed(seed)
    network = build(spec)
    for module in network.modules():
        if isinstance(module, nn.BatchNorm2d):  # as after training, not as new
            module.running_mean.normal_(0, 0.1)  # type: ignore[union-attr,operator]
            module.running_var.uniform_(0.5, 2)  # type: ignore[union-attr,operator]
        elif isinstance(module, nn.Conv2d):
            nn.init.kaiming_normal_(module.weight)
    return network


def picture(seed: int = 0) -> NDArray[np.uint8]:
    patches = np.random.default_rng(seed).integers(0, 256, (4, 5, 3), dtype=np.uint8)
    return np.kron(patches, np.ones((10, 10, 1), np.uint8))[:37]


@pytest.fixture
def bundle(tmp_path: Path) -> Path:
    write_bundle(tmp_path / "bundle", made(), SPEC, NAMES, IMAGES, {"seed": 0})
    return tmp_path / "bundle"


@pytest.mark.parametrize(
    "spec",
    [SPEC, ModelSpec("unet", "resnet18", 3, {"decoder_channels": (32, 16, 16, 8, 8)})],
    ids=["plain_cnn", "unet"],
)
def test_it_predicts_what_the_network_predicts(tmp_path: Path, spec: ModelSpec) -> None:
    network = made(spec=spec).to(memory_format=torch.channels_last)
    write_bundle(tmp_path / "bundle", network, spec, NAMES, IMAGES, {})
    direct, loaded = TorchPredictor(network, NAMES), load_bundle(tmp_path / "bundle")
    for seed in range(3):
        expected, found = direct.predict(picture(seed)), loaded.predict(picture(seed))
        np.testing.assert_array_equal(found.mask, expected.mask)
        np.testing.assert_array_equal(loaded.predict_mask(picture(seed)), expected.mask)
        assert found.confidence == pytest.approx(expected.confidence, abs=1e-6)
    assert len(np.unique(expected.mask)) > 1  # or equal masks would say little
    assert loaded.class_names == NAMES


def test_it_says_what_it_is(bundle: Path) -> None:
    model = read_model(bundle)
    assert model["class_names"] == list(NAMES)
    assert model["training_images"] == IMAGES
    assert model["extra"] == {"seed": 0}
    assert ModelSpec(**model["spec"]) == SPEC
    assert weights_sha256(bundle) == files.sha256_file(bundle / "weights.safetensors")
    assert {path.name for path in bundle.iterdir()} == {
        "weights.safetensors",
        "model.json",
        "runtime",
        "requirements.txt",
    }


def test_the_same_weights_and_code_give_the_same_bytes(bundle: Path, tmp_path: Path) -> None:
    again = tmp_path / "elsewhere" / "again"
    shuffled = dict(reversed(IMAGES.items()))
    write_bundle(
        again, made().to(memory_format=torch.channels_last), SPEC, NAMES, shuffled, {"seed": 0}
    )
    assert bundle_digest(again) == bundle_digest(bundle)
    for path in bundle.rglob("*"):
        assert not path.is_file() or str(tmp_path).encode() not in path.read_bytes()


def test_any_other_byte_gives_another_digest(bundle: Path, tmp_path: Path) -> None:
    digests = {bundle_digest(bundle)}
    other = tmp_path / "other"
    write_bundle(other, made(seed=1), SPEC, NAMES, IMAGES, {"seed": 0})
    digests.add(bundle_digest(other))
    write_bundle(other, made(), SPEC, NAMES, IMAGES, {"seed": 1})
    digests.add(bundle_digest(other))
    (other / "runtime" / "errors.py").open("a").write("# more\n")
    digests.add(bundle_digest(other))
    (other / "stray.txt").touch()
    digests.add(bundle_digest(other))
    (other / "stray.txt").rename(other / "moved.txt")
    digests.add(bundle_digest(other))
    assert len(digests) == 6


def test_loading_makes_no_byte_code_and_moves_no_random_state(bundle: Path) -> None:
    digest, state = bundle_digest(bundle), torch.get_rng_state()
    load_bundle(bundle, expected_digest=digest).predict(picture())
    assert torch.equal(torch.get_rng_state(), state)
    assert not list(bundle.rglob("__pycache__"))
    assert bundle_digest(bundle) == digest


def test_a_changed_bundle_is_refused_before_its_code_is_run(bundle: Path, tmp_path: Path) -> None:
    digest, trace = bundle_digest(bundle), tmp_path / "was run"
    with (bundle / "runtime" / "errors.py").open("a") as file:
        file.write(f"\nopen({str(trace)!r}, 'w').close()\n")
    with pytest.raises(SegopsError, match=f"expected {digest}.*its code was not run"):
        load_bundle(bundle, expected_digest=digest)
    assert not trace.exists()
    load_bundle(bundle)  # the trap works
    assert trace.exists()


def test_what_was_checked_is_used_whatever_is_put_in_its_place_then(
    bundle: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Every file of the bundle is replaced between the check of the digest and the use."""
    other, before, trace = tmp_path / "other", tmp_path / "before", tmp_path / "was run"
    write_bundle(other, made(seed=1), SPEC, ("void", "tree", "car"), {}, {})
    with (other / "runtime" / "errors.py").open("a") as file:
        file.write(f"\nopen({str(trace)!r}, 'w').close()\n")
    digest, counted = bundle_digest(bundle), opener.digest

    def then_swap(contents: Mapping[str, bytes]) -> str:
        found = counted(contents)
        bundle.rename(before)
        other.rename(bundle)
        return found

    monkeypatch.setattr(opener, "digest", then_swap)
    loaded = load_bundle(bundle, expected_digest=digest)
    monkeypatch.undo()
    assert read_model(bundle)["class_names"] == ["void", "tree", "car"]
    assert (loaded.digest, loaded.class_names) == (digest, NAMES)
    assert loaded.model["training_images"] == IMAGES
    expected = TorchPredictor(made(), NAMES).predict(picture())
    np.testing.assert_array_equal(loaded.predict(picture()).mask, expected.mask)
    assert not trace.exists()
    with pytest.raises(SegopsError, match=f"expected {digest}"):
        load_bundle(bundle, expected_digest=digest)


def test_a_bundle_without_end_is_refused(bundle: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    size = sum(one.stat().st_size for one in bundle.rglob("*") if one.is_file())
    monkeypatch.setattr(opener, "MOST_BYTES", size)
    assert load_bundle(bundle).class_names == NAMES
    with (bundle / "stray").open("wb") as file:
        file.truncate(1)
    with pytest.raises(SegopsError, match="too large"):
        load_bundle(bundle)


def test_planted_byte_code_is_never_run(bundle: Path, tmp_path: Path) -> None:
    digest, trace = bundle_digest(bundle), tmp_path / "was run"
    source = tmp_path / "errors.py"
    source.write_text(
        (bundle / "runtime" / "errors.py").read_text() + f"\nopen({str(trace)!r}, 'w').close()\n"
    )
    target = importlib.util.cache_from_source(str(bundle / "runtime" / "errors.py"))
    mode = py_compile.PycInvalidationMode.UNCHECKED_HASH  # Python runs this whatever the source
    py_compile.compile(str(source), target, invalidation_mode=mode, doraise=True)
    load_bundle(bundle, expected_digest=digest).predict(picture())
    assert not trace.exists()


def test_two_bundles_with_other_code_do_not_mix(bundle: Path, tmp_path: Path) -> None:
    other = tmp_path / "other"
    shutil.copytree(bundle, other)
    code = other / "runtime" / "predictor.py"
    text = code.read_text()
    changed = text.replace(
        "return Prediction(self.arrays.fetch(mask), float(confidence / prod(mask.shape)))",
        "return Prediction(self.arrays.fetch(0 * mask), 0.25)",
    )
    assert changed != text
    code.write_text(changed)
    expected = TorchPredictor(made(), NAMES).predict(picture())
    first, second = load_bundle(bundle), load_bundle(other)
    for _ in range(2):
        np.testing.assert_array_equal(first.predict(picture()).mask, expected.mask)
        found = second.predict(picture())
        assert not found.mask.any()
        assert found.confidence == 0.25
        second, first = load_bundle(other), load_bundle(bundle)
    np.testing.assert_array_equal(
        TorchPredictor(made(), NAMES).predict(picture()).mask, expected.mask
    )


def test_an_error_of_the_bundles_code_is_one_of_ours(bundle: Path) -> None:
    with pytest.raises(SegopsError, match="image 3"):
        load_bundle(bundle).predict_bytes(b"no image", "image 3")


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU")
def test_a_gpu_that_is_not_there_is_named(bundle: Path) -> None:
    with pytest.raises(SegopsError, match="device cuda: there is no usable GPU"):
        load_bundle(bundle, device="cuda")


def test_weights_of_another_network_do_not_fit(bundle: Path, tmp_path: Path) -> None:
    wide = made(spec=ModelSpec("plain_cnn", "", 3, {"width": 16}))
    safetensors.torch.save_file(wide.state_dict(), bundle / "weights.safetensors")
    with pytest.raises(SegopsError, match=r"weights\.safetensors does not fit model.json"):
        load_bundle(bundle)
    (bundle / "weights.safetensors").write_bytes(b"\x80\x04pickle")
    with pytest.raises(SegopsError, match=r"weights\.safetensors does not fit model.json"):
        load_bundle(bundle)


def test_what_is_no_bundle_is_named(bundle: Path, tmp_path: Path) -> None:
    with pytest.raises(SegopsError, match="nowhere: not a model bundle"):
        load_bundle(tmp_path / "nowhere")
    with pytest.raises(SegopsError, match="nowhere: not a model bundle"):
        bundle_digest(tmp_path / "nowhere")
    (bundle / "model.json").write_text('{"format": 99}')
    with pytest.raises(SegopsError, match="format 99; this code reads 1"):
        load_bundle(bundle)
    (bundle / "model.json").write_text("{")
    with pytest.raises(SegopsError, match=r"model.json: not JSON"):
        load_bundle(bundle)
    (bundle / "model.json").unlink()
    with pytest.raises(SegopsError, match=r"not a model bundle: model.json missing"):
        load_bundle(bundle)


def test_names_must_fit_and_nothing_is_left_of_a_failed_write(tmp_path: Path) -> None:
    with pytest.raises(SegopsError, match="3 classes, but 2 names"):
        write_bundle(tmp_path / "bundle", made(), SPEC, NAMES[:2], IMAGES, {})
    with pytest.raises(ValueError, match="Out of range float"):
        write_bundle(tmp_path / "bundle", made(), SPEC, NAMES, IMAGES, {"loss": float("nan")})
    assert list(tmp_path.iterdir()) == []


def test_every_library_that_the_code_imports_is_required(bundle: Path) -> None:
    lines = (bundle / "requirements.txt").read_text().splitlines()
    assert [line.split("==")[0] for line in lines] == list(LIBRARIES)
    assert all(re.fullmatch(r"[a-z0-9-]+==[0-9][0-9a-z.]*", line) for line in lines)
    imported: set[str] = set()
    for path in bundle.rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.Import):
                imported |= {name.name.partition(".")[0] for name in node.names}
            elif isinstance(node, ast.ImportFrom) and node.level == 0:
                imported.add(str(node.module).partition(".")[0])
    owners = packages_distributions()
    foreign = imported - set(sys.stdlib_module_names)
    for name in foreign - {"segops", "pydantic_core"}:  # pydantic pins its core
        candidates = {owner.lower().replace("_", "-") for owner in owners[name]}
        assert candidates & set(LIBRARIES), name
    assert "segops" not in imported
    assert "cv2" not in imported


def test_only_what_predicting_takes_travels() -> None:
    needed = set(code.closure(ENTRIES, ["segops.library"]).values()) - {code.ROOT / "__init__.py"}
    copied = {ROOM.parent / name for name in code_files(ROOM)}
    assert copied == needed
    assert {path for path in ROOM.rglob("*.py") if "exported" not in path.parts} == needed


ALONE = """
import json, sys
sys.path.append({site!r})

class Refuse:
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] == "segops":
            raise ModuleNotFoundError("segops is not installed here")

sys.meta_path.insert(0, Refuse())
import base64, pickle, types
from pathlib import Path
import mlflow, numpy, pandas
def refuse(*arguments, **options):
    raise RuntimeError("something was unpickled")

bundle = Path({bundle!r})
script = bundle / "runtime/pyfunc_model.py"
space = {{"__name__": "model"}}
exec(compile(script.read_text(), str(script), "exec"), space)
model = mlflow.models.model.__mlflow_model__
pickle.load = pickle.loads = refuse
context = types.SimpleNamespace(
    artifacts={{"bundle": str(bundle)}},
    model_config={{"bundle_digest": {digest!r}, "device": "cpu"}},
)
model.load_context(context)
content = Path({image!r}).read_bytes()
frame = pandas.DataFrame(
    {{"image": [content, base64.b64encode(content).decode()]}}, index=["a", "b"]
)
found = model.predict(context, frame)
wrong = []
for bad in (pandas.DataFrame({{"image": [content, b"no"]}}), pandas.DataFrame({{"other": [1]}}),
            pandas.DataFrame({{"image": [3]}})):
    try:
        model.predict(context, bad)
    except mlflow.exceptions.MlflowException as error:
        wrong.append([error.get_http_status_code(), str(error)])
try:
    context.model_config["bundle_digest"] = "0" * 64
    model.load_context(context)
except Exception as error:
    wrong.append([0, str(error)])
json.dump({{
    "masks": [mask.hex() for mask in found["mask"]],
    "confidence": list(found["confidence"]),
    "index": list(found.index),
    "columns": list(found.columns),
    "wrong": wrong,
    "foreign": sorted({{"segops", "cv2", "albumentations"}} & set(sys.modules)),
}}, open({out!r}, "w"))
"""


def test_it_works_where_segops_is_not_installed(bundle: Path, tmp_path: Path) -> None:
    from PIL import Image

    Image.fromarray(picture()).save(tmp_path / "image.png")
    program = ALONE.format(
        site=sysconfig.get_path("purelib"),
        bundle=str(bundle),
        digest=bundle_digest(bundle),
        image=str(tmp_path / "image.png"),
        out=str(tmp_path / "out.json"),
    )
    done = subprocess.run(
        [sys.executable, "-I", "-S", "-c", program],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    found = json.loads((tmp_path / "out.json").read_text())
    expected = TorchPredictor(made(), NAMES).predict_bytes((tmp_path / "image.png").read_bytes())
    assert found["masks"] == [expected[0].hex()] * 2
    assert found["confidence"] == pytest.approx([expected[1]] * 2, abs=1e-6)
    assert found["index"] == ["a", "b"]
    assert found["columns"] == ["mask", "confidence"]
    assert found["foreign"] == []
    (row, column, kind, digest) = found["wrong"]
    assert row[0] == column[0] == kind[0] == 400
    assert "image in row 1: not decodable" in row[1]
    assert "expected a column `image`, found other" in column[1]
    assert "image in row 0 is int" in kind[1]
    assert "its code was not run" in digest[1]
    assert not list(bundle.rglob("__pycache__"))


def test_a_bundle_is_told_from_one_of_another_checkouts_code(bundle: Path, tmp_path: Path) -> None:
    here, other = package.ROOM.parent, tmp_path / "src" / "segops"
    shutil.copytree(package.ROOM, other / package.ROOM.name)
    shutil.copy(here / "__init__.py", other)
    assert package.is_by_this_code(bundle)
    assert package.is_by_this_code(bundle, other)
    module = other / package.ROOM.name / "masks.py"
    module.write_text(module.read_text() + "# another comment\n")
    assert not package.is_by_this_code(bundle, other)
    shutil.copy(package.ROOM / "masks.py", module)
    (other / "__init__.py").write_text('__version__ = "9.0.0"\n')
    assert not package.is_by_this_code(bundle, other)
    assert not package.is_by_this_code(bundle, tmp_path / "none")
