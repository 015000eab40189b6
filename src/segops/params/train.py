"""Section `train`: the training loop."""

from __future__ import annotations

import math
from typing import Annotated, Any, Literal

from pydantic import BeforeValidator, Field, PlainSerializer, model_validator

from segops.params.base import Fraction
from segops.params.loss import WEIGHTED, LossParams
from segops.params.semi_supervised import AdversarialParams, MeanTeacherParams
from segops.runtime.section import Count, NonNegative, Positive, Section, Words


def _parts(value: Any) -> Any:
    """Parts of a loss that may be spelled as names joined by `+`."""
    if isinstance(value, str):
        return [{"name": name.strip()} for name in value.split("+")]
    return value


def _spelled(parts: tuple[LossParams, ...]) -> str | list[dict[str, Any]]:
    """As short as ``params.yaml`` can spell it."""
    if all(part.weight == 1 and not part.options() for part in parts):
        return "+".join(part.name for part in parts)
    return [{"name": part.name, "weight": part.weight, **part.options()} for part in parts]


Loss = Annotated[
    tuple[LossParams, ...],
    BeforeValidator(_parts),
    Field(min_length=1),
    Words("names of losses joined by +, or a list of mappings with name, weight and options"),
    PlainSerializer(_spelled),
]

ClassWeights = Literal["median_frequency", "effective_number"] | tuple[NonNegative, ...] | None


class DistillationParams(Section):
    """How a network learns from its teacher."""

    weight: Annotated[float, Field(gt=0, le=1)] = Field(
        0.5,
        description="Share of the teacher's soft targets in the loss of the network's output; the "
        "masks have the rest.",
    )
    temperature: Positive = Field(
        1.0, description="What both networks' logits are divided by; above 1: softer targets."
    )


class TrainParams(Section):
    """The training loop."""

    seed: Annotated[int, Field(ge=0, lt=2**31)] = Field(0, description="Seed of all randomness.")
    epochs: Count = Field(30, description="Passes over train.")
    iterations: Count | None = Field(
        None, description="Optimiser steps in all, in place of `epochs`; null: as `epochs` says."
    )
    batch_size: Count = Field(
        16, description="Images of one optimiser step, over all devices and parts."
    )
    accumulate: Count = Field(
        1,
        description="Parts in which a device takes its share of a batch, for less memory. Batch "
        "norm and losses over a whole batch (Dice, Jaccard, Tversky, Lovász) see a part each time.",
    )
    sampling: Literal["uniform", "rare_first"] = Field(
        "uniform",
        description="Order of the images; `rare_first` draws a class, rare ones more often, then "
        "an image that holds it.",
    )
    optimizer: Literal["sgd", "adam", "adamw"] = Field("adamw", description="Optimiser.")
    lr: Positive = Field(1e-3, description="Learning rate after warm-up.")
    encoder_lr_factor: Positive = Field(
        1.0, description="Learning rate of the encoder, as a multiple of `lr`."
    )
    freeze_encoder_epochs: Annotated[int, Field(ge=0)] = Field(
        0, description="Epochs at the start in which the encoder stays as it is."
    )
    freeze_batch_norm: bool = Field(
        False,
        description="The encoder's batch norm keeps the mean and variance that it starts with, in "
        "place of each batch's: for pretrained encoders and small batches.",
    )
    frozen_views: Annotated[int, Field(ge=0, le=1000)] | None = Field(
        None,
        description="Keep the encoder as it is, compute its features of each image as it is and of "
        "so many augmented views once, and train the head on them (`linear`, `mlp`); null: the "
        "encoder is trained.",
    )
    layer_decay: Annotated[float, Field(gt=0, le=1)] | None = Field(
        None,
        description="Factor of the learning rate from each layer of a vision transformer to the "
        "one before it; null: all learn alike.",
    )
    momentum: Fraction = Field(0.9, description="Momentum (SGD only).")
    weight_decay: NonNegative = Field(1e-2, description="Weight decay (L2).")
    l1: NonNegative = Field(0.0, description="Factor of the L1 penalty on weights; 0: none.")
    gradient_clip: Positive | None = Field(
        None, description="Largest norm of the gradient; null: not clipped."
    )
    ema_decay: Annotated[float, Field(gt=0, lt=1)] | None = Field(
        None,
        description="Decay of the moving average of the weights, which is then evaluated and "
        "shipped; null: none.",
    )
    loss: Loss = Field(
        (LossParams(name="cross_entropy"),),
        description="Names joined by `+`, or a list of `name`, `weight` and options; void pixels "
        "count in none. Architecture `eomt` takes `mask_classification`, alone.",
    )
    class_weights: ClassWeights = Field(
        None,
        description="Weights of the classes in cross_entropy, ohem and focal: from train's pixel "
        "counts, or a list in id order.",
    )
    teacher: str | None = Field(
        None,
        description="Trained model of the same classes whose class probabilities are learned "
        "beside the masks: `models:/NAME@champion`, `models:/NAME/VERSION` or a bundle's "
        "directory; null: none.",
    )
    distillation: DistillationParams = DistillationParams()
    mean_teacher: MeanTeacherParams = MeanTeacherParams()
    adversarial: AdversarialParams = AdversarialParams()
    ramp_up_epochs: NonNegative = Field(
        5.0,
        description="Epochs over which the losses on images without masks gain their weights.",
    )
    pruning: Annotated[float, Field(gt=0, lt=1)] | None = Field(
        None,
        description="Share of the channels of `model.start_from` that is removed from every layer "
        "before the training, the weakest ones (`pip install 'segops[pruning]'`); null: none.",
    )
    schedule: Literal["poly", "cosine", "step", "plateau"] = Field(
        "poly", description="Learning-rate schedule after warm-up."
    )
    warmup_epochs: NonNegative = Field(1.0, description="Epochs of linear warm-up.")
    min_lr: NonNegative = Field(0.0, description="The learning rate never falls below this.")
    poly_power: Positive = Field(0.9, description="Exponent of `poly`.")
    step_epochs: Count = Field(10, description="`step`: epochs between two drops.")
    step_factor: Annotated[float, Field(gt=0, lt=1)] = Field(
        0.1, description="`step` and `plateau`: factor of a drop."
    )
    plateau_patience: Count = Field(5, description="`plateau`: epochs without gain before a drop.")
    selection_share: Annotated[float, Field(ge=0, le=0.5)] = Field(
        0.1,
        description="Share of train held out to choose the checkpoint; 0: the last one is taken.",
    )
    early_stopping_patience: Count | None = Field(
        None, description="Epochs without gain on the selection split before stopping; null: never."
    )
    precision: Literal["auto", "fp32", "bf16", "fp16"] = Field(
        "auto",
        description="`auto`: bf16 on a GPU that has it and on a CPU with AMX; else fp32.",
    )
    device: Literal["auto", "cpu", "cuda"] = Field(
        "auto", description="`auto`: GPU if there is one."
    )
    devices: Count | Literal["auto"] = Field(
        1, description="Devices of a machine; `auto`: all its GPUs."
    )
    nodes: Count = Field(
        1, description="Machines; `SEGOPS_MAIN` and `SEGOPS_NODE` tell them apart."
    )
    sync_batch_norm: bool = Field(
        False, description="Batch norm statistics over the GPUs' shares of a batch together."
    )
    channels_last: bool = Field(True, description="Memory format of images and weights.")
    compile: bool = Field(False, description="`torch.compile` the network; needs a C++ compiler.")
    deterministic: bool = Field(
        True, description="Same inputs, same bits; false: the device's quickest kernels."
    )

    @model_validator(mode="after")
    def _consistent(self) -> TrainParams:
        for check in (
            self._selection, self._lengths, self._classes, self._average, self._hardware
        ):  # fmt: skip
            check()
        return self

    @property
    def learns_unlabelled(self) -> bool:
        """Whether images without masks have a part in the training, where there are any."""
        return self.mean_teacher.weight > 0 or self.adversarial.learns_unlabelled

    def _selection(self) -> None:
        if self.selection_share == 0:
            if self.early_stopping_patience is not None:
                raise ValueError(
                    "early_stopping_patience needs a selection split: set selection_share above 0, "
                    "or early_stopping_patience to null"
                )
            if self.schedule == "plateau":
                raise ValueError(
                    "the plateau schedule needs a selection split: set selection_share above 0, "
                    "or choose poly, cosine or step"
                )

    def _lengths(self) -> None:
        if self.min_lr > self.lr:
            raise ValueError(
                f"min_lr {self.min_lr:g} is above lr {self.lr:g}; expected at most {self.lr:g}"
            )
        if self.iterations is None and self.warmup_epochs >= self.epochs:
            raise ValueError(
                f"warmup_epochs {self.warmup_epochs:g} must be less than epochs {self.epochs}: set "
                "train.warmup_epochs to 0, or train.epochs to "
                f"{math.floor(self.warmup_epochs) + 1} or more"
            )
        shares = self.accumulate * self.nodes * (self.devices if self.devices != "auto" else 1)
        if self.batch_size % shares:
            nearest = [n for n in (self.batch_size // shares * shares,) if n]
            nearest.append(math.ceil(self.batch_size / shares) * shares)
            raise ValueError(
                f"batch_size {self.batch_size} cannot be divided into accumulate x devices x nodes "
                f"= {shares} equal parts; nearest: {' or '.join(map(str, nearest))}"
            )

    def _classes(self) -> None:
        if self.class_weights is None:
            return
        if not any(part.name in WEIGHTED for part in self.loss):
            raise ValueError(
                f"class_weights act on {', '.join(sorted(WEIGHTED))}, and loss has none of them; "
                "set class_weights to null, or add one"
            )
        if isinstance(self.class_weights, tuple) and not any(self.class_weights):
            raise ValueError("class_weights: expected at least one above 0")

    def _average(self) -> None:
        if self.mean_teacher.weight and self.ema_decay is None:
            raise ValueError(
                "the mean teacher is the moving average of the weights: set ema_decay, such as "
                "0.99, or mean_teacher.weight to 0"
            )

    def _hardware(self) -> None:
        if self.compile and self.deterministic:
            raise ValueError(
                "compile and deterministic exclude each other: compiled code does not give the "
                "same bits after a resume. Set one of them to false"
            )
        if self.sync_batch_norm and self.devices == 1 and self.nodes == 1:
            raise ValueError("sync_batch_norm needs several devices; set it to false")
