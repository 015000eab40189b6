"""What each loss stands for: class weights, oracles of other libraries, errors."""

from __future__ import annotations

from itertools import pairwise

import numpy as np
import pytest
import segmentation_models_pytorch as smp
import torch
from torch import Tensor
from torch.nn import functional

from segops.models.losses import Loss
from segops.models.losses.pixelwise import BoundaryWeighted
from segops.params.loss import WEIGHTED, LossParams
from segops.runtime.classes import VOID
from segops.runtime.errors import SegopsError
from tests.support.loss_references import reference
from tests.unit.models.test_losses import batch, loss_named

CLASS_WEIGHTS = [0.5, 2.0, 0.0, 1.3]

SHARP = [
    LossParams(name="cross_entropy"),
    LossParams(name="ohem", min_kept=4, threshold=0.3),
    LossParams(name="focal", gamma=1.5),
]
SMOOTHED = LossParams(name="cross_entropy", label_smoothing=0.1)
weighted_case = pytest.mark.parametrize("part", [*SHARP, SMOOTHED], ids=str)


def test_dice_averages_over_the_classes_in_the_truth_only() -> None:
    target = torch.zeros(1, 2, 2, dtype=torch.uint8)
    perfect = torch.zeros(1, 3, 2, 2)
    perfect[:, 0] = 50.0
    assert float(loss_named("dice")(perfect, target)) == pytest.approx(0.0, abs=1e-6)
    wrong = torch.zeros(1, 3, 2, 2)
    wrong[:, 1] = 50.0
    assert float(loss_named("dice")(wrong, target)) == pytest.approx(1.0, abs=1e-6)


def test_cross_entropy_is_averaged_over_counted_pixels() -> None:
    """Three of four pixels are void: the mean is the fourth's own loss, not a quarter of it."""
    target = torch.tensor([[[1, VOID], [VOID, VOID]]], dtype=torch.uint8)
    loss = loss_named("cross_entropy")(torch.zeros(1, 2, 2, 2), target)
    assert float(loss) == pytest.approx(np.log(2))


@weighted_case
def test_class_weights_equal_the_float64_reference(part: LossParams) -> None:
    for seed in range(8):
        logits, target = batch(seed, 4, 0.3, (2, 5, 4))
        expected = reference(
            part.name, logits.double().numpy(), target.numpy(), CLASS_WEIGHTS, **part.options()
        )
        found = Loss([part], CLASS_WEIGHTS)(logits, target)
        assert float(found) == pytest.approx(expected, rel=5e-6)


@pytest.mark.parametrize("part", SHARP, ids=str)
def test_class_weights_change_the_gradient_in_their_ratio(part: LossParams) -> None:
    """Of pixels alike but for their class, the gradients are in the ratio of the weights."""
    target = torch.tensor([[[0, 1, 2, 3]]], dtype=torch.uint8)
    logits = torch.zeros(1, 4, 1, 4, requires_grad=True)
    Loss([part], CLASS_WEIGHTS)(logits, target).backward()
    assert logits.grad is not None
    own = torch.diagonal(logits.grad[0, :, 0])
    assert torch.allclose(own / own[0], torch.tensor(CLASS_WEIGHTS) / CLASS_WEIGHTS[0])


@weighted_case
def test_where_only_classes_of_weight_zero_occur_the_loss_is_zero(part: LossParams) -> None:
    target = torch.full((1, 3, 3), 2, dtype=torch.uint8)
    target[0, 0] = VOID
    logits = torch.randn(1, 4, 3, 3, requires_grad=True)
    loss = Loss([part], CLASS_WEIGHTS)(logits, target)
    loss.backward()
    assert float(loss.detach()) == 0.0
    assert logits.grad is not None
    assert not logits.grad.any()


def test_a_common_factor_of_the_class_weights_changes_nothing() -> None:
    logits, target = batch(3, 4, 0.2, (2, 6, 6))
    for name in WEIGHTED:
        one = loss_named(name, CLASS_WEIGHTS)(logits, target)
        ten = loss_named(name, [10 * weight for weight in CLASS_WEIGHTS])(logits, target)
        assert torch.allclose(one, ten, rtol=1e-6)


@pytest.mark.parametrize("smoothing", [0.0, 0.1])
@pytest.mark.parametrize("weights", [None, [0.5, 2.0, 0.1, 1.3]])
def test_cross_entropy_is_torch_s(smoothing: float, weights: list[float] | None) -> None:
    logits, target = batch(7, 4, 0.2, (2, 9, 9))
    part = LossParams(name="cross_entropy", label_smoothing=smoothing)
    expected = functional.cross_entropy(
        logits.double(),
        target.long(),
        weight=None if weights is None else torch.tensor(weights, dtype=torch.float64),
        ignore_index=VOID,
        label_smoothing=smoothing,
    )
    assert float(Loss([part], weights)(logits, target)) == pytest.approx(float(expected))


@pytest.mark.parametrize(
    ("part", "oracle"),
    [
        (LossParams(name="jaccard"), smp.losses.JaccardLoss("multiclass", eps=0)),
        (LossParams(name="tversky"), smp.losses.DiceLoss("multiclass", eps=0)),
        (
            LossParams(name="tversky", alpha=0.2, beta=0.9),
            smp.losses.TverskyLoss("multiclass", alpha=0.2, beta=0.9, eps=0),
        ),
        (LossParams(name="lovasz"), smp.losses.LovaszLoss("multiclass")),
    ],
    ids=["jaccard", "tversky-as-dice", "tversky", "lovasz"],
)
def test_agrees_with_smp(part: LossParams, oracle: torch.nn.Module) -> None:
    """Without void and with all classes present, where the definitions are the same."""
    logits, target = batch(9, 4, 0.0, (2, 9, 9))
    expected = oracle(logits, target.long())
    assert float(Loss([part])(logits, target)) == pytest.approx(float(expected), rel=1e-5)


@pytest.mark.parametrize("name", ["jaccard", "lovasz"])
def test_of_certain_predictions_it_is_one_minus_the_mean_iou(name: str) -> None:
    """The extension equals the set function on its corners (Berman et al., section 2.1)."""
    _, target = batch(10, 4, 0.2, (2, 9, 9))
    prediction = torch.from_numpy(np.random.default_rng(0).integers(0, 4, target.shape))
    logits = 200.0 * functional.one_hot(prediction, 4).permute(0, 3, 1, 2).float()
    found = float(loss_named(name)(logits, target))
    counted = target != VOID
    ious = []
    for c in range(4):
        truth, seen = target[counted] == c, prediction[counted] == c
        ious.append(float((truth & seen).sum() / (truth | seen).sum()))
    assert found == pytest.approx(1 - np.mean(ious), rel=1e-5)


def test_ohem_keeps_all_below_the_threshold_and_no_others() -> None:
    logits, target = batch(11, 4, 0.2, (2, 9, 9))
    own = logits.softmax(1).gather(1, target.long().clamp(max=3)[:, None])[:, 0]
    for threshold in (0.1, 0.5, 0.9):
        logits.grad = None
        logits.requires_grad_()
        part = LossParams(name="ohem", threshold=threshold, min_kept=1)
        Loss([part])(logits, target).backward()
        assert logits.grad is not None
        kept = logits.grad.abs().sum(1) > 0
        assert torch.equal(kept, (target != VOID) & (own < threshold))


@pytest.mark.parametrize("min_kept", [1, 5, 40, 41, 1000])
def test_ohem_keeps_as_many_as_it_must(min_kept: int) -> None:
    logits, target = batch(12, 4, 0.2, (2, 9, 9))
    logits.requires_grad_()
    part = LossParams(name="ohem", threshold=1e-9, min_kept=min_kept)
    Loss([part])(logits, target).backward()
    assert logits.grad is not None
    kept = int((logits.grad.abs().sum(1) > 0).sum())
    assert kept == min(2 * min_kept, int((target != VOID).sum()))


def column(*labels: int) -> Tensor:
    return torch.tensor(labels, dtype=torch.uint8)[None, None]


def test_void_and_the_image_s_border_make_no_boundary() -> None:
    loss = BoundaryWeighted(radius=1)
    flat = loss.weights(column(4, 4, VOID, 4, VOID, VOID))
    assert flat.flatten().tolist() == [1, 1, 0, 1, 0, 0]


def test_a_boundary_raises_weights_by_distance_across_void() -> None:
    weights = BoundaryWeighted(radius=1).weights(column(4, 4, 4, 4, 4, VOID, 0, 0)).flatten()
    expected = [1, 1, 1 + 10 * np.exp(-8), 1 + 10 * np.exp(-4.5), 1 + 10 * np.exp(-2), 0]
    expected[2] = 1.0  # four pixels away, further than three radii
    assert weights[:6].numpy() == pytest.approx(expected)
    assert float(weights[6]) == pytest.approx(1 + 10 * np.exp(-2))
    wide = BoundaryWeighted(radius=4).weights(column(*[1] * 20, *[2] * 20)).flatten().tolist()
    assert all(first <= second for first, second in pairwise(wide[:20]))
    assert wide == wide[::-1]


def test_a_wrong_number_of_class_weights_is_refused() -> None:
    logits, target = batch(1, 4, 0.2, (1, 3, 3))
    with pytest.raises(SegopsError, match="3 weights for 4 classes"):
        loss_named("cross_entropy", [1.0, 1.0, 1.0])(logits, target)
