"""Section `gate`: the conditions of a promotion."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field

from segops.params.base import Probability
from segops.runtime.section import Count, Positive, Section


class ExportGate(Section):
    """The bounds within which an export is offered; beyond them it stays measured."""

    max_differing_pixels: Probability | None = Field(
        0.002,
        description="Largest share of the pixels of val that an export in float32 predicts "
        "otherwise than the model; null: not checked. INT8 rounds, and is judged by its losses.",
    )
    max_miou_loss: Probability | None = Field(
        0.01, description="Largest loss of mIoU on val against the model; null: not checked."
    )
    max_class_loss: Probability | None = Field(
        0.05, description="Largest loss of IoU of any class; null: not checked."
    )
    max_milliseconds: Positive | None = Field(
        None,
        description="Largest time of an image, the 95th percentile on the CPU of the machine that "
        "evaluates; null: not checked.",
    )
    max_mib: Positive | None = Field(
        None, description="Largest size of the export's files, MiB; null: not checked."
    )


class GateParams(Section):
    """The conditions that a challenger must fulfil to be promoted."""

    min_miou: Probability = Field(0.5, description="Least mIoU on val.")
    min_class_iou: dict[str, Probability] = Field(
        default_factory=dict, description="Least IoU by class name."
    )
    min_boundary_iou: Probability | None = Field(
        None, description="Least boundary IoU on val; null: not checked."
    )
    max_ece: Probability | None = Field(
        None, description="Largest expected calibration error on val; null: not checked."
    )
    max_bundle_mib: Positive | None = Field(
        None, description="Largest size of the bundle, MiB; null: not checked."
    )
    max_slowdown: Positive | None = Field(
        None,
        description="Largest time of predicting an image as a multiple of the champion's, both "
        "measured on this machine; null: neither measured nor checked.",
    )
    allowed_weight_licences: list[str] | None = Field(
        None,
        description="Licences that the pretrained weights may have, such as `apache-2.0`; null: "
        "not checked.",
    )
    stated_weight_licences: dict[str, str] = Field(
        default_factory=dict,
        description="Licences that you state for weights whose licence is not known, by the value "
        "of `model.encoder_weights` or `model.start_from`.",
    )
    export: ExportGate = ExportGate()
    max_looks: Count | None = Field(
        None, description="Most versions to gate on one val; null: counted, without a limit."
    )
    too_many_looks: Literal["warn", "refuse"] = Field(
        "warn", description="What the gate does beyond `gate.max_looks`."
    )
    margin: Probability = Field(
        0.01, description="Largest loss of mIoU against the champion that counts as no loss."
    )
    confidence: Annotated[float, Field(gt=0.5, lt=1)] = Field(
        0.95, description="Level of the one-sided paired bootstrap."
    )
    bootstrap_samples: Annotated[int, Field(ge=100)] = Field(
        2000, description="Resamples of the paired bootstrap."
    )
    seed: Annotated[int, Field(ge=0)] = Field(0, description="Seed of the paired bootstrap.")
    approval: Literal["none", "required"] = Field(
        "none",
        description="required: a version that passes becomes a candidate, and `segops approve` "
        "promotes it.",
    )
    approve_own: bool = Field(
        False, description="Whether the person who started a run may approve its version."
    )
