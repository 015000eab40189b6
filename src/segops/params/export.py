"""Section `export`: the other forms of the model that a run makes."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import AfterValidator, Field

from segops.runtime.section import Count, Section

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
