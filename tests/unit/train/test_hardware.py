"""Device, precision, threads, optimisers."""

from __future__ import annotations

import os

import pytest
import torch
from segmentation_models_pytorch.encoders import get_encoder
from torch import nn

from segops.params.hardware import HardwareParams
from segops.params.train import TrainParams
from segops.runtime.errors import SegopsError
from segops.train import hardware
from segops.train.devices import Device, choose_device, choose_world
from segops.train.optimizers import build_optimizer

NO_GPU = pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU here")


def test_cpu_can_be_asked_for() -> None:
    assert choose_device("cpu") == "cpu"


@NO_GPU
def test_without_a_gpu() -> None:
    assert choose_device("auto") == "cpu"
    with pytest.raises(SegopsError, match=r"train\.device: cuda, but torch sees no GPU"):
        choose_device("cuda")


@pytest.mark.parametrize(
    ("known", "expected"),
    [
        ({"amx_bf16": True, "avx512_bf16": True}, "bf16"),
        ({"amx_bf16": False, "avx512_bf16": True}, "fp32"),
        ({"avx512_f": True, "amx_bf16": False}, "fp32"),
        ({}, "fp32"),
    ],
)
def test_auto_is_bf16_where_the_cpu_has_amx(
    known: dict[str, bool], expected: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(torch.cpu, "get_capabilities", lambda: known)
    assert hardware.choose_precision("auto", "cpu") == expected
    assert hardware.choose_precision("fp32", "cpu") == "fp32"
    assert hardware.choose_precision("bf16", "cpu") == "bf16"


@pytest.mark.parametrize("native", [True, False])
def test_a_card_without_bf16_is_not_asked_for_it(
    native: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(torch.cuda, "is_bf16_supported", lambda **_: native)
    assert hardware.choose_precision("auto", "cuda") == ("bf16" if native else "fp32")
    assert hardware.can_compute("bf16", "cuda") == native
    assert hardware.can_compute("fp32", "cuda")
    assert hardware.can_compute("bf16", "cpu")
    assert not hardware.can_compute("", "cpu")


@pytest.mark.parametrize(
    ("encoder", "device", "wanted", "expected"),
    [
        ("resnet18", "cpu", True, torch.channels_last),
        ("mobilenet_v2", "cpu", True, torch.channels_last),
        ("resnet18", "cpu", False, torch.contiguous_format),
        ("mobileone_s0", "cpu", True, torch.contiguous_format),
        ("mobileone_s0", "cuda", True, torch.channels_last),
    ],
)
def test_memory_format(
    encoder: str, device: Device, wanted: bool, expected: torch.memory_format
) -> None:
    """MobileOne in channels-last memory crashes torch 2.15 on the CPU."""
    params = TrainParams.model_validate({"channels_last": wanted})
    network = get_encoder(encoder, weights=None)
    assert hardware.choose_layout(params, network, device) is expected


def test_threads_and_workers() -> None:
    assert hardware.choose_threads(HardwareParams(threads=3)) == 3
    assert 1 <= hardware.choose_threads(HardwareParams()) <= (os.cpu_count() or 1)
    assert hardware.choose_workers(HardwareParams(), "cpu") == 0
    assert hardware.choose_workers(HardwareParams(), "cuda") >= 1
    assert hardware.choose_workers(HardwareParams(workers=5), "cpu") == 5


@pytest.mark.parametrize(("name", "kind"), [("fp32", torch.float32), ("bf16", torch.bfloat16)])
def test_fabric_computes_in_the_precision(name: str, kind: torch.dtype) -> None:
    fabric, _, chosen = hardware.build_fabric(
        TrainParams.model_validate({"precision": name, "device": "cpu"})
    )
    inside: list[torch.dtype] = []
    network = nn.Conv2d(3, 2, 1)
    network.register_forward_hook(lambda _module, _inputs, output: inside.append(output.dtype))
    model = fabric.setup_module(network)
    assert model(torch.rand(1, 3, 4, 4)).dtype == torch.float32
    assert inside == [kind]
    assert chosen == name


def test_reproducible_is_for_a_while() -> None:
    before = torch.get_num_threads()
    with hardware.reproducible("cpu", threads=1):
        assert torch.get_num_threads() == 1
        assert torch.are_deterministic_algorithms_enabled()
    assert torch.get_num_threads() == before
    assert not torch.are_deterministic_algorithms_enabled()


@pytest.mark.parametrize(
    ("name", "kind"),
    [("sgd", torch.optim.SGD), ("adam", torch.optim.Adam), ("adamw", torch.optim.AdamW)],
)
def test_optimizers_by_name(name: str, kind: type[torch.optim.Optimizer]) -> None:
    params = TrainParams.model_validate(
        {"optimizer": name, "lr": 0.3, "weight_decay": 0.02, "momentum": 0.7}
    )
    optimizer = build_optimizer([nn.Parameter(torch.ones(2))], params)
    assert type(optimizer) is kind
    group = optimizer.param_groups[0]
    assert (group["lr"], group["weight_decay"]) == (0.3, 0.02)
    if name == "sgd":
        assert group["momentum"] == 0.7


@pytest.mark.parametrize(
    ("given", "expected"),
    [
        ({}, (1, 1)),
        ({"devices": "auto"}, (1, 1)),
        ({"devices": 4, "batch_size": 8}, (4, 1)),
        ({"devices": 2, "nodes": 3, "accumulate": 2, "batch_size": 24}, (2, 3)),
    ],
)
def test_devices_and_machines(given: dict[str, object], expected: tuple[int, int]) -> None:
    assert choose_world(TrainParams.model_validate(given), "cpu") == expected


def test_a_batch_that_cannot_be_divided_names_the_nearest(monkeypatch: pytest.MonkeyPatch) -> None:
    """With `auto` the number of devices is known on the machine only."""
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 3)
    params = TrainParams.model_validate({"devices": "auto", "accumulate": 2, "batch_size": 16})
    with pytest.raises(SegopsError, match=r"batch_size: 16 .*2 x 3 x 1 .*Nearest: 12 or 18\."):
        choose_world(params, "cuda")
    with pytest.raises(SegopsError, match=r"train\.devices: 4, but torch sees 3 GPU"):
        choose_world(TrainParams.model_validate({"devices": 4, "batch_size": 16}), "cuda")


def test_ranks_of_a_machine_share_its_cores(monkeypatch: pytest.MonkeyPatch) -> None:
    alone = hardware.choose_threads(HardwareParams())
    monkeypatch.setenv("LOCAL_WORLD_SIZE", "2")
    assert hardware.choose_threads(HardwareParams()) == max(1, alone // 2)
    assert hardware.choose_threads(HardwareParams(threads=3)) == 3
    assert hardware.choose_workers(HardwareParams(), "cuda") >= 1
