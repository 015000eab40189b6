"""Encoder weights out of local safetensors files."""

from __future__ import annotations

import pickle
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file
from segmentation_models_pytorch.encoders import get_encoder
from torch import Tensor

from segops.models.pretrained import build_pretrained, load_encoder_weights
from segops.runtime.errors import SegopsError
from segops.runtime.networks.zoo import ModelSpec


def write(path: Path, tensors: dict[str, Tensor]) -> Path:
    save_file({name: tensor.contiguous() for name, tensor in tensors.items()}, path)
    return path


@pytest.fixture
def mobilenet(tmp_path: Path) -> tuple[dict[str, Tensor], Path]:
    """All tensors of a MobileNetV2 encoder with random values, and the file that holds them."""
    torch.manual_seed(11)
    state = get_encoder("mobilenet_v2", weights=None).state_dict()
    state = {n: torch.rand_like(t) if t.is_floating_point() else t + 3 for n, t in state.items()}
    return state, write(tmp_path / "mobilenet.safetensors", state)


def test_a_whole_file_loads_strictly(mobilenet: tuple[dict[str, Tensor], Path]) -> None:
    state, path = mobilenet
    assert len(state) == 312
    encoder = get_encoder("mobilenet_v2", weights=None)
    report = load_encoder_weights(encoder, path)
    assert set(report.matched) == set(state)
    assert report.missing == report.unexpected == ()
    assert not report.mismatched
    assert all(torch.equal(encoder.state_dict()[name], state[name]) for name in state)


@pytest.mark.parametrize("architecture", ["unet", "fcn8s", "deeplabv3plus"])
def test_build_puts_them_into_the_encoder(
    architecture: str, mobilenet: tuple[dict[str, Tensor], Path]
) -> None:
    state, path = mobilenet
    network = build_pretrained(ModelSpec(architecture, "mobilenet_v2", 5), str(path))
    found = network.network.encoder.state_dict()  # type: ignore[union-attr,operator]
    assert all(torch.equal(found[name], state[name]) for name in state)


def test_a_prefix_and_a_classifier_are_understood(tmp_path: Path) -> None:
    state = get_encoder("resnet18", weights=None).state_dict()
    tensors = {f"network.encoder.{name}": tensor + 1 for name, tensor in state.items()}
    tensors |= {"network.head.weight": torch.zeros(9, 9)}
    encoder = get_encoder("resnet18", weights=None)
    report = load_encoder_weights(encoder, write(tmp_path / "whole.safetensors", tensors))
    assert len(report.matched) == len(state)
    assert report.unexpected == ("network.head.weight",) or len(report.unexpected) == 1
    assert torch.equal(encoder.state_dict()["conv1.weight"], state["conv1.weight"] + 1)


def test_a_timm_file_fits_the_timm_encoder(tmp_path: Path) -> None:
    state = get_encoder("tu-resnet18", weights=None).state_dict()
    bare = {name.removeprefix("model."): tensor for name, tensor in state.items()}
    bare = {name: t for name, t in bare.items() if not name.endswith("num_batches_tracked")}
    report = load_encoder_weights(
        get_encoder("tu-resnet18", weights=None), write(tmp_path / "timm.safetensors", bare)
    )
    assert len(report.matched) == len(bare)
    assert all(name.endswith("num_batches_tracked") for name in report.missing)


def test_a_few_missing_keep_their_start_and_are_reported(
    mobilenet: tuple[dict[str, Tensor], Path],
    tmp_path: Path,
    caplog: pytest.LogCaptureFixture,
) -> None:
    caplog.set_level("INFO", "segops")
    state, _ = mobilenet
    gone = "features.0.0.weight"
    other = {name: tensor for name, tensor in state.items() if name != gone}
    other["features.0.1.weight"] = torch.zeros(7)
    encoder = get_encoder("mobilenet_v2", weights=None)
    start = encoder.state_dict()[gone].clone()
    report = load_encoder_weights(encoder, write(tmp_path / "most.safetensors", other))
    assert report.missing == (gone,)
    assert report.mismatched == {"features.0.1.weight": ((7,), (32,))}
    assert "features.0.1.weight: (7,) there, (32,) expected" in caplog.text
    assert torch.equal(encoder.state_dict()[gone], start)


def test_another_encoders_file_is_refused_with_counts(
    mobilenet: tuple[dict[str, Tensor], Path],
) -> None:
    _, path = mobilenet
    with pytest.raises(SegopsError, match=r"0 of 100 tensors match: .*312 unexpected"):
        build_pretrained(ModelSpec("unet", "resnet18", 5), str(path))


def test_below_ninety_percent_is_refused(
    mobilenet: tuple[dict[str, Tensor], Path], tmp_path: Path
) -> None:
    state, _ = mobilenet
    learned = [name for name in state if not name.endswith("num_batches_tracked")]
    keep = learned[: int(0.89 * len(learned))]
    path = write(tmp_path / "part.safetensors", {name: state[name] for name in keep})
    with pytest.raises(SegopsError, match=rf"{len(keep)} of {len(learned)} tensors match"):
        load_encoder_weights(get_encoder("mobilenet_v2", weights=None), path)


class Trap:
    def __reduce__(self) -> tuple[object, tuple[str]]:
        return (exec, ("raise SystemExit('pickle was executed')",))


def test_a_pickle_is_refused_unread(tmp_path: Path) -> None:
    path = tmp_path / "weights.pth"
    path.write_bytes(pickle.dumps(Trap()))
    with pytest.raises(SegopsError, match=r"weights\.pth cannot be read .*more than tensors"):
        build_pretrained(ModelSpec("unet", "resnet18", 5), str(path))


def test_a_missing_file_and_a_network_without_encoder(tmp_path: Path) -> None:
    with pytest.raises(SegopsError, match=r"absent\.safetensors: no such file"):
        build_pretrained(ModelSpec("unet", "resnet18", 5), str(tmp_path / "absent.safetensors"))
    with pytest.raises(SegopsError, match="plain_cnn has no encoder"):
        build_pretrained(ModelSpec("plain_cnn", "", 5), "imagenet")
