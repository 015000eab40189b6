"""Section `predict`: how the packaged model predicts; it travels in the model's bundle."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field

from segops.params.base import Count, Section

Positive = Annotated[float, Field(gt=0)]


class CrfParams(Section):
    """Refinement by a fully connected conditional random field."""

    iterations: Annotated[int, Field(ge=0, le=50)] = Field(
        0, description="Mean-field iterations of the dense CRF; 0: off."
    )
    gaussian_weight: Annotated[float, Field(ge=0)] = Field(
        3.0, description="Weight of the smoothness kernel."
    )
    gaussian_sigma: Positive = Field(
        3.0, description="Its width: standard deviation of the distance, in pixels."
    )
    bilateral_weight: Annotated[float, Field(ge=0)] = Field(
        10.0, description="Weight of the appearance kernel."
    )
    bilateral_sigma: Positive = Field(
        80.0, description="Its width: standard deviation of the distance, in pixels."
    )
    color_sigma: Positive = Field(
        13.0, description="Its width in colour: standard deviation in grey levels of 0 to 255."
    )


class PredictParams(Section):
    """How an image becomes a mask."""

    mode: Literal["auto", "whole", "window"] = Field(
        "auto",
        description="`whole`: an image in one piece; `window`: by overlapping windows, blended; "
        "`auto`: whole up to `predict.whole_pixels`, by windows above.",
    )
    window: tuple[Count, Count] = Field(
        (512, 512), description="Height and width of a window, in pixels."
    )
    overlap: Annotated[float, Field(ge=0, le=0.9)] = Field(
        0.5, description="Share of a window that its neighbour covers too."
    )
    whole_pixels: Count = Field(
        4_000_000,
        description="Largest image, in pixels, that `auto` predicts in one piece; one that "
        "`predict.scales` enlarges counts at its largest size.",
    )
    flip: bool = Field(
        False, description="Average with the prediction of the image mirrored left to right."
    )
    scales: Annotated[tuple[Annotated[float, Field(ge=0.1, le=8)], ...], Field(min_length=1)] = (
        Field((1.0,), description="Average over the image predicted at these sizes.")
    )
    crf: CrfParams = CrfParams()
    max_pixels: Count = Field(
        200_000_000, description="Images of more pixels are refused before they are decoded."
    )
