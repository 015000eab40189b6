"""A step of the optimiser, with the network, the optimiser and the loss."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterator, Mapping
from itertools import repeat
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm
from torch.nn.utils import clip_grad_norm_

from segops.data.datasets import TrainSample
from segops.models.loading import load_start
from segops.models.losses import MaskClassification, SoftTargets, build_loss
from segops.models.pretrained import build_pretrained
from segops.runtime.errors import SegopsError
from segops.runtime.networks.segmenter import Segmenter
from segops.train.adversary import Adversary
from segops.train.checkpoint import Weights
from segops.train.ema import MovingAverage
from segops.train.features import Head
from segops.train.hardware import choose_layout, compiled
from segops.train.job import Job
from segops.train.mean_teacher import MeanTeacher
from segops.train.optimizers import FACTOR, build_optimizer, parameter_groups
from segops.train.ranks import freeze_unused, synchronise_norms
from segops.train.teacher import Teacher


class Engine:
    """A network in training, its optimiser and its loss.

    Two engines of the same job are bit for bit the same.

    `fabric` comes from :func:`segops.train.hardware.build_fabric`.

    Attributes:
        network: The network; its state dict is the model's.
        loss: Maps logits, or a network's queries, and masks to a scalar.
        teacher: The network whose class probabilities are learned; None without ``train.teacher``.
        average: The moving average of the weights; None without ``train.ema_decay``.
        adversary: The discriminator; None without ``train.adversarial``.
        mean_teacher: What labels images without masks; None without ``train.mean_teacher``.
        figures: Of the last step: further figures of the learning curves, scalars on the device.

    Raises:
        SegopsError: The network cannot be built, or it lacks a part that a parameter refers to.
    """

    def __init__(self, job: Job, fabric: Any) -> None:
        params = job.params
        self.job = job
        self.fabric = fabric
        self._is_distributed = fabric.world_size > 1
        torch.manual_seed(params.seed)
        # Rank zero alone has the model that the training starts from, whose layers may be smaller.
        self.network = build_pretrained(
            fabric.broadcast(job.spec), job.encoder_weights, auxiliary=job.auxiliary_weight > 0
        )
        if job.start is not None:
            load_start(self.network, job.start.weights)
        self.layout = choose_layout(params, self.network, fabric.device.type)
        self.network.to(fabric.device).to(memory_format=self.layout)
        if self._is_distributed:
            if params.sync_batch_norm:
                self.network = synchronise_norms(self.network, fabric)
            freeze_unused(self.network, job.auxiliary_weight > 0, fabric.device)
        self.loss: Any = build_loss(params.loss, job.class_weights).to(fabric.device)
        self.teacher = None if params.teacher is None else self._opened_teacher()
        self._soft_targets = SoftTargets(params.distillation.temperature)
        # Weights, without biases and the scales and shifts of norms.
        weights = [weight for weight in self.network.parameters() if weight.ndim > 1]
        self._penalised = weights if params.l1 else []
        self._trainable = [weight for weight in self.network.parameters() if weight.requires_grad]
        self._frozen = False
        groups = parameter_groups(self.network, params)
        self.optimizer: Any = fabric.setup_optimizers(build_optimizer(groups, params))
        self.model: Any = self._wrapped()
        # None except in fp16.
        self._scaler: Any = getattr(fabric.strategy.precision, "scaler", None)
        self.average = (
            None if params.ema_decay is None else MovingAverage(self.network, params.ema_decay)
        )
        self.adversary = (
            Adversary(params, job.spec.classes, fabric) if params.adversarial.weight else None
        )
        self.mean_teacher: MeanTeacher | None = None
        if params.mean_teacher.weight and self.average is not None:
            confidence = params.mean_teacher.confidence
            self.mean_teacher = MeanTeacher(self.average.network, confidence, params.seed, fabric)
        self.figures: dict[str, Tensor] = {}

    @property
    def scale(self) -> float | None:
        """Factor of the gradients in fp16; None in other precisions. Waits for the device."""
        return None if self._scaler is None else self._scaler.get_scale()

    @property
    def result(self) -> Segmenter:
        """The network to evaluate and to package: the moving average, if there is one."""
        return self.network if self.average is None else self.average.network

    def train_mode(self) -> None:
        """Put the network into training mode, and what is frozen into evaluation mode."""
        self.network.train()
        if self.network.encoder is None:
            return
        if self._frozen:
            self.network.encoder.eval()
        elif self.job.params.freeze_batch_norm:
            for module in self.network.encoder.modules():
                if isinstance(module, _BatchNorm):
                    module.eval()

    def freeze_encoder(self, frozen: bool) -> None:
        """Freeze the encoder for the following steps, or train it again.

        A frozen encoder has no gradient, hence no weight decay and no momentum, and its batch norm
        uses its statistics without changing them.
        """
        if frozen == self._frozen:
            return
        self._frozen = frozen
        encoder = {id(weight) for weight in self.network.encoder_parameters()}
        for weight in self._trainable:
            if id(weight) in encoder:
                weight.requires_grad_(not frozen)
        if self._is_distributed:  # DDP decides at wrapping which gradients the ranks exchange
            self.model = self._wrapped()
        self.train_mode()

    def step(
        self,
        images: Tensor,
        masks: Tensor,
        number: int,
        learning_rate: float,
        unlabelled: TrainSample | None = None,
        ramp_up: float = 1.0,
        progress: float = 0.0,
    ) -> Tensor:
        """Take a step of the optimiser. Only the loss of queries waits for the device.

        Args:
            images: uint8 (N, 3, h, w), or the features of a frozen encoder; this rank's part of
                the batch.
            masks: uint8 (N, h, w), 255 for void.
            number: Number of earlier steps, 0 or more.
            learning_rate: The schedule's, before the encoder's factor.
            unlabelled: Views of as many images without masks, and their padding; see
                :func:`segops.train.unlabelled.unlabelled_batches`.
            ramp_up: Share of the weight of their losses, in [0, 1].
            progress: The share of the training's steps that are done, 0 to 1.

        Returns:
            The loss of this rank's images, detached, on the device: the mean over the accumulated
            parts, with L1 penalty, auxiliary loss and the losses on images without masks.

        Raises:
            SegopsError: The device has too little memory.
        """
        for group in self.optimizer.param_groups:
            group["lr"] = learning_rate * group[FACTOR]
        # The network's random numbers (dropout) are a function of the seed and the step, so a
        # resumed training needs no random state.
        self._seed(number)
        self.figures = {}
        if self.mean_teacher is not None:
            self.mean_teacher.begin(number)
        network: Any = self.network.network
        if hasattr(network, "anneal"):
            network.anneal(progress)
        try:
            loss = self._backward(images, masks, unlabelled, ramp_up)
            if self.job.params.gradient_clip is not None:
                self._clip(self.job.params.gradient_clip)
            self.optimizer.step()
            self.optimizer.zero_grad()
            if self.adversary is not None:
                self.adversary.step(learning_rate)
        except torch.OutOfMemoryError as error:
            raise _out_of_memory(self.job, len(images)) from error
        if self.average is not None:
            self.average.update()
        return loss

    def state(self) -> dict[str, Any]:
        """The state that :meth:`restore` takes; its tensors are not copies."""
        return {
            "network": self.network.state_dict(),
            "optimizer": self.optimizer.state_dict(),
            "average": None if self.average is None else self.average.state(),
            "scaler": None if self._scaler is None else self._scaler.state_dict(),
            "adversary": None if self.adversary is None else self.adversary.state(),
        }

    def restore(self, state: dict[str, Any]) -> None:
        """Continue from a :meth:`state`."""
        self.network.load_state_dict(state["network"])
        self.optimizer.load_state_dict(state["optimizer"])
        if self.average is not None:
            self.average.restore(state["average"])
        if self._scaler is not None:
            self._scaler.load_state_dict(state["scaler"])
        if self.adversary is not None:
            self.adversary.restore(state["adversary"])

    def _backward(
        self, images: Tensor, masks: Tensor, unlabelled: TrainSample | None, ramp_up: float
    ) -> Tensor:
        parts = self.job.params.accumulate
        total: Tensor | None = None
        without_masks = _parts(unlabelled, parts)
        for k, (part_images, part_masks) in enumerate(
            zip(images.chunk(parts), masks.chunk(parts), strict=True)
        ):
            for loss in self._unlabelled(next(without_masks), ramp_up / parts):
                total = loss if total is None else total + loss
            part_images = self._on_device(part_images)
            # The ranks exchange gradients in the last part of a step only.
            with self.fabric.no_backward_sync(self.model, enabled=k < parts - 1):
                loss = self._loss(part_images, self.fabric.to_device(part_masks))
                if parts > 1:
                    loss = loss / parts
                self.fabric.backward(loss)
            total = loss.detach() if total is None else total + loss.detach()
        assert total is not None
        return total

    def _unlabelled(self, part: TrainSample | None, share: float) -> Iterator[Tensor]:
        """Add the gradients of images without masks; yields each loss, detached.

        They come before those of images with masks, with which the ranks exchange all.
        """
        if part is None:
            return
        views, padding = part[0], self.fabric.to_device(part[1])
        weak, *strong = map(self._on_device, torch.split(views, self.network.channels, dim=1))
        losses: list[tuple[float, Callable[[], tuple[Tensor, dict[str, Tensor]]]]] = []
        teacher, adversary = self.mean_teacher, self.adversary
        if teacher is not None:
            weight = self.job.params.mean_teacher.weight
            losses.append((weight, lambda: teacher.loss(self.model, weak, strong[0], padding)))
        if adversary is not None and self.job.params.adversarial.learns_unlabelled:
            losses.append((1.0, lambda: adversary.unlabelled_loss(self.model(weak), padding)))
        for weight, compute in losses:
            with self.fabric.no_backward_sync(self.model):
                loss, figures = compute()
                loss = share * weight * loss
                self.fabric.backward(loss)
            self._note(figures)
            yield loss.detach()

    def _note(self, figures: Mapping[str, Tensor]) -> None:
        """Add the figures of a part of the step, whose mean over the parts is the step's."""
        for name, value in figures.items():
            value = value / self.job.params.accumulate
            self.figures[name] = self.figures[name] + value if name in self.figures else value

    def _on_device(self, images: Tensor) -> Tensor:
        moved: Tensor = self.fabric.to_device(images.contiguous(memory_format=self.layout))
        return moved

    def _loss(self, images: Tensor, masks: Tensor) -> Tensor:
        loss: Tensor
        if isinstance(self.loss, MaskClassification):
            loss = self.loss(self.model(images, as_queries=True), masks)
        elif weight := self.job.auxiliary_weight:
            logits, auxiliary = self.model(images, with_auxiliary=True)
            loss = self._output_loss(images, logits, masks)
            loss = loss + weight * self.loss(auxiliary, masks)
        else:
            loss = self._output_loss(images, self.model(images), masks)
        if self._penalised:
            weights: list[Tensor] = [weight for weight in self._penalised if weight.requires_grad]
            loss = loss + self.job.params.l1 * torch.stack(torch._foreach_norm(weights, 1)).sum()
        return loss

    def _output_loss(self, images: Tensor, logits: Tensor, masks: Tensor) -> Tensor:
        """The loss of the network's output: against masks, teacher's output and discriminator."""
        loss: Tensor = self.loss(logits, masks)
        if self.teacher is not None:
            share = self.job.params.distillation.weight
            with torch.no_grad(), self.fabric.autocast():
                wanted = self.teacher(images)
            soft: Tensor = self._soft_targets(logits, wanted, masks)
            loss = (1 - share) * loss + share * soft
        if self.adversary is not None:
            deceived = self.adversary.deceived(logits, masks)
            loss = loss + self.job.params.adversarial.weight * deceived
            own = self.adversary.learn(logits, masks, 1 / self.job.params.accumulate)
            self._note({"adversarial_loss": deceived.detach(), "discriminator_loss": own})
        return loss

    def _opened_teacher(self) -> nn.Module:
        """The teacher's network; rank zero sends the files of its bundle to the others."""
        teacher: Teacher = self.fabric.broadcast(self.job.teacher)
        return teacher.network().to(self.fabric.device).to(memory_format=self.layout)

    def _seed(self, step: int) -> None:
        seed, rank = self.job.params.seed, self.fabric.global_rank
        # Each rank has dropout of its own.
        text = f"step {seed} {step}" if rank == 0 else f"step {seed} {step} {rank}"
        digest = hashlib.blake2b(text.encode(), digest_size=8).digest()
        own = int.from_bytes(digest, "little") >> 1
        # `torch.manual_seed` seeds every kind of device that torch supports, which takes 0.6 ms.
        torch.default_generator.manual_seed(own)
        if self.fabric.device.type == "cuda":
            torch.cuda.manual_seed(own)

    def _clip(self, norm: float) -> None:
        # Fabric's own clipping refuses a fused optimiser under fp16 and waits for the device.
        if self._scaler is not None:
            self._scaler.unscale_(self.optimizer.optimizer)
        clip_grad_norm_(self._trainable, norm, error_if_nonfinite=False)

    def _wrapped(self) -> Any:
        network: nn.Module = self.network
        if self.job.params.frozen_views is not None:
            network = Head(self.network, self.job.policy.crop)
        if self.job.params.compile:
            network = compiled(network)
        return self.fabric.setup_module(network)


def _parts(sample: TrainSample | None, count: int) -> Iterator[TrainSample | None]:
    """The parts of a batch, or as often None."""
    if sample is None:
        return repeat(None, count)
    return zip(*(one.chunk(count) for one in sample), strict=True)


def result_of(state: Mapping[str, Any]) -> Weights:
    """The weights of :attr:`Engine.result` in an engine's state."""
    average = state["average"]
    weights: Weights = state["network"] if average is None else average["network"]
    return weights


def without_auxiliary(weights: Weights) -> Weights:
    """Weights without those of the auxiliary head, which only training uses."""
    return {name: value for name, value in weights.items() if not name.startswith("auxiliary.")}


def _out_of_memory(job: Job, images: int) -> SegopsError:
    height, width = job.policy.crop
    size, parts = job.params.batch_size, job.params.accumulate
    if images % (2 * parts) == 0:
        advice = f"Try train.accumulate: {2 * parts}, or train.batch_size: {size // 2}."
    elif size > 1:
        advice = f"Try train.batch_size: {size // 2}."
    else:
        advice = "Try a smaller augment.crop or a smaller model.encoder."
    return SegopsError(
        f"The device ran out of memory with train.batch_size: {size} and crops of "
        f"{height} x {width} pixels. {advice}"
    )
