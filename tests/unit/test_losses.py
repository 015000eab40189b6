"""Losses against plain float64 numpy; void counts nowhere."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from torch import Tensor

from segops.errors import SegopsError
from segops.models.losses import LOSSES, build_loss
from segops.voc.classes import VOID

NAMES = sorted(LOSSES)


def batch(
    seed: int, classes: int, void: float, shape: tuple[int, int, int]
) -> tuple[Tensor, Tensor]:
    random = np.random.default_rng(seed)
    logits = random.normal(size=(shape[0], classes, *shape[1:])) * 3
    target = random.integers(0, classes, size=shape).astype(np.uint8)
    target[random.random(shape) < void] = VOID
    return torch.tensor(logits, dtype=torch.float32), torch.from_numpy(target)


def reference(name: str, logits: NDArray[np.float64], target: NDArray[np.uint8]) -> float:
    """Pixel by pixel, class by class, as the formulas are written."""
    total, pixels = 0.0, 0
    classes = logits.shape[1]
    product, squares, count = np.zeros(classes), np.zeros(classes), np.zeros(classes)
    for n, y, x in np.ndindex(*target.shape):
        label = int(target[n, y, x])
        if label == VOID:
            continue
        scores = logits[n, :, y, x]
        p = np.exp(scores - scores.max())
        p /= p.sum()
        total -= np.log(p[label])
        pixels += 1
        product[label] += p[label]
        squares += p**2
        count[label] += 1
    if pixels == 0:
        return 0.0
    present = count > 0
    scores = 2 * product[present] / (squares[present] + count[present])
    values = {"cross_entropy": total / pixels, "dice": 1 - scores.mean()}
    return float(sum(values[part] for part in name.split("+")))


@pytest.mark.parametrize("name", NAMES)
@settings(max_examples=30, deadline=None)
@given(
    seed=st.integers(0, 10_000),
    classes=st.integers(2, 6),
    void=st.sampled_from([0.0, 0.3, 0.95, 1.0]),
)
def test_equals_the_float64_reference(name: str, seed: int, classes: int, void: float) -> None:
    logits, target = batch(seed, classes, void, (2, 5, 4))
    expected = reference(name, logits.double().numpy(), target.numpy())
    for dtype in (torch.uint8, torch.int64):
        for layout in (torch.contiguous_format, torch.channels_last):
            found = build_loss(name)(logits.contiguous(memory_format=layout), target.to(dtype))
            assert found.dtype == torch.float32
            assert found.shape == ()
            assert float(found) == pytest.approx(expected, rel=2e-6, abs=2e-6)


@pytest.mark.parametrize("name", NAMES)
def test_gradient_equals_finite_differences(name: str) -> None:
    logits, target = batch(1, 3, 0.3, (1, 3, 3))
    logits.requires_grad_()
    build_loss(name)(logits, target).backward()
    exact = logits.detach().double().numpy()
    for index in [(0, 0, 0, 0), (0, 2, 1, 2), (0, 1, 2, 1)]:
        above, below = exact.copy(), exact.copy()
        above[index] += 1e-5
        below[index] -= 1e-5
        slope = reference(name, above, target.numpy()) - reference(name, below, target.numpy())
        assert logits.grad is not None
        assert float(logits.grad[index]) == pytest.approx(slope / 2e-5, abs=1e-5)


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("padding", [1, 7, 100])
def test_void_padding_changes_nothing(name: str, padding: int) -> None:
    logits, target = batch(2, 4, 0.1, (2, 8, 8))
    wide = torch.nn.functional.pad(logits, (0, padding, 0, padding), value=3.0)
    wide[:, 0, 8:] = 40.0  # whatever stands there
    wider = torch.nn.functional.pad(target, (0, padding, 0, padding), value=VOID)
    assert torch.allclose(
        build_loss(name)(wide, wider), build_loss(name)(logits, target), rtol=1e-6
    )


@pytest.mark.parametrize("name", NAMES)
def test_void_pixels_get_no_gradient(name: str) -> None:
    logits, target = batch(3, 4, 0.5, (2, 6, 6))
    logits.requires_grad_()
    build_loss(name)(logits, target).backward()
    assert logits.grad is not None
    void = (target == VOID)[:, None].expand_as(logits)
    assert not logits.grad[void].any()
    assert logits.grad[~void].any()


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("classes", [2, 21, 255])
def test_all_void_gives_zero_with_zero_gradient(name: str, classes: int) -> None:
    logits = torch.randn(2, classes, 4, 4, requires_grad=True)
    loss = build_loss(name)(logits, torch.full((2, 4, 4), VOID, dtype=torch.uint8))
    loss.backward()
    assert float(loss.detach()) == 0.0
    assert logits.grad is not None
    assert not logits.grad.any()


@pytest.mark.parametrize("name", NAMES)
def test_computes_in_float32_under_autocast(name: str) -> None:
    logits, target = batch(4, 5, 0.2, (2, 16, 16))
    low = logits.bfloat16()
    with torch.autocast("cpu", torch.bfloat16):
        found = build_loss(name)(low, target)
    assert found.dtype == torch.float32
    assert float(found) == pytest.approx(
        reference(name, low.double().numpy(), target.numpy()), rel=1e-5
    )


def test_dice_averages_over_the_classes_in_the_truth_only() -> None:
    target = torch.zeros(1, 2, 2, dtype=torch.uint8)
    perfect = torch.zeros(1, 3, 2, 2)
    perfect[:, 0] = 50.0
    assert float(build_loss("dice")(perfect, target)) == pytest.approx(0.0, abs=1e-6)
    wrong = torch.zeros(1, 3, 2, 2)
    wrong[:, 1] = 50.0
    assert float(build_loss("dice")(wrong, target)) == pytest.approx(1.0, abs=1e-6)


def test_cross_entropy_is_averaged_over_counted_pixels() -> None:
    """Three of four pixels are void: the mean is the fourth's own loss, not a quarter of it."""
    target = torch.tensor([[[1, VOID], [VOID, VOID]]], dtype=torch.uint8)
    loss = build_loss("cross_entropy")(torch.zeros(1, 2, 2, 2), target)
    assert float(loss) == pytest.approx(np.log(2))


def test_extreme_logits_stay_finite() -> None:
    _, target = batch(5, 3, 0.2, (1, 8, 8))
    for name in NAMES:
        logits = torch.full((1, 3, 8, 8), -1e4)
        logits[:, 0] = 1e4
        logits.requires_grad_()
        loss = build_loss(name)(logits, target)
        loss.backward()
        assert torch.isfinite(loss)
        assert logits.grad is not None
        assert torch.isfinite(logits.grad).all()


def test_unknown_name_is_refused() -> None:
    with pytest.raises(SegopsError, match=r"no loss 'dise'.*Did you mean dice"):
        build_loss("dise")
