"""The loss of queries against a literal one in float64, pixel by pixel; void counts nowhere."""

from __future__ import annotations

from itertools import permutations, product
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from segops.models.losses import MaskClassification, build_loss
from segops.params.loss import LossParams
from segops.runtime.classes import VOID
from segops.runtime.networks.mask_queries import MaskQueries
from tests.unit.models.test_losses_deterministic import WITHOUT, Operations

CELL, CLASSES = 4, 3

pytestmark = pytest.mark.usefixtures("one_thread")


def queries_of(seed: int, images: int = 2, count: int = 4, predictions: int = 2) -> MaskQueries:
    """Queries on images of 12 x 8 pixels, padded."""
    random = torch.Generator().manual_seed(seed)

    def some(*shape: int) -> tuple[Tensor, ...]:
        return tuple(2 * torch.randn(*shape, generator=random) for _ in range(predictions))

    return MaskQueries(some(images, count, 3, 2), some(images, count, CLASSES + 1), CELL)


def truth_of(seed: int, void: float, shape: tuple[int, ...] = (2, 11, 7)) -> Tensor:
    random = np.random.default_rng(seed)
    target = random.integers(0, CLASSES, size=shape).astype(np.uint8)
    target[random.random(shape) < void] = VOID
    return torch.from_numpy(target)


def of_pair(logits: Any, truth: Any) -> float:
    """Five times the cross-entropy and the Dice loss of a mask at some pixels."""
    entropies, inside = [], []
    for logit, label in zip(logits, truth, strict=True):
        probability = 1 / (1 + np.exp(-logit))
        entropies.append(-np.log(probability if label else 1 - probability))
        inside.append(probability)
    hit = sum(one for one, label in zip(inside, truth, strict=True) if label)
    dice = 1 - (2 * hit + 1) / (sum(inside) + sum(truth) + 1)
    return float(5 * np.mean(entropies) + 5 * dice)


def literal(found: MaskQueries, target: Tensor) -> float:
    """The loss as it is written down, with every assignment tried."""
    loss = 0.0
    for masks, classes in zip(found.masks, found.classes, strict=True):
        of_masks, regions, entropy, weights = 0.0, 0, 0.0, 0.0
        for image in range(len(target)):
            labels = target[image].numpy()
            pixels = [place for place in np.ndindex(*labels.shape) if labels[place] != VOID]
            ids = sorted({int(labels[place]) for place in pixels})
            if not ids:
                continue
            logits = [
                [float(mask[y // CELL, x // CELL]) for y, x in pixels]
                for mask in masks[image].double()
            ]
            truth = [[bool(labels[place] == one) for place in pixels] for one in ids]
            said = classes[image].double().softmax(dim=-1).numpy()
            pairs = [[of_pair(mask, one) for one in truth] for mask in logits]

            def cost(chosen: tuple[int, ...], pairs: Any = pairs, said: Any = said) -> float:
                each = zip(chosen, ids, range(len(ids)), strict=True)  # noqa: B023
                return float(sum(pairs[q][k] - 2 * said[q][one] for q, one, k in each))

            best = min(permutations(range(len(logits)), len(ids)), key=cost)
            of_masks += sum(pairs[query][k] for k, query in enumerate(best))
            regions += len(ids)
            for query in range(len(logits)):
                label = ids[best.index(query)] if query in best else CLASSES
                weight = 0.1 if label == CLASSES else 1.0
                entropy -= weight * np.log(said[query][label])
                weights += weight
        if regions:
            loss += 2 * entropy / weights + of_masks / regions
    return loss


@pytest.mark.parametrize(("seed", "void"), list(product(range(4), [0.0, 0.3, 0.97, 1.0])))
def test_equals_the_literal_loss(seed: int, void: float) -> None:
    found, target = queries_of(seed), truth_of(seed, void)
    expected = literal(found, target)
    for dtype in (torch.uint8, torch.int64):
        loss = MaskClassification()(found, target.to(dtype))
        assert loss.dtype == torch.float32
        assert loss.shape == ()
        assert float(loss) == pytest.approx(expected, rel=1e-5, abs=1e-6)


def test_the_gradient_is_that_of_finite_differences() -> None:
    found, target = queries_of(1), truth_of(1, 0.3)
    leaves = [one.requires_grad_() for one in (*found.masks, *found.classes)]
    MaskClassification()(found, target).backward()  # type: ignore[no-untyped-call]
    for leaf, place in product((leaves[0], leaves[-1]), [(0, 0), (1, 2)]):
        index = (*place, *(1 for _ in leaf.shape[2:]))
        values = []
        for step in (1e-5, -1e-5):
            moved = [one.detach().double().clone() for one in leaves]
            moved[next(k for k, one in enumerate(leaves) if one is leaf)][index] += step
            values.append(literal(MaskQueries(tuple(moved[:2]), tuple(moved[2:]), CELL), target))
        assert leaf.grad is not None
        assert float(leaf.grad[index]) == pytest.approx((values[0] - values[1]) / 2e-5, abs=1e-4)


def test_void_has_no_say() -> None:
    found, target = queries_of(2), truth_of(2, 0.1)
    target[:, :, 4:] = VOID  # the right column of cells
    for one in found.masks:
        one.requires_grad_()
    loss = MaskClassification()(found, target)
    loss.backward()
    other = MaskQueries(tuple(one.detach().clone() for one in found.masks), *found[1:])
    for one in other.masks:
        one[..., 1] = 50.0
    assert torch.equal(MaskClassification()(other, target), loss)
    for one in found.masks:
        assert one.grad is not None
        assert not one.grad[..., 1].any()
        assert one.grad[..., 0].any()


def test_an_image_that_is_all_void_has_no_say() -> None:
    found, target = queries_of(3, images=3), truth_of(3, 0.1, (3, 12, 8))
    target[1] = VOID
    leaves = [one.requires_grad_() for one in (*found.masks, *found.classes)]
    loss = MaskClassification()(found, target)
    loss.backward()
    kept = [0, 2]
    without = MaskQueries(
        tuple(one[kept] for one in found.masks), tuple(one[kept] for one in found.classes), CELL
    )
    assert torch.allclose(loss, MaskClassification()(without, target[kept]), rtol=1e-6, atol=0)
    assert all(one.grad is not None and not one.grad[1].any() for one in leaves)


def test_a_batch_that_is_all_void_gives_zero_and_zero_gradients() -> None:
    """Not none: several devices wait for every gradient."""
    found, target = queries_of(3), torch.full((2, 11, 7), VOID, dtype=torch.uint8)
    leaves = [one.requires_grad_() for one in (*found.masks, *found.classes)]
    loss = MaskClassification()(found, target)
    loss.backward()
    assert float(loss.detach()) == 0
    assert all(one.grad is not None and not one.grad.any() for one in leaves)


def test_more_classes_than_queries_leave_some_without() -> None:
    found, target = queries_of(4, count=2), truth_of(4, 0.0)
    loss = MaskClassification()(found, target)
    assert torch.isfinite(loss)
    assert len(target.unique()) == CLASSES


def test_computes_in_float32_under_autocast() -> None:
    found, target = queries_of(5), truth_of(5, 0.2)
    low = MaskQueries(
        tuple(one.bfloat16() for one in found.masks),
        tuple(one.bfloat16() for one in found.classes),
        CELL,
    )
    exact = MaskQueries(
        tuple(one.float() for one in low.masks), tuple(one.float() for one in low.classes), CELL
    )
    with torch.autocast("cpu", torch.bfloat16):
        loss = MaskClassification()(low, target)
    assert loss.dtype == torch.float32
    assert torch.equal(loss, MaskClassification()(exact, target))


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_what_is_not_finite_is_left_to_the_loop(value: float) -> None:
    """It stops the training with the step and the images, where the matching would only fail."""
    found, target = queries_of(6), truth_of(6, 0.0)
    found.masks[0][0, 0, 0, 0] = value
    assert not MaskClassification()(found, target).isfinite()


def test_every_operation_has_a_deterministic_kernel() -> None:
    found, target = queries_of(7), truth_of(7, 0.2)
    for one in (*found.masks, *found.classes):
        one.requires_grad_()
    with Operations() as seen:
        MaskClassification()(found, target).backward()  # type: ignore[no-untyped-call]
    assert any("backward" in one for one in seen.names)
    assert not seen.names & WITHOUT
    assert not seen.float_sums
    assert not seen.summed_indices


def test_params_name_it() -> None:
    assert isinstance(build_loss([LossParams(name="mask_classification")]), MaskClassification)
