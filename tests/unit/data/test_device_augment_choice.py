"""Where batches are augmented: what ``augment.device`` asks for on each device."""

from __future__ import annotations

import logging

import albumentations as A
import pytest

from segops.augment.geometry import Warp
from segops.augment.policy import Policy, build_policy
from segops.data.device.augmentation import choose_executor
from segops.params.augment import AugmentParams
from segops.runtime.errors import SegopsError

POLICY = build_policy(AugmentParams(crop=(16, 16)))
UNKNOWN = Policy(A.Compose([Warp((16, 16)), A.RandomGamma(p=0.5)]))


@pytest.mark.parametrize(
    ("wanted", "device", "policy", "expected"),
    [
        ("cpu", "cpu", UNKNOWN, "cpu"),
        ("cpu", "cuda", POLICY, "cpu"),
        ("gpu", "cuda", POLICY, "gpu"),
        ("auto", "cpu", POLICY, "cpu"),
        ("auto", "cuda", POLICY, "gpu"),
        ("auto", "cuda", UNKNOWN, "cpu"),
    ],
)
def test_batches_are_augmented_where_training_runs_if_that_is_asked_for(
    wanted: str, device: str, policy: Policy, expected: str
) -> None:
    assert choose_executor(wanted, device, policy) == expected


def test_gpu_on_the_cpu_is_done_and_warned_about(caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.WARNING, "segops"):
        assert choose_executor("gpu", "cpu", POLICY) == "gpu"
    assert "slower than with augment.device: cpu" in caplog.text


@pytest.mark.parametrize("device", ["cpu", "cuda"])
def test_a_part_without_a_version_for_batches_is_refused_by_name(device: str) -> None:
    with pytest.raises(SegopsError, match=r"gpu, but RandomGamma of the policy"):
        choose_executor("gpu", device, UNKNOWN)
