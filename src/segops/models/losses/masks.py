"""The loss of a network whose queries are masks with a class."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import torch
from scipy.optimize import linear_sum_assignment
from torch import Tensor, nn
from torch.nn import functional

from segops.runtime.classes import VOID
from segops.runtime.networks.mask_queries import MaskQueries

from .pixels import ratio

CLASS_WEIGHT, MASK_WEIGHT, DICE_WEIGHT = 2.0, 5.0, 5.0
NO_OBJECT_WEIGHT = 0.1
"""Weight of `no object` in the cross-entropy of the classes."""

_IGNORED = -100
_LARGEST_COST = 1e10


class Regions(NamedTuple):
    """The classes in an image's truth, as masks.

    Attributes:
        ids: The K classes that occur, int64 (K,).
        pixels: Pixels of each class in every cell, float32 (K, h * w).
        counted: Pixels in every cell that are not void, float32 (h * w,).
    """

    ids: Tensor
    pixels: Tensor
    counted: Tensor


class MaskClassification(nn.Module):
    """Cross-entropy of the queries' classes, binary cross-entropy and Dice of their masks.

    Each class of an image is one mask, and one query learns it: the assignment of queries to
    masks with the least sum of losses (Hungarian matching). The other queries learn the class
    `no object`, with weight 0.1. The weights are 2 for the classes, 5 for each loss of the masks;
    the predictions before each of the last blocks count like the last.

    A mask's cell stands for the pixels below it: each counts once, with the cell's logit. The
    publication draws pixels at random instead. Void pixels count in no mask; an image that is all
    void has no say. The means are over the masks and the queries of the batch.

    The assignment is computed on the CPU, so that a step waits for the device. All else has
    deterministic kernels.

    Source:
        Cheng et al.: Masked-attention Mask Transformer for Universal Image Segmentation. CVPR 2022,
        section 4.1 and appendix; the loss and the weights of EoMT.
    """

    def forward(self, found: MaskQueries, target: Tensor) -> Tensor:
        """The loss of a batch.

        Args:
            found: The queries' predictions, any float dtype.
            target: (N, H, W), uint8 or int64, ids in 0..C-1 or 255 for void.

        Returns:
            float32 scalar, on the target's device; 0 where all pixels are void.
        """
        with torch.autocast(target.device.type, enabled=False):
            classes = torch.stack(found.classes, dim=1).float()
            grid = found.masks[0].shape[-2:]
            labels = torch.full(classes.shape[:3], _IGNORED, device=classes.device)
            of_masks, count = classes.new_zeros(()), 0
            for number, one in enumerate(target):
                regions = _regions(one, found.cell, grid)
                masks = torch.stack([each[number] for each in found.masks]).float().flatten(2)
                chosen = _assigned(masks, classes[number], regions)
                of_masks = of_masks + _of_chosen(chosen @ masks, regions, chosen.sum(dim=-1))
                if len(regions.ids):
                    labels[number] = _labels(chosen, regions.ids, classes.shape[-1] - 1)
                count += len(regions.ids)
            return CLASS_WEIGHT * _of_classes(classes, labels) + of_masks / max(count, 1)


def _regions(labels: Tensor, cell: int, grid: torch.Size) -> Regions:
    """The regions of labels (H, W), in cells of `cell` pixels a side."""
    height, width = grid
    below, right = height * cell - labels.shape[0], width * cell - labels.shape[1]
    padded = functional.pad(labels.long(), (0, right, 0, below), value=VOID)
    present: Tensor = padded.unique()  # type: ignore[no-untyped-call]
    ids = present[present != VOID]
    in_cells = padded.view(height, cell, width, cell)
    pixels = (in_cells == ids.view(-1, 1, 1, 1, 1)).sum(dim=(2, 4)).flatten(1).float()
    return Regions(ids, pixels, pixels.sum(dim=0))


def _pairs(masks: Tensor, regions: Regions) -> Tensor:
    """Weighted losses between masks (..., R, h * w) as logits and each region, (..., R, K)."""
    pixels, counted = regions.pixels.T, regions.counted[:, None]
    # softplus(-x) = softplus(x) - x: the cross-entropy is linear in the pixels of a region.
    entropy = functional.softplus(masks) @ counted - masks @ pixels
    inside = masks.sigmoid()
    dice = 1 - (2 * inside @ pixels + 1) / (inside @ counted + pixels.sum(dim=0) + 1)
    return MASK_WEIGHT * entropy / counted.sum() + DICE_WEIGHT * dice


@torch.no_grad()
def _assigned(masks: Tensor, classes: Tensor, regions: Regions) -> Tensor:
    """Which query each region is given to, of every prediction.

    Args:
        masks: Logits (P, Q, h * w).
        classes: Logits (P, Q, C + 1).
        regions: K regions; where there are more than queries, some are given to none.

    Returns:
        float32 (P, K, Q), 1 at the query and 0 elsewhere. Their product with the masks takes the
        queries' masks, with a deterministic gradient, which indexing has not.
    """
    costs = _pairs(masks, regions) - CLASS_WEIGHT * classes.softmax(dim=-1)[..., regions.ids]
    # What is not finite stops the training by its loss, with a message of its own.
    finite = torch.nan_to_num(costs, 0.0).clamp(-_LARGEST_COST, _LARGEST_COST).cpu().numpy()
    chosen = np.zeros((len(finite), finite.shape[2], finite.shape[1]), np.float32)
    for one, cost in zip(chosen, finite, strict=True):
        queries, numbers = linear_sum_assignment(cost)
        one[numbers, queries] = 1
    return torch.from_numpy(chosen).to(masks.device)


def _of_chosen(masks: Tensor, regions: Regions, given: Tensor) -> Tensor:
    """The sum of the losses of masks (P, K, h * w), each against its own region, where given."""
    own = _pairs(masks, regions).diagonal(dim1=-2, dim2=-1)
    return (own * given).sum()


def _labels(chosen: Tensor, ids: Tensor, no_object: int) -> Tensor:
    """The class that each query learns, int64 (P, Q)."""
    of_region = torch.einsum("pkq,k->pq", chosen, ids.float()).long()
    return torch.where(chosen.sum(dim=1) > 0, of_region, no_object)


def _of_classes(classes: Tensor, labels: Tensor) -> Tensor:
    """Weighted mean of the cross-entropies of each prediction, summed over the predictions.

    Args:
        classes: Logits (N, P, Q, C + 1).
        labels: int64 (N, P, Q). The weights of a prediction have the same sum as those of any
            other, since as many of its queries are given a region.
    """
    count, predictions = classes.shape[-1], classes.shape[1]
    weights = classes.new_ones(count)
    weights[-1] = NO_OBJECT_WEIGHT
    flat = labels.reshape(-1)
    total = functional.cross_entropy(
        classes.reshape(-1, count), flat, weights, ignore_index=_IGNORED, reduction="sum"
    )
    known = flat != _IGNORED
    return predictions * ratio(total, weights[flat.where(known, 0)].where(known, 0).sum())
