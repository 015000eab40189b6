"""The loss against a teacher, held against a literal one in float64."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import Tensor

from segops.models.losses import SoftTargets
from segops.runtime.classes import VOID
from tests.unit.models.test_losses import batch


def literal(logits: Tensor, teacher: Tensor, target: Tensor, temperature: float) -> float:
    """Pixel by pixel and class by class."""
    own, theirs = (one.double().numpy() / temperature for one in (logits, teacher))
    total, count = 0.0, 0
    for n, y, x in np.ndindex(tuple(target.shape)):
        if target[n, y, x] != VOID:
            q, p = (np.exp(one[n, :, y, x]) for one in (own, theirs))
            q, p = q / q.sum(), p / p.sum()
            total += sum(p[c] * np.log(p[c] / q[c]) for c in range(len(p)))
            count += 1
    return temperature**2 * total / count


@pytest.mark.parametrize("temperature", [0.5, 1.0, 2.0, 7.0])
@pytest.mark.parametrize("void", [0.0, 0.4])
def test_equals_a_literal_one(temperature: float, void: float) -> None:
    logits, target = batch(1, 5, void, (2, 4, 3))
    teacher, _ = batch(2, 5, 0.0, (2, 4, 3))
    for one in (target, target.long()):
        found = SoftTargets(temperature)(logits, teacher, one)
        assert found.dtype == torch.float32
        assert float(found) == pytest.approx(literal(logits, teacher, target, temperature), 1e-5)


def test_a_network_that_says_what_its_teacher_says_has_none() -> None:
    logits, target = batch(3, 4, 0.2, (1, 5, 5))
    shifted = logits + torch.randn(1, 1, 5, 5)  # the same probabilities
    assert float(SoftTargets(3.0)(shifted, logits, target)) == pytest.approx(0, abs=1e-5)


def test_void_pixels_have_neither_value_nor_gradient() -> None:
    logits, target = batch(4, 4, 0.5, (2, 6, 6))
    teacher, _ = batch(5, 4, 0.0, (2, 6, 6))
    logits.requires_grad_()
    value = SoftTargets(2.0)(logits, teacher, target)
    value.backward()
    assert logits.grad is not None
    void = (target == VOID)[:, None].expand_as(logits)
    assert (logits.grad[void] == 0).all()
    assert (logits.grad[~void] != 0).any()
    changed = torch.where((target == VOID)[:, None], 50.0, teacher)
    assert torch.equal(SoftTargets(2.0)(logits, changed, target), value)
    nothing = SoftTargets(2.0)(logits, teacher, torch.full_like(target, VOID))
    nothing.backward()
    assert float(nothing.detach()) == 0
    assert torch.isfinite(logits.grad).all()


def test_the_gradient_keeps_its_size_at_high_temperatures() -> None:
    """At a high temperature it is (logits - teacher's logits) / C, both without their mean."""
    logits, target = batch(6, 3, 0.0, (1, 4, 4))
    teacher, _ = batch(7, 3, 0.0, (1, 4, 4))
    logits.requires_grad_()
    SoftTargets(1e3)(logits, teacher, target).backward()
    centred = [one.detach() - one.detach().mean(1, keepdim=True) for one in (logits, teacher)]
    torch.testing.assert_close(
        logits.grad, (centred[0] - centred[1]) / 3 / target.numel(), atol=1e-4, rtol=1e-2
    )


def test_it_is_computed_in_float32_under_autocast() -> None:
    logits, target = batch(8, 4, 0.1, (1, 5, 5))
    teacher, _ = batch(9, 4, 0.0, (1, 5, 5))
    with torch.autocast("cpu", torch.bfloat16):
        found = SoftTargets(2.0)(logits, teacher, target)
    assert torch.equal(found, SoftTargets(2.0)(logits, teacher, target))
