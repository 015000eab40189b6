"""How a bundle predicts: section `predict` of its ``model.json``, checked."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, fields
from typing import Any

from ..errors import SegopsError

MODES = ("auto", "whole", "window")


@dataclass(frozen=True)
class CrfSettings:
    """Refinement by a dense CRF; see :class:`.crf.DenseCrf`.

    Attributes:
        iterations: Mean-field iterations; 0: off.
        gaussian_weight: Weight of the smoothness kernel.
        gaussian_sigma: Its width, in pixels.
        bilateral_weight: Weight of the appearance kernel.
        bilateral_sigma: Its width, in pixels.
        color_sigma: Its width in colour, in grey levels of 0 to 255.
    """

    iterations: int = 0
    gaussian_weight: float = 3.0
    gaussian_sigma: float = 3.0
    bilateral_weight: float = 10.0
    bilateral_sigma: float = 80.0
    color_sigma: float = 13.0


@dataclass(frozen=True)
class InferenceSettings:
    """How an image becomes a mask; what is not said is plain: whole images, as they are.

    Attributes:
        mode: `whole`: an image in one piece; `window`: by overlapping windows; `auto`: whole up to
            `whole_pixels`, by windows above.
        window: Height and width of a window, in pixels.
        overlap: Share of a window that its neighbour covers too, 0..0.9.
        whole_pixels: Largest image, in pixels, that `auto` predicts in one piece; one that
            `scales` enlarges counts at its largest size.
        flip: Average with the prediction of the image mirrored left to right.
        scales: Average over the image predicted at these sizes; 1 is its own.
        crf: Refinement of the probabilities.
        max_pixels: Image files of more pixels are refused before they are decoded.
    """

    mode: str = "whole"
    window: tuple[int, int] = (512, 512)
    overlap: float = 0.5
    whole_pixels: int = 4_000_000
    flip: bool = False
    scales: tuple[float, ...] = (1.0,)
    crf: CrfSettings = field(default_factory=CrfSettings)
    max_pixels: int = 200_000_000

    @classmethod
    def from_dict(cls, settings: Mapping[str, Any]) -> InferenceSettings:
        """Settings as they lie in ``model.json``; lists are taken for tuples.

        Raises:
            SegopsError: A key is not known or a value is not possible.
        """
        values = _checked(settings, cls, "predict")
        values["crf"] = CrfSettings(**_checked(values.get("crf", {}), CrfSettings, "predict.crf"))
        for key in ("window", "scales"):
            if key in values:
                values[key] = tuple(values[key])
        return cls(**values)

    @property
    def averages(self) -> bool:
        """Whether a prediction is the mean of several."""
        return self.flip or self.scales != (1.0,)

    def by_windows(self, height: int, width: int) -> bool:
        """Whether an image of this size takes more than one window."""
        pixels = height * width * max(1.0, *self.scales) ** 2
        if self.mode == "whole" or (self.mode == "auto" and pixels <= self.whole_pixels):
            return False
        return height > self.window[0] or width > self.window[1]


def _is_number(value: Any) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool) and math.isfinite(value)


def _is_count(value: Any) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and value >= 1


def _is_weight(value: Any) -> bool:
    return _is_number(value) and value >= 0


def _is_width(value: Any) -> bool:
    return _is_number(value) and value > 0


def _is_list(of: Callable[[Any], bool], length: int | None = None) -> Callable[[Any], bool]:
    def check(value: Any) -> bool:
        if not isinstance(value, (list, tuple)) or not value:
            return False
        return (length is None or len(value) == length) and all(map(of, value))

    return check


_CHECKS: dict[str, tuple[Callable[[Any], bool], str]] = {
    "predict.mode": (lambda value: value in MODES, "one of " + ", ".join(MODES)),
    "predict.window": (_is_list(_is_count, 2), "height and width in pixels"),
    "predict.overlap": (lambda value: _is_number(value) and 0 <= value <= 0.9, "0 to 0.9"),
    "predict.whole_pixels": (_is_count, "a number of pixels"),
    "predict.flip": (lambda value: isinstance(value, bool), "true or false"),
    "predict.scales": (_is_list(_is_width), "a list of factors above 0"),
    "predict.crf": (lambda value: isinstance(value, Mapping), "a section"),
    "predict.max_pixels": (_is_count, "a number of pixels"),
    "predict.crf.iterations": (lambda value: value == 0 or _is_count(value), "a count"),
    "predict.crf.gaussian_weight": (_is_weight, "a number from 0"),
    "predict.crf.gaussian_sigma": (_is_width, "a number above 0"),
    "predict.crf.bilateral_weight": (_is_weight, "a number from 0"),
    "predict.crf.bilateral_sigma": (_is_width, "a number above 0"),
    "predict.crf.color_sigma": (_is_width, "a number above 0"),
}


def _checked(settings: Mapping[str, Any], kind: type[Any], name: str) -> dict[str, Any]:
    """A copy of a section whose keys are fields of `kind` and whose values are possible."""
    known = [one.name for one in fields(kind)]
    for key, value in settings.items():
        if key not in known:
            raise SegopsError(
                f"{name}.{key}: the bundle's code knows no such setting; expected "
                f"{', '.join(known)}. Package the model anew with the version that is to run it."
            )
        possible, expected = _CHECKS[f"{name}.{key}"]
        if not possible(value):
            raise SegopsError(f"{name}.{key} is {value!r}; expected {expected}.")
    return dict(settings)
