"""The stage before its first step: what it takes, and what it refuses."""

from __future__ import annotations

import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import yaml
from safetensors.torch import load_file, save_file
from segmentation_models_pytorch.encoders import get_encoder

from segops import files, paths
from segops.augment.policy import build_policy
from segops.data.imbalance import class_weights
from segops.data.packing import pack
from segops.data.selection_split import selection_split
from segops.data.store import PackedStore
from segops.export import make
from segops.params.file import load_params, parse_params
from segops.predict.bundle import bundle_digest, load_bundle, read_model
from segops.predict.package import package
from segops.predict.seen import seen_images
from segops.runtime.classes import VOC_CLASSES
from segops.runtime.errors import SegopsError
from segops.runtime.networks.zoo import ModelSpec, build
from segops.runtime.torch_predictor import TorchPredictor
from segops.stages import train as stage
from segops.train import checkpoint
from segops.train.loop import train
from segops.train.start import Start
from segops.voc.layout import open_layout
from tests.support.bundles import weights_sha256, write_bundle
from tests.support.training import assert_equal, interrupt


@pytest.fixture
def root(tiny_voc: Path, tmp_path: Path) -> Path:
    pack(open_layout(tiny_voc), tmp_path / paths.PACKED, VOC_CLASSES)
    files.write_json(tmp_path / paths.POLICY, build_policy(parse_params({}).augment).to_json())
    return tmp_path


def job(root: Path, tree: dict[str, Any]) -> stage.Job:
    (root / "params.yaml").write_text(yaml.safe_dump(tree))
    return stage.build_job(root, load_params(root), PackedStore(root / paths.PACKED))


def test_the_job_is_what_params_say(root: Path) -> None:
    made = job(
        root, {"model": {"architecture": "fpn", "encoder": "resnet34"}, "train": {"seed": 5}}
    )
    assert (made.spec.architecture, made.spec.encoder, made.spec.classes) == ("fpn", "resnet34", 21)
    assert made.params.seed == 5
    assert made.policy.crop == (512, 512)
    assert made.resume == root / ".segops" / "resume"
    assert made.history.params["model.encoder"] == "resnet34"


def test_a_local_encoder_file_is_found_from_the_workspace(
    root: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir("/")
    (root / "weights").mkdir()
    tensors = get_encoder("resnet18", weights=None).state_dict()
    save_file(tensors, root / "weights" / "r18.safetensors")
    path = root / "weights" / "r18.safetensors"
    tree = {
        "model": {"encoder_weights": "weights/r18.safetensors"},
        "augment": {"crop": [32, 32]},
        "train": {"iterations": 1, "batch_size": 2, "warmup_epochs": 0, "device": "cpu"},
    }
    made = job(root, tree)
    assert made.encoder_weights == str(path)
    stage.run(root)
    training = files.read_json(root / paths.TRAINING)
    assert (training["start_model"], training["start_sha256"]) == (None, files.sha256_file(path))


def test_a_missing_encoder_file_is_named(root: Path) -> None:
    with pytest.raises(SegopsError, match=r"encoder_weights: gone\.safetensors: no such file"):
        job(root, {"model": {"encoder_weights": "gone.safetensors"}})


def test_imagenet_without_network_is_told_before_anything_is_trained(root: Path) -> None:
    with pytest.raises(SegopsError, match=r"model\.encoder_weights: imagenet.*null"):
        job(root, {"model": {"encoder_weights": "imagenet"}})


def test_other_classes_than_packed_are_refused(root: Path) -> None:
    with pytest.raises(SegopsError, match=r"data\.classes.*dvc repro prepare"):
        job(root, {"data": {"classes": ["background", "cat"]}})


def test_live_logging_can_be_switched_off_and_never_fails(
    root: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setenv("SEGOPS_LIVE", "0")
    stage._start_live_logging(root)
    assert not (root / stage.FOLLOW_LOG).exists()
    monkeypatch.setenv("SEGOPS_LIVE", "1")
    monkeypatch.setattr("sys.executable", str(root / "no-such-python"))
    stage._start_live_logging(root)
    assert "Live logging did not start" in caplog.text


MEAN, STD = (0.5, 0.45, 0.4), (0.5, 0.25, 0.125)
"""A normalisation that is not ImageNet's."""


def bundle(root: Path, images: dict[str, str]) -> Path:
    torch.manual_seed(9)
    spec = ModelSpec("plain_cnn", "resnet18", len(VOC_CLASSES), mean=MEAN, std=STD)
    write_bundle(root / "started", build(spec), spec, VOC_CLASSES, images, {})
    return root / "started"


def test_a_training_starts_from_a_bundle(root: Path, tmp_path: Path) -> None:
    """Its weights are the first ones, its images count as seen, its weights' hash is told."""
    store = PackedStore(root / paths.PACKED)
    own = {one: store.image_sha256(one) for one in store.ids("train")}
    known, other = store.ids("train")[:2]
    directory = bundle(root, {known: own[known], other: "0" * 64, "2007_000001": "1" * 64})
    content = read_model(directory) | {"training_pixels": {"2007_000001": "2" * 64}}
    files.write_json(directory / "model.json", content)
    tree = {
        "model": {"architecture": "plain_cnn", "start_from": "started"},
        "augment": {"crop": [64, 64]},
        "train": {"epochs": 2, "iterations": 1, "lr": 1e-9, "batch_size": 3, "warmup_epochs": 0,
                  "weight_decay": 0.0, "device": "cpu", "precision": "fp32"},
    }  # fmt: skip
    made = job(root, tree)
    assert made.start is not None
    assert made.start.sha256 == weights_sha256(directory)
    assert (made.spec.mean, made.spec.std) == (MEAN, STD)
    stage.run(root)
    trained = load_file(root / paths.LAST_WEIGHTS)
    started = load_file(directory / "weights.safetensors")
    for name, one in started.items():
        if one.ndim > 1:
            torch.testing.assert_close(trained[name], one, atol=1e-6, rtol=0)
    training = files.read_json(root / paths.TRAINING)
    assert (training["start_model"], training["start_sha256"]) == ("started", made.start.sha256)
    model = read_model(root / paths.TRAINED)
    assert (model["spec"]["mean"], model["spec"]["std"]) == (list(MEAN), list(STD))
    images = model["training_images"]
    assert images == {**own, f"start_from/{other}": "0" * 64, "2007_000001": "1" * 64}
    pixels = store.pixel_hashes(store.ids("train"))
    assert model["training_pixels"] == {**pixels, "2007_000001": "2" * 64}


def test_the_start_models_normalisation_counts_and_must_be_there(root: Path) -> None:
    directory = bundle(root, {})
    tree = {"model": {"architecture": "plain_cnn", "start_from": "started"}}
    first = job(root, tree)
    content = read_model(directory)
    content["spec"]["mean"] = [0.1, 0.2, 0.3]
    files.write_json(directory / "model.json", content)
    second = job(root, tree)
    assert second.spec.mean == (0.1, 0.2, 0.3)
    assert {name for name in first.parts if first.parts[name] != second.parts[name]} == {"start"}
    del content["spec"]["mean"]
    files.write_json(directory / "model.json", content)
    with pytest.raises(SegopsError, match=r"started/model\.json: spec\.mean: found None"):
        job(root, tree)


def test_a_start_model_of_other_channels_is_refused(root: Path) -> None:
    directory = bundle(root, {})
    content = read_model(directory)
    content["spec"] |= {"mean": [0.1] * 4, "std": [0.2] * 4}
    files.write_json(directory / "model.json", content)
    with pytest.raises(SegopsError, match=r"model\.start_from: started: .* 4 channels; .* has 3"):
        job(root, {"model": {"architecture": "plain_cnn", "start_from": "started"}})


@pytest.mark.parametrize(
    ("start", "message"),
    [
        ("absent", r"absent: no bundle there"),
        ("models:/segops@champion", r"there is no record of runs and models"),
    ],
)
def test_a_start_model_that_is_not_there_is_named(
    start: str, message: str, root: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("MLFLOW_TRACKING_URI", f"sqlite:///{root}/mlflow.db")
    with pytest.raises(SegopsError, match=message):
        job(root, {"model": {"architecture": "plain_cnn", "start_from": start}})


def test_a_training_has_a_teacher(root: Path) -> None:
    """Its digest is told, its images count as seen, the bundle of the student holds none of it."""
    store = PackedStore(root / paths.PACKED)
    own = {one: store.image_sha256(one) for one in store.ids("train")}
    val = store.ids("val")[0]
    directory = bundle(root, {store.ids("train")[0]: "0" * 64, val: store.image_sha256(val)})
    tree = {
        "model": {"architecture": "plain_cnn", "options": {"width": 4}},
        "augment": {"crop": [64, 64]},
        "train": {"iterations": 2, "batch_size": 3, "warmup_epochs": 0, "device": "cpu",
                  "precision": "fp32", "teacher": "started"},
    }  # fmt: skip
    made = job(root, tree)
    assert made.teacher is not None
    assert made.parts["teacher"] == made.teacher.digest == bundle_digest(directory)
    stage.run(root)
    training = files.read_json(root / paths.TRAINING)
    told = [training[name] for name in ("teacher_model", "teacher_digest", "start_model")]
    assert told == ["started", bundle_digest(directory), None]
    assert training["fingerprint"] == made.history.fingerprint
    model = read_model(root / paths.TRAINED)
    first = f"teacher/{store.ids('train')[0]}"
    assert model["training_images"] == {**own, first: "0" * 64, val: store.image_sha256(val)}
    assert seen_images(model) >= {store.image_sha256(val)}  # by which the gate refuses it
    alone = {**tree, "train": {**tree["train"], "teacher": None}}
    weights = files.sha256_file(root / paths.LAST_WEIGHTS)
    job(root, alone)
    stage.run(root)
    assert files.sha256_file(root / paths.LAST_WEIGHTS) != weights
    assert files.read_json(root / paths.TRAINING)["teacher_digest"] is None


def test_a_teacher_that_cannot_teach_is_named(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MLFLOW_TRACKING_URI", f"sqlite:///{root}/mlflow.db")
    directory = bundle(root, {})
    content = read_model(directory)
    files.write_json(
        directory / "model.json", content | {"class_names": ["ground", *content["class_names"][1:]]}
    )
    for teacher, message in (
        ("absent", r"absent: no bundle there"),
        ("models:/segops@champion", r"there is no record of runs and models"),
        ("started", r"train\.teacher: started: .*class 0 is 'ground', expected 'background'"),
    ):
        with pytest.raises(SegopsError, match=message):
            job(root, {"train": {"teacher": teacher}})


@pytest.mark.slow
def test_a_training_prunes_the_model_that_it_starts_from(root: Path) -> None:
    """The record names the whole model; bundle and ONNX hold the small one, without the library."""
    bundle(root, {})
    tree = {
        "model": {"architecture": "plain_cnn", "start_from": "started"},
        "augment": {"crop": [64, 64]},
        "train": {"iterations": 2, "batch_size": 3, "warmup_epochs": 0, "device": "cpu",
                  "precision": "fp32", "pruning": 0.3},
    }  # fmt: skip
    made = job(root, tree)
    whole = job(root, {**tree, "train": {**tree["train"], "pruning": None}})
    assert made.start is not None
    assert whole.start is not None
    assert made.start.sha256 == whole.start.sha256 == weights_sha256(root / "started")
    assert made.parts["start"] != whole.parts["start"]
    assert job(root, tree).parts == made.parts
    stage.run(root)
    training = files.read_json(root / paths.TRAINING)
    assert (training["start_model"], training["start_sha256"]) == ("started", made.start.sha256)
    assert training["fingerprint"] == made.history.fingerprint
    left, before = (load_file(root / one / "weights.safetensors")
                    for one in (paths.TRAINED, "started"))  # fmt: skip
    counts = [sum(one.numel() for one in weights.values()) for weights in (left, before)]
    assert counts[0] < 0.6 * counts[1]
    package(root / paths.TRAINED, root / "small")
    make.export(root / "small", {"onnx": root / "onnx"})
    image = PackedStore(root / paths.PACKED).image(made.store.ids("val")[0])
    script = (
        "import sys; sys.modules['torch_pruning'] = None\n"
        "import numpy as np; from pathlib import Path\n"
        "from segops.predict.bundle import load_bundle\n"
        "opened = load_bundle(Path('small'))\n"
        "np.save('found.npy', opened.predict_probabilities(np.load('image.npy')))\n"
    )
    np.save(root / "image.npy", image)
    subprocess.run([sys.executable, "-c", script], cwd=root, check=True)
    found = np.load(root / "found.npy")
    network = build(ModelSpec(**read_model(root / "small")["spec"]))
    network.load_state_dict(left)
    expected = TorchPredictor(network.eval(), VOC_CLASSES).predict_probabilities(np.array(image))
    np.testing.assert_allclose(found, expected, atol=1e-5)
    by_onnx = load_bundle(root / "onnx").predict_probabilities(np.array(image))
    np.testing.assert_allclose(by_onnx, expected, atol=1e-5)


def test_a_pruned_model_is_continued_at_its_own_size(root: Path) -> None:
    directory = bundle(root, {})
    start = Start.of(directory, "started").pruned(
        ModelSpec("plain_cnn", "", len(VOC_CLASSES), mean=MEAN, std=STD), 0.3
    )
    spec = ModelSpec("plain_cnn", "", len(VOC_CLASSES), pruned_shapes=start.pruned_shapes)
    network = build(spec)
    write_bundle(root / "small", network, spec, VOC_CLASSES, {}, {})
    tree = {"model": {"architecture": "plain_cnn", "start_from": "small"}}
    assert build(job(root, tree).spec).state_dict().keys() == start.weights.keys()
    assert job(root, tree).spec.pruned_shapes == start.pruned_shapes
    other = {"model": {"architecture": "plain_cnn", "options": {"width": 8}, "start_from": "small"}}
    with pytest.raises(SegopsError, match=r"pruned_shapes: .*does not fit this network"):
        build(job(root, other).spec)


def test_what_cannot_be_pruned_is_named(root: Path) -> None:
    bundle(root, {})
    for model, message in (
        ({"architecture": "plain_cnn"}, r"train\.pruning: model\.start_from is null"),
        ({"architecture": "manet", "start_from": "started"}, r"manet cannot be pruned"),
        ({"architecture": "unet", "start_from": "started"}, r"train\.pruning: .*another network"),
        (
            {"architecture": "plain_cnn", "options": {"width": 8}, "start_from": "started"},
            r"train\.pruning: .*another network",
        ),
    ):
        (root / "params.yaml").write_text(
            yaml.safe_dump({"model": model, "train": {"pruning": 0.3}})
        )
        settings = stage.TrainingSettings.read(root)  # as the stage reads them
        with pytest.raises(SegopsError, match=message):
            stage.build_job(root, settings, PackedStore(root / paths.PACKED))


def test_class_weights_count_the_images_that_are_trained_on(root: Path) -> None:
    store = PackedStore(root / paths.PACKED)
    ids, selection = selection_split(store.ids("train"), 0.1)
    made = job(root, {"train": {"class_weights": "median_frequency"}})
    assert selection
    assert made.class_weights == class_weights(store, ids, "median_frequency")
    assert made.class_weights != class_weights(store, store.ids("train"), "median_frequency")


def test_what_else_params_say_reaches_the_job(root: Path) -> None:
    made = job(
        root,
        {
            "model": {"auxiliary_weight": 0.4, "output_stride": 16, "dropout": 0.2},
            "augment": {"copy_paste": {"p": 0.3}, "device": "gpu"},
        },
    )
    assert made.auxiliary_weight == 0.4
    assert (made.spec.output_stride, made.spec.dropout) == (16, 0.2)
    assert made.copy_paste is not None
    assert made.augment_device == "gpu"
    assert job(root, {}).copy_paste is None
    assert job(root, {}).augment_device == "cpu"


AUTO: dict[str, Any] = {
    "model": {"architecture": "plain_cnn", "options": {"width": 4}},  # bf16 is slow on a CPU
    "augment": {"crop": [64, 64]},
    "hardware": {"threads": 1},
    "train": {"epochs": 2, "batch_size": 3, "warmup_epochs": 0, "device": "cpu"},
}


def be_a_processor(monkeypatch: pytest.MonkeyPatch, amx: bool) -> None:
    monkeypatch.setattr(torch.cpu, "get_capabilities", lambda: {"amx_bf16": amx})


@pytest.mark.parametrize("amx", [True, False])
def test_a_killed_training_goes_on_in_its_precision_on_another_processor(
    amx: bool, root: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    be_a_processor(monkeypatch, amx)
    begun = job(root, AUTO)
    assert begun.params.precision == ("bf16" if amx else "fp32")
    unbroken = train(replace(begun, resume=tmp_path / "other"))
    interrupt(begun, 2, monkeypatch)
    assert checkpoint.parts_of_interrupted(begun.resume) == begun.parts

    be_a_processor(monkeypatch, not amx)
    again = job(root, AUTO)
    assert (again.parts, again.params) == (begun.parts, begun.params)
    assert again.history.fingerprint == begun.history.fingerprint
    assert_equal(train(again), unbroken)


@pytest.mark.parametrize(
    ("changed", "fresh", "precision"),
    [
        ({}, "0", "bf16"),
        ({}, "1", "fp32"),
        ({"lr": 0.5}, "0", "fp32"),
        ({"precision": "fp16"}, "0", "fp16"),
    ],
    ids=["the same", "told to start anew", "another one", "a named precision"],
)
def test_only_the_same_training_keeps_its_precision(
    changed: dict[str, Any],
    fresh: str,
    precision: str,
    root: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    be_a_processor(monkeypatch, amx=True)
    interrupt(job(root, AUTO), 1, monkeypatch)
    be_a_processor(monkeypatch, amx=False)
    monkeypatch.setenv("SEGOPS_FRESH", fresh)
    made = job(root, AUTO | {"train": AUTO["train"] | changed})
    assert made.params.precision == made.parts["precision"] == precision


def test_a_precision_that_the_device_cannot_compute_is_not_kept(
    root: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    be_a_processor(monkeypatch, amx=True)
    interrupt(job(root, AUTO), 1, monkeypatch)
    be_a_processor(monkeypatch, amx=False)
    monkeypatch.setattr(stage, "can_compute", lambda *_: False)
    assert job(root, AUTO).params.precision == "fp32"
