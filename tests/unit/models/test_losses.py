"""Every loss against a literal one in float64, alone and summed; void counts nowhere."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from segops.models.losses import LOSSES, Loss
from segops.params.loss import LossParams
from segops.runtime.classes import VOID
from tests.support.loss_references import reference

CASES: list[tuple[str, dict[str, Any]]] = [
    ("cross_entropy", {}),
    ("cross_entropy", {"label_smoothing": 0.2}),
    ("ohem", {}),
    ("ohem", {"threshold": 0.4, "min_kept": 5}),
    ("ohem", {"threshold": 1e-9, "min_kept": 3, "label_smoothing": 0.1}),
    ("focal", {}),
    ("focal", {"gamma": 0.0}),
    ("focal", {"gamma": 0.5}),
    ("dice", {}),
    ("jaccard", {}),
    ("lovasz", {}),
    ("tversky", {}),
    ("tversky", {"alpha": 0.3, "beta": 0.7}),
    ("tversky", {"alpha": 1.0, "beta": 0.0}),
    ("boundary", {}),
    ("boundary", {"radius": 1}),
]
every_case = pytest.mark.parametrize(
    ("name", "options"), CASES, ids=[f"{name}-{options}" for name, options in CASES]
)


def loss_named(name: Any, class_weights: Sequence[float] | None = None) -> torch.nn.Module:
    return Loss([LossParams(name=name)], class_weights)


def loss_of(name: str, options: dict[str, Any]) -> torch.nn.Module:
    return Loss([LossParams(name=name, **options)])


def batch(
    seed: int, classes: int, void: float, shape: tuple[int, int, int]
) -> tuple[Tensor, Tensor]:
    random = np.random.default_rng(seed)
    logits = random.normal(size=(shape[0], classes, *shape[1:])) * 3
    target = random.integers(0, classes, size=shape).astype(np.uint8)
    target[random.random(shape) < void] = VOID
    return torch.tensor(logits, dtype=torch.float32), torch.from_numpy(target)


def test_every_loss_has_a_case() -> None:
    assert {name for name, _ in CASES} == set(LOSSES)


@every_case
@settings(max_examples=15, deadline=None)
@given(
    seed=st.integers(0, 10_000),
    classes=st.integers(2, 6),
    void=st.sampled_from([0.0, 0.3, 0.95, 1.0]),
)
def test_equals_the_float64_reference(
    name: str, options: dict[str, Any], seed: int, classes: int, void: float
) -> None:
    logits, target = batch(seed, classes, void, (2, 5, 4))
    expected = reference(name, logits.double().numpy(), target.numpy(), **options)
    for dtype in (torch.uint8, torch.int64):
        for layout in (torch.contiguous_format, torch.channels_last):
            found = loss_of(name, options)(
                logits.contiguous(memory_format=layout), target.to(dtype)
            )
            assert found.dtype == torch.float32
            assert found.shape == ()
            assert float(found) == pytest.approx(expected, rel=5e-6, abs=2e-6)


@every_case
def test_gradient_equals_finite_differences(name: str, options: dict[str, Any]) -> None:
    logits, target = batch(1, 3, 0.3, (1, 3, 3))
    logits.requires_grad_()
    loss_of(name, options)(logits, target).backward()
    exact = logits.detach().double().numpy()
    for index in [(0, 0, 0, 0), (0, 2, 1, 2), (0, 1, 2, 1)]:
        above, below = exact.copy(), exact.copy()
        above[index] += 1e-5
        below[index] -= 1e-5
        slope = reference(name, above, target.numpy(), **options) - reference(
            name, below, target.numpy(), **options
        )
        assert logits.grad is not None
        assert float(logits.grad[index]) == pytest.approx(slope / 2e-5, abs=1e-5)


@every_case
@pytest.mark.parametrize("padding", [1, 7, 100])
def test_void_padding_changes_nothing(name: str, options: dict[str, Any], padding: int) -> None:
    logits, target = batch(2, 4, 0.1, (2, 8, 8))
    wide = torch.nn.functional.pad(logits, (0, padding, 0, padding), value=3.0)
    wide[:, 0, 8:] = 40.0  # whatever stands there
    wider = torch.nn.functional.pad(target, (0, padding, 0, padding), value=VOID)
    loss = loss_of(name, options)
    assert torch.allclose(loss(wide, wider), loss(logits, target), rtol=1e-6, atol=0)


@every_case
def test_void_pixels_get_no_gradient(name: str, options: dict[str, Any]) -> None:
    logits, target = batch(3, 4, 0.5, (2, 6, 6))
    logits.requires_grad_()
    loss_of(name, options)(logits, target).backward()
    assert logits.grad is not None
    void = (target == VOID)[:, None].expand_as(logits)
    assert not logits.grad[void].any()
    assert logits.grad[~void].any()


@every_case
@pytest.mark.parametrize("classes", [2, 21, 255])
def test_all_void_gives_zero_with_zero_gradient(
    name: str, options: dict[str, Any], classes: int
) -> None:
    logits = torch.randn(2, classes, 4, 4, requires_grad=True)
    loss = loss_of(name, options)(logits, torch.full((2, 4, 4), VOID, dtype=torch.uint8))
    loss.backward()
    assert float(loss.detach()) == 0.0
    assert logits.grad is not None
    assert not logits.grad.any()


@pytest.mark.parametrize(
    ("name", "options"),
    # This many pixels are kept per image of the batch, so that another image makes a difference.
    [(name, options) for name, options in CASES if "min_kept" not in options],
)
def test_an_all_void_image_in_a_batch_changes_nothing(name: str, options: dict[str, Any]) -> None:
    logits, target = batch(8, 4, 0.2, (3, 6, 6))
    target[1] = VOID
    logits.requires_grad_()
    loss = loss_of(name, options)
    whole = loss(logits, target)
    whole.backward()
    assert torch.allclose(whole, loss(logits[::2], target[::2]), rtol=1e-6, atol=0)
    assert logits.grad is not None
    assert torch.isfinite(logits.grad).all()
    assert not logits.grad[1].any()


@every_case
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_computes_in_float32_under_autocast(
    name: str, options: dict[str, Any], dtype: torch.dtype
) -> None:
    logits, target = batch(4, 5, 0.2, (2, 16, 16))
    low = logits.to(dtype)
    exact = loss_of(name, options)(low.float(), target)
    with torch.autocast("cpu", torch.bfloat16):
        found = loss_of(name, options)(low, target)
    assert found.dtype == torch.float32
    assert torch.equal(found, exact)


@every_case
def test_extreme_logits_stay_finite(name: str, options: dict[str, Any]) -> None:
    _, target = batch(5, 3, 0.2, (1, 8, 8))
    for high in (1e4, 20.0, 0.0):
        logits = torch.full((1, 3, 8, 8), -high)
        logits[:, 0] = high
        logits.requires_grad_()
        loss = loss_of(name, options)(logits, target)
        loss.backward()
        assert torch.isfinite(loss)
        assert logits.grad is not None
        assert torch.isfinite(logits.grad).all()


@pytest.mark.parametrize("name", sorted(LOSSES))
def test_alone_it_leads_to_the_truth(name: str) -> None:
    logits, target = batch(7, 4, 0.2, (2, 8, 8))
    logits.requires_grad_()
    loss, optimizer = loss_named(name), torch.optim.Adam([logits], lr=0.5)
    for _ in range(60):
        optimizer.zero_grad()
        loss(logits, target).backward()
        optimizer.step()
    counted = target != VOID
    assert torch.equal(logits.argmax(dim=1)[counted], target[counted].long())
    assert float(loss(logits, target).detach()) < 0.05


def test_parts_are_summed_with_their_weights() -> None:
    logits, target = batch(6, 4, 0.2, (2, 6, 6))
    parts = [
        LossParams(name="focal", weight=0.3, gamma=1.0),
        LossParams(name="lovasz", weight=2.0),
        LossParams(name="dice"),
    ]
    expected = sum(
        part.weight
        * reference(part.name, logits.double().numpy(), target.numpy(), **part.options())
        for part in parts
    )
    assert float(Loss(parts)(logits, target)) == pytest.approx(expected, rel=5e-6)
    joined = Loss([LossParams(name="cross_entropy"), LossParams(name="dice")])(logits, target)
    assert torch.equal(
        joined, loss_named("cross_entropy")(logits, target) + loss_named("dice")(logits, target)
    )


def test_a_loss_has_no_parameters_and_its_weights_are_no_state() -> None:
    loss = loss_named("cross_entropy", [1.0, 2.0])
    assert not list(loss.parameters())
    assert not loss.state_dict()
    assert [one.tolist() for one in loss.buffers()] == [[1.0, 2.0]]
