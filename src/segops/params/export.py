"""Section `export`: the other forms of the model that a run makes."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import AfterValidator, Field

from segops.runtime.section import Count, Section

NOT_EXPORTED: dict[str, str] = {}
"""Architectures that the exporter cannot export, and why."""

Format = Literal["onnx", "openvino"]


def _distinct(value: tuple[Format, ...]) -> tuple[Format, ...]:
    if len(set(value)) != len(value):
        raise ValueError("expected each format once")
    return value


class ExportParams(Section):
    """The forms of the model for other runtimes than torch."""

    formats: Annotated[tuple[Format, ...], AfterValidator(_distinct)] = Field(
        (),
        description="Formats of which each run makes an export; `onnx` for ONNX Runtime, "
        "`openvino` for OpenVINO (`pip install 'segops[openvino]'`).",
    )
    quantize: Literal["int8"] | None = Field(
        None,
        description="int8: also make each format in INT8, calibrated on images of train; null: "
        "only in float32.",
    )
    calibration_images: Count = Field(
        64,
        description="Images of train that set the scales of INT8, chosen by a stable hash of "
        "their ids.",
    )


def refusal(architecture: str, crf_iterations: int) -> str | None:
    """Why a model cannot be exported; None where it can."""
    if architecture in NOT_EXPORTED:
        return f"model.architecture {architecture} cannot be exported: {NOT_EXPORTED[architecture]}"
    if crf_iterations:
        return (
            f"predict.crf.iterations is {crf_iterations}: an export has no dense CRF, which takes "
            "torch; set it to 0"
        )
    return None
