"""Checkpoints of torch, other libraries' names, and starting from a trained network."""

from __future__ import annotations

import logging
import socket
from collections.abc import Callable
from pathlib import Path
from threading import Event
from typing import Any

import pytest
import timm
import torch
from huggingface_hub import constants
from segmentation_models_pytorch.encoders import encoders, get_encoder
from torch import Tensor, nn

from segops.models import pretrained as downloads
from segops.models.loading import load_start
from segops.models.pretrained import build_pretrained, load_encoder_weights, normalisation
from segops.runtime.errors import SegopsError
from segops.runtime.networks.segmenter import Segmenter
from segops.runtime.networks.zoo import ModelSpec, build
from tests.support.networks import small

State = dict[str, Tensor]
ENCODER = "tu-test_resnet"


def encoder() -> nn.Module:
    return get_encoder(ENCODER, weights=None)


def other_values(module: nn.Module) -> State:
    state = module.state_dict()
    return {n: torch.rand_like(t) if t.is_floating_point() else t + 3 for n, t in state.items()}


@pytest.mark.parametrize(
    "wrap",
    [
        lambda state: state,
        lambda state: {"state_dict": state, "epoch": 7},
        lambda state: {"model": {f"module.{name}": one for name, one in state.items()}},
        lambda state: {"meta": {"seed": 1}, "model": {"state_dict": state}},
    ],
)
@pytest.mark.parametrize("suffix", [".pt", ".pth"])
def test_a_checkpoint_of_torch_loads(
    wrap: Callable[[State], Any], suffix: str, tmp_path: Path
) -> None:
    state = {name.removeprefix("model."): one for name, one in other_values(encoder()).items()}
    path = tmp_path / f"weights{suffix}"
    torch.save(wrap(state), path)
    network = build_pretrained(ModelSpec("fpn", ENCODER, 3), str(path))
    assert network.encoder is not None
    found = network.encoder.state_dict()
    assert all(torch.equal(found[f"model.{name}"], state[name]) for name in state)


class Anything:
    """An object: more than weights."""


def test_a_checkpoint_with_objects_or_without_weights_is_refused(tmp_path: Path) -> None:
    objects, empty, broken = (tmp_path / name for name in ("a.pth", "b.pt", "c.pt"))
    torch.save({"state_dict": encoder().state_dict(), "config": Anything()}, objects)
    torch.save({"epoch": 3, "scores": [0.1]}, empty)
    broken.write_bytes(b"no checkpoint")
    for path, message in (
        (objects, r"a\.pth cannot be read as weights alone \(it is pickled with more than tensors"),
        (empty, r"b\.pt holds no state dict: expected names and tensors.*state_dict"),
        (broken, r"c\.pt cannot be read as weights alone"),
    ):
        with pytest.raises(SegopsError, match=message):
            load_encoder_weights(encoder(), path)


def test_the_mapping_is_reported(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    state = {name.removeprefix("model."): one for name, one in other_values(encoder()).items()}
    gone = next(iter(state))
    del state[gone]
    path = tmp_path / "weights.pt"
    torch.save(state | {"fc.weight": torch.zeros(9, 9)}, path)
    with caplog.at_level(logging.INFO, "segops"):
        report = load_encoder_weights(encoder(), path)
    assert report.missing == (f"model.{gone}",)
    assert report.unexpected == ("fc.weight",)
    (line,) = [one for one in caplog.messages if "weights.pt" in one]
    assert f"{len(state)} matched, 1 missing (model.{gone}), 0 of another shape, 1 unex" in line


@pytest.mark.parametrize("name", ["efficientvit_b0", "convnextv2_atto", "swin_s3_tiny_224"])
def test_timms_own_file_fits_whatever_its_encoder_calls_the_layers(
    name: str, tmp_path: Path
) -> None:
    state = timm.create_model(name).state_dict()
    path = tmp_path / "model.pt"
    torch.save({name: torch.rand_like(one.float()) for name, one in state.items()}, path)
    found = get_encoder(f"tu-{name}", weights=None)
    report = load_encoder_weights(found, path)
    assert report.missing == ()
    assert not report.mismatched
    assert all("head" in one or "norm" in one for one in report.unexpected), report.unexpected


def test_mmcvs_resnet_v1c_fits_timms(tmp_path: Path) -> None:
    """`resnet50_v1c`, which the published figures start from, numbers its stem in one sequence."""
    with torch.device("meta"):
        names = timm.create_model("resnet50c", num_classes=0).state_dict()
    state = {name: torch.full(one.shape, 0.5) for name, one in names.items()}

    def theirs(name: str) -> str:
        start, _, rest = name.partition(".")
        return {"conv1": "stem.", "bn1": "stem.7."}.get(start, f"{start}.") + rest

    path = tmp_path / "resnet50_v1c.pth"
    torch.save({"state_dict": {theirs(name): one for name, one in state.items()}}, path)
    timms = get_encoder("tu-resnet50c", weights=None)
    report = load_encoder_weights(timms, path)
    assert report.missing == report.unexpected == ()
    assert not report.mismatched
    assert "stem.7.weight" in {theirs(name) for name in state}


@pytest.mark.parametrize(
    ("encoder_name", "weights", "message"),
    [
        ("resnet18", "ssl", r"ssl weights of resnet18 .*HF_HUB_OFFLINE"),
        ("efficientnet-b0", "advprop", r"advprop weights of efficientnet-b0 .*HF_HUB_OFFLINE"),
        ("resnet34", "ssl", r"no ssl weights for resnet34: published are imagenet\."),
        ("resnet18", "nonsense", r"no nonsense weights .*imagenet, ssl, swsl"),
        ("tu-resnet50.a1_in1k", "imagenet", r"weights of tu-resnet50\.a1_in1k .*HF_HUB_OFFLINE"),
        ("tu-resnet50", "a1_in1k", r"tags are part of model\.encoder.*tu-resnet50\.a1_in1k"),
        (
            "tu-resnet50.a9",
            "imagenet",
            r"no weights 'a9' of resnet50\. Expected .*tu-resnet50\.a1_in1k",
        ),
    ],
)
def test_published_names_are_known(encoder_name: str, weights: str, message: str) -> None:
    for attempt in (
        lambda: build_pretrained(ModelSpec("fpn", encoder_name, 3), weights),
        lambda: normalisation(encoder_name, weights),
    ):
        with pytest.raises(SegopsError, match=message):
            attempt()


def test_every_name_that_smp_publishes_is_looked_for() -> None:
    for name, settings in encoders.items():
        for weights in settings["pretrained_settings"]:
            with pytest.raises(SegopsError, match=r"not in the local cache .*HF_HUB_OFFLINE"):
                downloads.check_download(name, weights)


@pytest.mark.parametrize(
    ("endpoint", "reason"),
    [
        ("hub.example", "unknown url type"),
        ("http://hub.example:port", "nonnumeric port"),  # an HTTPException
    ],
)
def test_an_address_that_is_none_is_named(
    endpoint: str, reason: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    settings = {"HF_HUB_OFFLINE": False, "ENDPOINT": endpoint, "HF_HUB_CACHE": str(tmp_path)}
    for name, value in settings.items():
        monkeypatch.setattr(constants, name, value)
    with pytest.raises(SegopsError, match=rf"downloaded from {endpoint}: {reason}.*HF_ENDPOINT"):
        downloads.check_download("resnet18")


def test_a_look_up_of_a_name_that_takes_long_is_not_waited_for(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    settings = {"HF_HUB_OFFLINE": False, "HF_HUB_CACHE": str(tmp_path)}
    for name, value in settings.items():
        monkeypatch.setattr(constants, name, value)
    monkeypatch.setattr(downloads, "SECONDS_TO_ANSWER", 0.1)
    ended = Event()
    monkeypatch.setattr(socket, "getaddrinfo", lambda *_, **__: ended.wait(60) and [])
    try:
        with pytest.raises(SegopsError, match=r"no answer in 0\.1 s"):
            downloads.check_download("resnet18")
        assert not ended.is_set()
    finally:
        ended.set()


def test_the_file_of_published_weights_is_that_in_the_cache(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path))
    assert downloads.weights_file("resnet18", "imagenet") is None
    assert downloads.weights_file("resnet18", None) is None
    published = encoders["resnet18"]["pretrained_settings"]["imagenet"]
    repository = "models--" + published["repo_id"].replace("/", "--")
    path = tmp_path / repository / "snapshots" / published["revision"] / "model.safetensors"
    path.parent.mkdir(parents=True)
    path.write_bytes(b"weights")
    assert downloads.weights_file("resnet18", "imagenet") == path


def trained(classes: int, auxiliary: bool = False) -> Segmenter:
    spec = small("unet")
    return build(ModelSpec("unet", spec.encoder, classes, spec.options), auxiliary=auxiliary)


def test_a_start_takes_all_weights_of_the_same_network() -> None:
    state = trained(5).state_dict()
    network = trained(5, auxiliary=True)
    head = {name: one.clone() for name, one in network.state_dict().items() if name[0] == "a"}
    report = load_start(network, state)
    assert set(report.matched) == set(state)
    assert report.missing == report.unexpected == ()
    assert not report.mismatched
    found = network.state_dict()
    assert all(torch.equal(found[name], state[name]) for name in state)
    assert all(torch.equal(found[name], head[name]) for name in head)  # no bundle holds one


def test_a_start_with_other_classes_begins_with_a_new_classifier(
    caplog: pytest.LogCaptureFixture,
) -> None:
    state = trained(5).state_dict()
    network = trained(3)
    before = {name: one.clone() for name, one in network.state_dict().items()}
    with caplog.at_level(logging.INFO, "segops"):
        report = load_start(network, state)
    found = network.state_dict()
    classifier = {f"network.segmentation_head.0.{kind}" for kind in ("weight", "bias")}
    assert set(found) - set(report.matched) == classifier
    for name, tensor in found.items():
        assert torch.equal(tensor, (before if name in classifier else state)[name])
    assert any("segmentation_head.0.weight" in one and "anew" in one for one in caplog.messages)


def test_a_start_from_another_network_is_refused() -> None:
    network = trained(5)
    before = {name: one.clone() for name, one in network.state_dict().items()}
    other = build(small("linknet")).state_dict()
    with pytest.raises(SegopsError, match=r"model\.start_from: .* of .* tensors match: .*missing"):
        load_start(network, other)
    wider = build(ModelSpec("unet", "resnet18", 5, small("unet").options)).state_dict()
    with pytest.raises(SegopsError, match=r"model\.start_from: .*model\.encoder"):
        load_start(network, wider)
    assert all(torch.equal(one, before[name]) for name, one in network.state_dict().items())
