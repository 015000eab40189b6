"""Section `augment`: the augmentation policy of training."""

from __future__ import annotations

from typing import Annotated, Any

from pydantic import ConfigDict, Field

from segops.params.base import Fraction, PositiveRange, Probability, ShareRange
from segops.params.samples import SampleParams
from segops.runtime.section import Count, Section


class ScaleParams(Section):
    """Random scale."""

    range: PositiveRange = Field(
        (0.5, 2.0), description="Smallest and largest factor of the random scale."
    )
    p: Probability = Field(1.0, description="Probability of the random scale.")


class FlipParams(Section):
    """Horizontal flip."""

    p: Probability = Field(0.5, description="Probability of the horizontal flip.")


class RotateParams(Section):
    """Random rotation."""

    limit: Annotated[float, Field(ge=0, le=180)] = Field(
        10.0, description="Rotation between -limit and limit, in degrees."
    )
    p: Probability = Field(0.3, description="Probability of the rotation.")


class ShiftParams(Section):
    """Random shift."""

    limit: Fraction = Field(0.05, description="Shift up to this share of the crop's side.")
    p: Probability = Field(0.3, description="Probability of the shift.")


class ShearParams(Section):
    """Random shear."""

    limit: Annotated[float, Field(ge=0, lt=90)] = Field(
        5.0, description="Shear between -limit and limit, in degrees."
    )
    p: Probability = Field(0.2, description="Probability of the shear.")


class ColorJitterParams(Section):
    """Random brightness, contrast, saturation and hue."""

    brightness: Fraction = Field(0.3, description="Brightness factor within 1 ± this.")
    contrast: Fraction = Field(0.3, description="Contrast factor within 1 ± this.")
    saturation: Fraction = Field(0.3, description="Saturation factor within 1 ± this.")
    hue: Annotated[float, Field(ge=0, le=0.5)] = Field(
        0.05, description="Hue shift within ± this share of the colour circle."
    )
    p: Probability = Field(0.5, description="Probability of the colour jitter.")


class BlurParams(Section):
    """Gaussian blur."""

    sigma: PositiveRange = Field((0.3, 1.2), description="Range of sigma, in pixels.")
    p: Probability = Field(0.1, description="Probability of the blur.")


class NoiseParams(Section):
    """Gaussian noise."""

    std: ShareRange = Field(
        (0.01, 0.05), description="Range of the standard deviation, as a share of 255."
    )
    p: Probability = Field(0.1, description="Probability of the noise.")


class PhotometricParams(Section):
    """Photometric distortion, as in SSD and MMSegmentation."""

    brightness: Annotated[float, Field(ge=0, le=255)] = Field(
        32.0, description="Brightness moved by up to this many grey levels."
    )
    contrast: PositiveRange = Field((0.5, 1.5), description="Smallest and largest contrast factor.")
    saturation: PositiveRange = Field(
        (0.5, 1.5), description="Smallest and largest saturation factor."
    )
    hue: Annotated[float, Field(ge=0, le=180)] = Field(
        18.0, description="Hue turned by up to this, in degrees."
    )
    p: Probability = Field(
        0.0, description="Probability of the distortion; each of its parts then has one half."
    )


class ExtraParams(Section):
    """A transform of Albumentations; keys beside `name` and `p` are its arguments."""

    model_config = ConfigDict(extra="allow")

    name: str = Field(description="Name of the transform's class, such as RandomFog.")
    p: Probability = Field(0.5, description="Probability of the transform.")

    @property
    def arguments(self) -> dict[str, Any]:
        """The keyword arguments beside `p`; stage `augment` checks them."""
        return dict(self.model_extra or {})


class AugmentParams(SampleParams, Section):
    """The augmentation policy of training."""

    crop: tuple[Count, Count] = Field((512, 512), description="Height and width of a crop, pixels.")
    cat_max_ratio: Annotated[float, Field(gt=0, le=1)] = Field(
        1.0,
        description="A crop is drawn again, up to ten times, while one class has more than this "
        "share of its labelled pixels; 1: never.",
    )
    scale: ScaleParams = ScaleParams()
    flip: FlipParams = FlipParams()
    rotate: RotateParams = RotateParams()
    shift: ShiftParams = ShiftParams()
    shear: ShearParams = ShearParams()
    color_jitter: ColorJitterParams = ColorJitterParams()
    photometric: PhotometricParams = PhotometricParams()
    blur: BlurParams = BlurParams()
    noise: NoiseParams = NoiseParams()
    extra: tuple[ExtraParams, ...] = Field(
        (),
        description="Transforms of Albumentations that follow, each with `name`, `p` and its "
        "arguments.",
    )
