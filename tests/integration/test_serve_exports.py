"""`segops serve` chooses a runtime for each version, and keeps to the one that it was told."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import pytest
import torch

from segops import files, paths
from segops.export import make
from segops.predict.bundle import TORCH, bundle_digest, load_bundle
from segops.record.artifact import ArtifactError
from segops.record.lineage import tag
from segops.record.update import record
from segops.release import promotion
from segops.release.register import register
from segops.runtime.errors import SegopsError
from segops.serve.registry import Followed
from tests.support import registry_workspace as made
from tests.support.prediction_server import Served, await_true, picture, serving

pytestmark = [pytest.mark.slow, pytest.mark.timeout(900)]
CHAMPION = "models:/segops@champion"


def release(root: Path, seed: int, quality: float, onnx: float | None) -> None:
    """Promote a model with an export of so many milliseconds, beside 30 of torch; None: none."""
    made.train(root, seed, quality)
    if onnx is not None:
        own = {"miou": quality, "mib": 1.0, "milliseconds_p95": 50.0, "peak_mib": 90.0}
        digest = make.export(root / paths.SEGMENTER, {"onnx": root / paths.EXPORTS / "onnx"})
        export = {
            **own, "digest": digest["onnx"], "runtime": "onnx", "quantize": None, "error": None,
            "miou_difference": 0.0, "worst_class": "cat", "worst_class_difference": 0.0,
            "differing_pixels": 0.0, "milliseconds_p50": onnx,
            "torch_milliseconds_p50": 30.0,
        }  # fmt: skip
        model = {"bundle_digest": bundle_digest(root / paths.SEGMENTER), "milliseconds_p50": 30.0}
        files.write_json(root / paths.EXPORT_PARITY, {TORCH: own | model, "onnx": export})
    register(root, record(root))
    assert promotion.promote(root, promotion.gate(root)).verdict == "promoted"


def by(root: Path, directory: Path, content: bytes) -> bytes:
    """The mask by the model or export of a directory of a workspace."""
    torch.set_num_threads(1)
    return load_bundle(root / directory, threads=1).predict_bytes(content)[0]


def uses_torch(server: Served) -> bool:
    (worker,) = server.workers()
    return any("libtorch" in one.path for one in worker.memory_maps())


def test_each_version_is_served_by_what_is_quickest(tmp_path: Path) -> None:
    root, content = made.make(tmp_path / "checkout"), picture()
    made.set_params(root, export={"formats": ["onnx"]})
    release(root, seed=1, quality=0.5, onnx=10.0)
    first = by(root, paths.EXPORTS / "onnx", content)
    with serving(tmp_path / "out", "--workers", "1", root=root) as server:
        told = server.client.get("/model").json()
        assert (told["version"], told["runtime"]) == ("1", "onnx")
        assert server.client.post("/predict", content=content).content == first
        assert not uses_torch(server)
        assert (
            "segops version 1 will be served by onnx: onnx takes 10.0 ms an image, torch 30.0 ms "
            "(medians of the evaluation)." in server.log.read_text()
        )
        explained = server.client.post(
            "/predict", content=content, params={"explain": "cat"},
            headers={"Accept": "application/json"},
        )  # fmt: skip
        assert explained.status_code == 501
        assert "`segops serve --runtime torch`" in explained.json()["error"]["message"]
        release(root, seed=2, quality=0.9, onnx=None)
        await_true(
            lambda: server.client.get("/model").json()["version"] == "2",
            server.process, server.log,
        )  # fmt: skip
        assert server.client.get("/model").json()["runtime"] == "torch"
        second = by(root, paths.SEGMENTER, content)
        assert server.client.post("/predict", content=content).content == second
        words = "segops version 2 will be served by torch: the gate offers no export of it."
        assert words in server.log.read_text()


def test_a_version_without_the_export_that_is_asked_for_is_not_served(tmp_path: Path) -> None:
    root, content = made.make(tmp_path / "checkout"), picture()
    release(root, seed=1, quality=0.5, onnx=90.0)
    first = by(root, paths.EXPORTS / "onnx", content)
    options = ("--runtime", "onnx", "--workers", "1")
    with serving(tmp_path / "out", *options, root=root) as server:
        release(root, seed=2, quality=0.9, onnx=None)
        assert made.aliases(root)["champion"] == "2"
        await_true(
            lambda: server.metric("segops_model_changes_total", outcome="refused") == 1,
            server.process, server.log,
        )  # fmt: skip
        told = server.client.get("/model").json()
        assert (told["version"], told["runtime"]) == ("1", "onnx")
        assert server.client.post("/predict", content=content).content == first
        assert not uses_torch(server)
        refusal = "segops version 2: it was released without an export onnx (it has: none)."
        assert refusal in server.log.read_text()
        assert "The model stays as it is." in server.log.read_text()


def test_the_choice_of_a_version(tmp_path: Path) -> None:
    root, place = made.make(tmp_path / "checkout"), tmp_path / "place"
    place.mkdir()
    release(root, seed=1, quality=0.5, onnx=10.0)

    def look(runtime: str = "auto", on_cpu: bool = True) -> dict[str, Any]:
        found = Followed("main", CHAMPION, runtime, on_cpu, root, place).look()
        assert found is not None
        return found

    found = look()
    assert (found["runtime"], "torch 30.0 ms" in found["why"]) == ("onnx", True)
    assert (Path(found["directory"]) / "model.onnx").is_file()
    assert (look(TORCH)["runtime"], look("onnx")["why"]) == (TORCH, "")
    found = look(on_cpu=False)
    assert (found["runtime"], "a GPU predicts" in found["why"]) == (TORCH, True)

    # An export that is gone is no reason to serve nothing, but where it was asked for.
    digest = files.read_json(root / paths.EXPORT_PARITY)["onnx"]["digest"]
    (kept,) = root.rglob(f"exports/{digest}")
    shutil.rmtree(kept)
    found = look()
    assert (found["runtime"], "is gone" in found["why"]) == (TORCH, True)
    assert (Path(found["directory"]) / "weights.safetensors").is_file()
    with pytest.raises(ArtifactError, match="is gone"):
        look("onnx")

    release(root, seed=2, quality=0.9, onnx=40.0)
    found = look()
    assert (found["runtime"], "onnx takes 40.0 ms" in found["why"]) == (TORCH, True)

    made.client(root).set_model_version_tag("segops", "2", tag("bundle_digest"), "0" * 64)
    with pytest.raises(SegopsError, match="version 2: the ledger names another artifact, so it is"):
        look()
