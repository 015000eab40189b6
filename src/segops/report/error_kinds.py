"""Colours and meanings of the kinds of error."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class ErrorKind:
    """One kind of error.

    Attributes:
        name: As the evaluation names it.
        colour: As CSS writes it; apart from the others in lightness too, for the colour-blind.
        meaning: What it says of a pixel.
    """

    name: str
    colour: str
    meaning: str

    @property
    def rgb(self) -> tuple[int, int, int]:
        """The colour as red, green and blue, 0..255."""
        red, green, blue = bytes.fromhex(self.colour[1:])
        return red, green, blue


# In the order of segops.metrics.wrong_pixels.KINDS: a map of kinds holds an index into this plus 1.
KINDS = (
    ErrorKind("missed", "#e5383b", "a class is there, and background was predicted"),
    ErrorKind("false alarm", "#ffc300", "background is there, and a class was predicted"),
    ErrorKind("confusion", "#a63cf0", "a class is there, and another class was predicted"),
    ErrorKind(
        "boundary",
        "#19a7f0",
        "none of these: the contour of both classes was found and lies a little off",
    ),
)
