"""How a model predicts: section `predict` of ``params.yaml``, and of a bundle's ``model.json``."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any, Literal

from pydantic import Field, ValidationError

from .errors import SegopsError
from .section import Count, NonNegative, Positive, Section


class CrfSettings(Section):
    """Refinement by a fully connected conditional random field; see :func:`.crf.refine`."""

    iterations: Annotated[int, Field(ge=0, le=50)] = Field(
        0, description="Mean-field iterations of the dense CRF; 0: off."
    )
    gaussian_weight: NonNegative = Field(3.0, description="Weight of the smoothness kernel.")
    gaussian_sigma: Positive = Field(
        3.0, description="Its width: standard deviation of the distance, in pixels."
    )
    bilateral_weight: NonNegative = Field(10.0, description="Weight of the appearance kernel.")
    bilateral_sigma: Positive = Field(
        80.0, description="Its width: standard deviation of the distance, in pixels."
    )
    color_sigma: Positive = Field(
        13.0, description="Its width in colour: standard deviation in grey levels of 0 to 255."
    )


class PredictSettings(Section):
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
    crf: CrfSettings = CrfSettings()
    max_pixels: Count = Field(
        200_000_000, description="Images of more pixels are refused before they are decoded."
    )

    @classmethod
    def of_bundle(cls, settings: Mapping[str, Any]) -> PredictSettings:
        """Settings of a bundle's ``model.json``; without a mode, images are predicted whole.

        Raises:
            SegopsError: A key is unknown or a value is not allowed.
        """
        try:
            return cls.model_validate({"mode": "whole", **settings})
        except ValidationError as error:
            first = error.errors()[0]
            key = ".".join(["predict", *map(str, first["loc"])])
            raise SegopsError(
                f"model.json: {key} is {first['input']!r}: {first['msg']}. Package the model again "
                "with the version of segops that is to run it."
            ) from None

    def by_windows(self, height: int, width: int) -> bool:
        """Whether an image of this size needs several windows."""
        pixels = height * width * max(1.0, *self.scales) ** 2
        if self.mode == "whole" or (self.mode == "auto" and pixels <= self.whole_pixels):
            return False
        return height > self.window[0] or width > self.window[1]
