"""Losses that are a weighted mean over pixels: cross-entropy, OHEM, focal, boundary-aware.

With class weights w the mean is Σ w l / Σ w over the counted pixels, where w is the weight of a
pixel's true class, as in torch. A class of weight 0 has no say; where nothing has, the loss is 0.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional

from segops.runtime.classes import VOID
from segops.runtime.errors import SegopsError

from .pixels import Pixels, ratio


class PixelLoss(nn.Module):
    """What the losses over pixels share.

    Args:
        class_weights: Not negative, (C,), in id order; None: all 1.
    """

    class_weights: Tensor | None

    def __init__(self, class_weights: Tensor | None = None) -> None:
        super().__init__()
        self.register_buffer("class_weights", class_weights, persistent=False)

    def cross_entropies(
        self, pixels: Pixels, label_smoothing: float = 0.0, reduction: str = "none"
    ) -> Tensor:
        """Class-weighted cross-entropy of every pixel, float32 (P,), 0 on void, or their sum."""
        return functional.cross_entropy(
            pixels.logits,
            pixels.target,
            weight=self._checked(pixels),
            ignore_index=VOID,
            label_smoothing=label_smoothing,
            reduction=reduction,
        )

    def pixel_weights(self, pixels: Pixels) -> Tensor:
        """Weight of every pixel's true class, float32 (P,), 0 on void."""
        weights = self._checked(pixels)
        if weights is None:
            return pixels.counted.float()
        ids = torch.where(pixels.counted, pixels.target, 0)
        return torch.where(pixels.counted, weights[ids], 0)

    def _checked(self, pixels: Pixels) -> Tensor | None:
        classes = pixels.logits.shape[1]
        if self.class_weights is not None and len(self.class_weights) != classes:
            raise SegopsError(
                f"train.class_weights: {len(self.class_weights)} weights for {classes} classes; "
                "expected one for each, in id order"
            )
        return self.class_weights


class CrossEntropy(PixelLoss):
    """Cross-entropy, averaged over the counted pixels of the batch.

    Args:
        class_weights: As of :class:`PixelLoss`.
        label_smoothing: Share of the target that is spread evenly over all classes, 0 to below 1,
            as in :func:`torch.nn.functional.cross_entropy`.

    Source:
        Label smoothing: Szegedy et al., "Rethinking the Inception Architecture for Computer
        Vision", CVPR 2016, section 7.
    """

    def __init__(self, class_weights: Tensor | None = None, label_smoothing: float = 0.0) -> None:
        super().__init__(class_weights)
        self.label_smoothing = label_smoothing

    def forward(self, pixels: Pixels) -> Tensor:
        """The loss of a batch, float32 ()."""
        total = self.cross_entropies(pixels, self.label_smoothing, "sum")
        if self.class_weights is None:
            return total / pixels.counted.sum().clamp(min=1)
        return ratio(total, self.pixel_weights(pixels).sum())


class OnlineHardExamples(PixelLoss):
    """Cross-entropy over the hard pixels of a batch alone (OHEM).

    Hard is a pixel whose true class has a probability below `threshold`; where these are fewer than
    `min_kept` times the images of the batch, that many pixels of the lowest probability are taken,
    or all there are. The mean is over the pixels that are kept.

    Args:
        class_weights: As for :class:`PixelLoss`; they do not act on the choice.
        label_smoothing: As for :class:`CrossEntropy`; it does not act on the choice.
        threshold: Probability, above 0 to 1.
        min_kept: Pixels that are kept at least, per image of the batch on average.

    Source:
        Shrivastava, Gupta, Girshick, "Training Region-based Object Detectors with Online Hard
        Example Mining", CVPR 2016; for pixels as ``OHEMPixelSampler`` of MMSegmentation, with the
        mean over the kept pixels, as in ``OhemCrossEntropy`` of HRNet, where MMSegmentation
        divides by all pixels.
    """

    def __init__(
        self,
        class_weights: Tensor | None = None,
        label_smoothing: float = 0.0,
        threshold: float = 0.7,
        min_kept: int = 100_000,
    ) -> None:
        super().__init__(class_weights)
        self.label_smoothing = label_smoothing
        self.threshold = threshold
        self.min_kept = min_kept

    def forward(self, pixels: Pixels) -> Tensor:
        """The loss of a batch, float32 ()."""
        hard = self._hard(pixels)
        losses = self.cross_entropies(pixels, self.label_smoothing)
        kept = torch.where(hard, self.pixel_weights(pixels), 0)
        return ratio(torch.where(hard, losses, 0).sum(), kept.sum())

    @torch.no_grad()
    def _hard(self, pixels: Pixels) -> Tensor:
        kept = self.min_kept * len(pixels.labels)
        if kept >= len(pixels.target):
            return pixels.counted
        easiness = -functional.cross_entropy(
            pixels.logits, pixels.target, ignore_index=VOID, reduction="none"
        )
        # Logarithms of probabilities, all at most 0; void comes last.
        easiness = torch.where(pixels.counted, easiness, 1)
        limit = _kth_smallest(easiness, kept)
        return pixels.counted & ((easiness.exp() < self.threshold) | (easiness <= limit))


class Focal(PixelLoss):
    """Focal loss: -(1 - p)^γ log p with p the probability of the true class, averaged.

    Args:
        class_weights: Not negative, (C,), in id order (the paper's α); None: all 1.
        gamma: γ, 0 or more; 0 is cross-entropy.

    Source:
        Lin et al., "Focal Loss for Dense Object Detection", ICCV 2017, equations 4 and 5, with a
        softmax over classes; averaged over pixels, as there are no anchors here.
    """

    def __init__(self, class_weights: Tensor | None = None, gamma: float = 2.0) -> None:
        super().__init__(class_weights)
        self.gamma = gamma

    def forward(self, pixels: Pixels) -> Tensor:
        """The loss of a batch, float32 ()."""
        losses = functional.cross_entropy(
            pixels.logits, pixels.target, ignore_index=VOID, reduction="none"
        )
        # 1 - p without cancellation. At p = 1 a power below 1 has no slope: 0 times infinity.
        missing = (-torch.expm1(-losses)).clamp(min=1e-12)
        weights = self.pixel_weights(pixels)
        return ratio((weights * missing.pow(self.gamma) * losses).sum(), weights.sum())


class BoundaryWeighted(PixelLoss):
    """Cross-entropy in which pixels near a boundary between two classes weigh more.

    A pixel weighs 1 + 10 exp(-d² / 2r²), where d is its distance to the nearest pixel of another
    class: the larger of the rows and columns in between, in pixels, looked for up to 3r. The mean
    is over these weights. Void is no class, so that it makes no boundary; d is measured across it,
    as the classes of PASCAL VOC are mostly parted by a void line of about 5 pixels. The border of
    an image makes no boundary either.

    Args:
        radius: r, pixels, 1 or more.

    Source:
        Ronneberger, Fischer, Brox, "U-Net", MICCAI 2015, equation 2 with w_c = 1 and w_0 = 10; its
        distances to the two nearest cells become the one to the nearest other class (a pixel is at
        distance 0 of its own), since a semantic mask tells no instances apart.
    """

    HEIGHT = 10.0
    REACH = 3

    def __init__(self, radius: int = 3) -> None:
        super().__init__()
        self.radius = radius

    def forward(self, pixels: Pixels) -> Tensor:
        """The loss of a batch, float32 ()."""
        weights = self.weights(pixels.labels).reshape(-1)
        return ratio((weights * self.cross_entropies(pixels)).sum(), weights.sum())

    @torch.no_grad()
    def weights(self, labels: Tensor) -> Tensor:
        """Weight of every pixel of (N, H, W) labels, float32 (N, H, W); 0 on void."""
        own = labels.float()[:, None]
        void = own == VOID
        # Windows that grow by a pixel in each round: another class is near as soon as the highest
        # or the lowest id in the window is not the pixel's own. Void is neither.
        highest = torch.where(void, -1.0, own)
        negated_lowest = torch.where(void, -float(VOID), -own)
        reach = self.REACH * self.radius
        distance = torch.full_like(own, torch.inf)
        for d in range(1, reach + 1):
            highest = functional.max_pool2d(highest, 3, stride=1, padding=1)
            negated_lowest = functional.max_pool2d(negated_lowest, 3, stride=1, padding=1)
            near = (highest > own) | (-negated_lowest < own)
            distance = torch.where(near & distance.isinf(), d, distance)
        nearness = torch.exp(-(distance**2) / (2 * self.radius**2))
        return torch.where(void, 0, 1 + self.HEIGHT * nearness)[:, 0]


def _kth_smallest(values: Tensor, k: int) -> Tensor:
    # `torch.kthvalue` is much faster than a sort, but has no deterministic kernel on CUDA.
    if values.device.type == "cuda":
        return values.sort().values[k - 1]
    return values.kthvalue(k).values
