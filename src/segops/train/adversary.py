"""The discriminator of a training, with its optimiser."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.nn import functional

from segops.augment.policy import sample_seed
from segops.models.discriminator import Discriminator, mask_maps, prediction_maps
from segops.models.losses import judgement_loss, pseudo_label_loss
from segops.params.train import TrainParams
from segops.runtime.classes import VOID

BETAS = 0.9, 0.99


class Adversary:
    """Learns to tell masks from predictions, and what the network makes of its judgement.

    It computes in float32. Only images with masks teach it.

    Source:
        Luc et al., "Semantic Segmentation using Adversarial Networks", 2016,
        https://arxiv.org/abs/1611.08408; on images without masks, and the optimiser: Hung et al.,
        "Adversarial Learning for Semi-Supervised Semantic Segmentation", BMVC 2018,
        https://arxiv.org/abs/1802.07934

    Args:
        params: Section `train`.
        classes: Number of classes.
        fabric: Of :func:`segops.train.hardware.build_fabric`.
    """

    def __init__(self, params: TrainParams, classes: int, fabric: Any) -> None:
        self.params = params.adversarial
        self.fabric = fabric
        self._peak = params.lr
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(sample_seed(params.seed, -1, -2))
            network = Discriminator(classes)
        self.network = network.to(fabric.device)
        self.optimizer = torch.optim.Adam(
            network.parameters(), self.params.lr, betas=BETAS, fused=True
        )

    def deceived(self, logits: Tensor, masks: Tensor) -> Tensor:
        """The adversarial loss: how far predictions are from being taken for masks.

        Its gradient reaches the logits and not the discriminator.

        Args:
            logits: (N, C, h, w).
            masks: uint8 (N, h, w); only which pixels are void (255) is read.
        """
        with torch.autocast(logits.device.type, enabled=False):
            self.network.requires_grad_(False)
            try:
                scores = self.network(prediction_maps(logits, masks))
            finally:
                self.network.requires_grad_(True)
            return judgement_loss(scores, masks, is_mask=True)

    def learn(self, logits: Tensor, masks: Tensor, share: float) -> Tensor:
        """Add the gradients of the discriminator's own loss, which weighs `share`.

        Args:
            logits: (N, C, h, w); no gradient reaches them.
            masks: uint8 (N, h, w), 255 for void.
            share: Share of these images in the batch.

        Returns:
            The loss, detached, not weighted.
        """
        logits = logits.detach()
        with torch.autocast(logits.device.type, enabled=False):
            found = self.network(prediction_maps(logits, masks))
            true = self.network(mask_maps(masks, logits.shape[1]))
            loss = (
                judgement_loss(found, masks, is_mask=False)
                + judgement_loss(true, masks, is_mask=True)
            ) / 2
            (share * loss).backward()  # type: ignore[no-untyped-call]
        return loss.detach()

    def unlabelled_loss(self, logits: Tensor, padding: Tensor) -> tuple[Tensor, dict[str, Tensor]]:
        """The weighted loss of images without masks: adversarial and self-taught.

        Self-taught are the predictions that the discriminator takes for masks, pixel by pixel.

        Args:
            logits: (N, C, h, w).
            padding: uint8 (N, h, w), 255 beyond the image's border.

        Returns:
            The loss, and the figures of the learning curves.
        """
        deceived = self.deceived(logits, padding)
        labels = logits.detach().argmax(dim=1).where(padding != VOID, VOID)
        taught = pseudo_label_loss(logits, labels, self._trust(logits.detach(), padding))
        own = self.params
        loss = own.unlabelled_weight * deceived + own.self_taught_weight * taught
        return loss, {
            "unlabelled_adversarial_loss": deceived.detach(),
            "self_taught_loss": taught.detach(),
        }

    @torch.no_grad()
    def _trust(self, logits: Tensor, padding: Tensor) -> Tensor:
        """1 where the discriminator takes a prediction for a mask, float32 (N, h, w), else 0."""
        with torch.autocast(logits.device.type, enabled=False):
            scores = self.network(prediction_maps(logits, padding))
            size = padding.shape[-2:]
            sure = functional.interpolate(scores.sigmoid(), size, mode="bilinear")[:, 0]
        return (sure > self.params.confidence).float()

    def step(self, learning_rate: float) -> None:
        """Take a step with the gradients of :meth:`learn`, which the ranks average.

        Where a gradient is not finite, no step is taken: in fp16 a pass of the network may
        overflow, and the scaler then skips the network's step.

        `learning_rate` is the network's, whose schedule the discriminator follows.
        """
        gradients = [one.grad for one in self.network.parameters() if one.grad is not None]
        if self.fabric.world_size > 1:
            flat = torch.cat([one.flatten() for one in gradients])
            flat = self.fabric.all_reduce(flat, reduce_op="mean")
            parts = flat.split([one.numel() for one in gradients])
            for gradient, part in zip(gradients, parts, strict=True):
                gradient.copy_(part.view_as(gradient))
        for group in self.optimizer.param_groups:
            group["lr"] = self.params.lr * learning_rate / self._peak
        # As GradScaler tells a fused optimiser to skip a step, without waiting for the device.
        finite = torch.stack([one.isfinite().all() for one in gradients]).all()
        self.optimizer.found_inf = (~finite).float()  # type: ignore[attr-defined]
        self.optimizer.step()
        self.optimizer.zero_grad()

    def state(self) -> dict[str, Any]:
        """The state that :meth:`restore` takes; its tensors are not copies."""
        return {"network": self.network.state_dict(), "optimizer": self.optimizer.state_dict()}

    def restore(self, state: dict[str, Any]) -> None:
        """Continue from a :meth:`state`."""
        self.network.load_state_dict(state["network"])
        self.optimizer.load_state_dict(state["optimizer"])
