"""Section `data`: the data set."""

from __future__ import annotations

from pathlib import PurePath
from typing import Literal

from pydantic import Field, field_validator, model_validator

from segops import paths
from segops.runtime.bands import MOST_CHANNELS, RGB
from segops.runtime.classes import VOC_CLASSES, VOID
from segops.runtime.images import MAX_PIXELS, Photographs
from segops.runtime.section import Count, Section
from segops.voc.reading import Bands, Reading

TAKEN = ("JPEGImages", "SegmentationClass", "ImageSets")


class DataParams(Section):
    """Where the data set lies and which classes its masks hold."""

    path: str = Field("data/voc", description="Directory in VOC layout, tracked by DVC.")
    classes: Literal["voc"] | tuple[str, ...] = Field(
        "voc",
        description="`voc` (the 21 classes) or a list of names in id order, background first.",
    )

    max_pixels: Count = Field(
        MAX_PIXELS,
        description="Images and masks of more pixels are refused before they are decoded.",
    )
    bit_depth: int | None = Field(
        None,
        ge=9,
        le=16,
        description="Bits that files of 16 bits a channel use: they are scaled to 8 in training "
        "and in prediction. null: RGB becomes its upper 8 bits; greyscale and other bands of 16 "
        "bits are refused.",
    )
    channels: int | None = Field(
        None,
        ge=1,
        le=MOST_CHANNELS,
        description="Bands of each file in JPEGImages. null or 3: RGB, to which any photograph is "
        "converted. Else every file has just so many and they are taken as stored: TIFF, or PNG of "
        "1, 2 or 4.",
    )
    bands: tuple[str, ...] = Field(
        (),
        description="Further directories beside JPEGImages, such as `[Depth]`: each adds a channel "
        "by files of one band, DIRECTORY/ID.png or ID.tif, of the photograph's size.",
    )

    @field_validator("path")
    @classmethod
    def _inside(cls, value: str) -> str:
        path = PurePath(value)
        if path.is_absolute() or ".." in path.parts or not path.name:
            raise ValueError(
                "expected a directory inside the checkout, such as data/voc, to which `segops data "
                "use PATH` copies data from elsewhere"
            )
        # DVC takes the one for an option and the other for the end of a file's name.
        if value.startswith("-") or ":" in value or not value.isprintable():
            raise ValueError("expected a path without a colon that does not begin with -")
        others = [one for one in vars(paths).values() if isinstance(one, PurePath)]
        if path.parts[0] in (".git", ".dvc") or any(one.is_relative_to(path) for one in others):
            raise ValueError(
                "expected a directory of its own, such as data/voc: files of the pipeline lie there"
            )
        return value

    @field_validator("classes")
    @classmethod
    def _distinct(cls, value: str | tuple[str, ...]) -> str | tuple[str, ...]:
        if value == "voc":
            return value
        if not 2 <= len(value) <= VOID:
            raise ValueError(f"expected 2 to {VOID} names: id {VOID} means void and is not a class")
        blank = [str(id_) for id_, name in enumerate(value) if not name.strip()]
        if blank:
            raise ValueError(f"expected a name for every id; blank: id {', '.join(blank)}")
        steering = [str(id_) for id_, name in enumerate(value) if not name.isprintable()]
        if steering:
            raise ValueError(
                "expected names of printable characters, without control characters and ends of "
                f"lines; others: id {', '.join(steering)}"
            )
        if len(set(value)) != len(value):
            raise ValueError("expected every name once")
        return value

    @field_validator("bands")
    @classmethod
    def _directories(cls, value: tuple[str, ...]) -> tuple[str, ...]:
        for name in value:
            if not name.isprintable() or PurePath(name).name != name or name in TAKEN:
                raise ValueError(
                    "expected names of directories beside JPEGImages, such as Depth; found "
                    f"{name!r}"
                )
        if len(set(value)) != len(value):
            raise ValueError("expected every directory once")
        return value

    @model_validator(mode="after")
    def _countable(self) -> DataParams:
        total = self.reading.bands.total
        if not 2 <= total <= MOST_CHANNELS:
            raise ValueError(
                f"data.channels and data.bands give images of {total} channel(s); "
                f"expected 2 to {MOST_CHANNELS}. Greyscale alone is read as RGB: set data.channels "
                "to null"
            )
        return self

    @property
    def reading(self) -> Reading:
        """How the files of the data set are read."""
        channels = RGB if self.channels is None else self.channels
        return Reading(Photographs(self.max_pixels, self.bit_depth), Bands(channels, self.bands))

    @property
    def class_names(self) -> tuple[str, ...]:
        """The names in id order; `len(class_names)` is the number of classes."""
        return VOC_CLASSES if isinstance(self.classes, str) else self.classes
