"""Which executor augments: what is asked for, and what `auto` works out."""

from __future__ import annotations

import logging
from types import SimpleNamespace
from typing import Any

import albumentations as A
import pytest
import torch

from segops.augment.geometry import Warp
from segops.augment.policy import Policy, build_policy
from segops.data.device.choose import PIXEL_FLOPS, peak_flops, pixel_flops
from segops.data.device_augment import choose_executor
from segops.params.augment import AugmentParams
from segops.runtime.errors import SegopsError

POLICY = build_policy(AugmentParams(crop=(16, 16)))
UNKNOWN = Policy(A.Compose([Warp((16, 16)), A.RandomGamma(p=0.5)]))


def card(major: int, minor: int, processors: int, kilohertz: int) -> Any:
    """What torch tells of a card."""
    return SimpleNamespace(
        major=major, minor=minor, multi_processor_count=processors, clock_rate=kilohertz
    )


H100 = card(9, 0, 132, 1_830_000)
T4 = card(7, 5, 40, 1_590_000)


@pytest.mark.parametrize(
    ("told", "published"),
    [
        (card(7, 0, 80, 1_530_000), 125e12),
        (T4, 65e12),
        (card(8, 0, 108, 1_410_000), 312e12),
        (card(8, 6, 84, 1_740_000), 150e12),
        (card(8, 9, 142, 2_490_000), 362e12),
        (H100, 989e12),
    ],
)
def test_a_card_s_peak_is_the_published_one(told: Any, published: float) -> None:
    assert peak_flops(told) == pytest.approx(published, rel=0.03)


@pytest.mark.parametrize("device", ["cpu", "cuda"])
def test_cpu_is_cpu_everywhere(device: str) -> None:
    assert choose_executor("cpu", device, UNKNOWN) == "cpu"


def test_gpu_on_the_cpu_is_done_and_warned_about(caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.WARNING, "segops"):
        assert choose_executor("gpu", "cpu", POLICY) == "gpu"
    assert "slower than with augment.device: cpu" in caplog.text


def test_auto_without_a_gpu_is_cpu() -> None:
    assert choose_executor("auto", torch.device("cpu"), POLICY) == "cpu"


@pytest.mark.parametrize(
    ("told", "cores", "expected"),
    # An H100 trains about 1,570 crops of 512 px a second, a T4 about 100; a core makes 230.
    [(H100, 1, "gpu"), (H100, 6, "gpu"), (H100, 8, "cpu"), (T4, 1, "cpu")],
)
def test_auto_compares_what_cores_make_with_what_the_card_trains(
    monkeypatch: pytest.MonkeyPatch, told: Any, cores: int, expected: str
) -> None:
    monkeypatch.setattr(torch.cuda, "get_device_properties", lambda _: told)
    assert choose_executor("auto", "cuda", POLICY, cores=cores) == expected
    # A network of a tenth of the work is fed ten times as fast.
    assert choose_executor("auto", "cuda", POLICY, cores=cores, pixel_flops=lambda: 28e3) == (
        "cpu" if told is T4 and cores > 5 else "gpu"
    )
    assert choose_executor("auto", "cuda", UNKNOWN, cores=cores) == "cpu"


@pytest.mark.parametrize("device", ["cpu", "cuda"])
def test_what_acts_on_the_cpu_alone_is_refused_by_name(device: str) -> None:
    with pytest.raises(SegopsError, match=r"gpu, but RandomGamma of the policy"):
        choose_executor("gpu", device, UNKNOWN)


def test_a_network_is_counted_only_where_the_choice_depends_on_it() -> None:
    def count() -> float:
        raise AssertionError("counted")

    for wanted, device in [("auto", "cpu"), ("cpu", "cuda"), ("gpu", "cpu")]:
        assert choose_executor(wanted, device, POLICY, pixel_flops=count) in ("cpu", "gpu")
    assert choose_executor("auto", "cuda", UNKNOWN, pixel_flops=count) == "cpu"


@pytest.mark.parametrize("groups", [1, 8])
def test_operations_are_counted_per_pixel(groups: int) -> None:
    """Two for each weight that meets a pixel, in a convolution in groups too."""
    layer = torch.nn.Conv2d(3, 8, 3, padding=1)
    grouped = torch.nn.Conv2d(8, 8, 3, padding=1, groups=groups)
    network = torch.nn.Sequential(layer, grouped).to("meta")
    expected = 2 * (layer.weight.numel() + grouped.weight.numel())
    assert pixel_flops(network, (24, 32)) == expected


def test_a_network_that_needs_values_counts_as_the_usual_one(
    caplog: pytest.LogCaptureFixture,
) -> None:
    with caplog.at_level(logging.INFO, "segops"):
        assert pixel_flops(lambda images: images.sum().item(), (8, 8)) == PIXEL_FLOPS
    assert "cannot be counted" in caplog.text
