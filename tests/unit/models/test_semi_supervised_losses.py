"""The losses of pseudo-labels and of a discriminator: their values, and what void has in them."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from segops.models.discriminator import Discriminator, mask_maps, prediction_maps
from segops.models.losses import judgement_loss, pseudo_label_loss
from segops.runtime.classes import VOID

CLASSES = 4


def batch(size: int = 2, side: int = 64) -> tuple[Tensor, Tensor]:
    """Logits, and masks whose upper quarter is void."""
    generator = torch.Generator().manual_seed(3)
    logits = torch.randn(size, CLASSES, side, side, generator=generator)
    masks = torch.randint(0, CLASSES, (size, side, side), generator=generator, dtype=torch.uint8)
    masks[:, : side // 4] = VOID
    return logits, masks


def test_the_loss_of_pseudo_labels_is_a_mean_of_trusted_pixels() -> None:
    logits, labels = batch(side=8)
    trust = torch.rand(labels.shape, generator=torch.Generator().manual_seed(1))
    total, counted = 0.0, 0
    for n, y, x in torch.cartesian_prod(*map(torch.arange, labels.shape)).tolist():
        label = int(labels[n, y, x])
        if label != VOID:
            counted += 1
            total -= float(trust[n, y, x]) * float(logits[n, :, y, x].log_softmax(dim=0)[label])
    assert float(pseudo_label_loss(logits, labels, trust)) == pytest.approx(total / counted)


def test_where_nothing_is_trusted_nothing_is_learned() -> None:
    logits, labels = batch()
    logits.requires_grad_()
    trust = torch.zeros(labels.shape)
    trust[:, -10:] = 1
    pseudo_label_loss(logits, labels, trust).backward()
    assert logits.grad is not None
    moved = logits.grad.abs().sum(dim=1) > 0
    assert torch.equal(moved, trust > 0)
    assert float(pseudo_label_loss(logits.detach(), labels, torch.zeros_like(trust))) == 0


@pytest.mark.parametrize("is_mask", [True, False])
def test_void_has_no_part_in_a_judgement(is_mask: bool) -> None:
    """Cells that are wholly void count nothing, others by their share, and all void gives 0."""
    _, masks = batch()
    masks[:, :32] = VOID
    masks[:, 32:, 32:48] = VOID
    scores = torch.tensor([[9.0, -9.0], [0.5, 2.0]]).expand(2, 1, 2, 2)
    signed = scores if is_mask else -scores
    lower = -torch.nn.functional.logsigmoid(signed[0, 0, 1])
    expected = (lower[0] * 1.0 + lower[1] * 0.5) / 1.5
    found = judgement_loss(scores, masks, is_mask=is_mask)
    torch.testing.assert_close(found, expected)
    assert float(judgement_loss(scores, torch.full_like(masks, VOID), is_mask=is_mask)) == 0


def test_void_is_the_same_in_masks_and_predictions() -> None:
    logits, masks = batch()
    found, true = prediction_maps(logits, masks), mask_maps(masks, CLASSES)
    counted = masks != VOID
    for maps in (found, true):
        assert maps.dtype == torch.float32
        torch.testing.assert_close(maps.sum(dim=1), counted.float())
    assert torch.equal(true.argmax(dim=1)[counted], masks.long()[counted])


@pytest.mark.parametrize("size", [(32, 32), (64, 96), (75, 130)])
def test_a_discriminator_scores_a_coarse_grid(size: tuple[int, int]) -> None:
    maps = torch.zeros(1, CLASSES, *size)
    assert Discriminator(CLASSES)(maps).shape == (1, 1, size[0] // 32, size[1] // 32)


def test_a_discriminator_learns_to_tell_masks_from_noise() -> None:
    torch.manual_seed(0)
    network = Discriminator(CLASSES)
    optimizer = torch.optim.Adam(network.parameters(), 1e-3)
    losses = []
    for _ in range(12):
        logits, masks = batch()
        losses.append(
            judgement_loss(network(prediction_maps(logits, masks)), masks, is_mask=False)
            + judgement_loss(network(mask_maps(masks, CLASSES)), masks, is_mask=True)
        )
        optimizer.zero_grad()
        losses[-1].backward()
        optimizer.step()
    assert losses[-1].item() < 0.5 * losses[0].item()
