"""Section `data`: the data set."""

from __future__ import annotations

from pathlib import PurePath
from typing import Annotated, Literal

from pydantic import Field, field_validator, model_validator

from segops import paths
from segops.params.classes import ClassList, ClassParams, Color, MaskId
from segops.params.colors import default_colors
from segops.runtime.bands import MOST_CHANNELS, RGB
from segops.runtime.classes import VOC_CLASSES, VOID, Classes
from segops.runtime.images import MAX_PIXELS, Photographs
from segops.runtime.section import Count, Section, Words
from segops.voc.layout import ALL_SPLITS, IMAGES, LISTS, MASKS, is_id
from segops.voc.mask_ids import AS_STORED, MaskIds
from segops.voc.reading import Bands, Reading

TAKEN = (IMAGES, MASKS, PurePath(LISTS).parts[0])
AUTO = "auto"
BACKGROUND = "background"


class DataParams(Section):
    """Where the data set lies and which classes its masks hold."""

    path: str = Field("data/voc", description="Directory in VOC layout, tracked by DVC.")
    classes: Annotated[
        Literal["voc"] | ClassList,
        Words("voc, or a list of names and of mappings with name and ids"),
    ] = Field(
        "voc",
        description="`voc` (the 21 classes), or a list in the order of the models' class numbers: "
        "a name, whose id in the masks is its place from 0, or `{name: crack, ids: [1, 2]}`.",
    )
    ignore: tuple[MaskId, ...] = Field(
        (), description="Ids in the masks that count as void, as 255 does."
    )
    background: str | None = Field(
        AUTO,
        description="The class that is background: a name; null: none is; `auto`: the class called "
        "background, where there is one. It decides what is an object, for pages, overlays, slices "
        "and copy-paste; metrics and class weights count it as any class.",
    )
    colors: dict[str, Color] = Field(
        {},
        description="Colours of classes in pages and predicted masks: name -> `'#rrggbb'` or "
        "`[red, green, blue]`. The others: VOC's for VOC's classes, else a palette that the "
        "colour-blind can tell apart.",
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
    metadata: str | None = Field(
        None,
        description="Name of a CSV in that directory, as metadata.csv: `image_id`, then a column "
        "for each thing that is known of the images, as their camera, site and month. The "
        "evaluation has a slice for each value. Every image of train, val and test has a row. "
        "null: none.",
    )

    unlabelled: str | None = Field(
        None,
        description="Name of a list in ImageSets/Segmentation, such as `unlabelled`: images in "
        "JPEGImages that need no masks, for `train.mean_teacher` and `train.adversarial`; null: "
        "there are none. No image of train, val or test may be among them.",
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
            raise ValueError(
                "expected a path of printable characters without a colon that does not begin with -"
            )
        others = [one for one in vars(paths).values() if isinstance(one, PurePath)]
        if path.parts[0] in (".git", ".dvc") or any(one.is_relative_to(path) for one in others):
            raise ValueError(
                "expected a directory of its own, such as data/voc: files of the pipeline lie there"
            )
        return value

    @field_validator("metadata")
    @classmethod
    def _csv(cls, value: str | None) -> str | None:
        if value is None:
            return value
        is_name = value.isprintable() and PurePath(value).name == value
        if not is_name or value.startswith((".", "-")) or PurePath(value).suffix.lower() != ".csv":
            raise ValueError(
                "expected the name of a CSV file in the directory that data.path names, such as "
                "metadata.csv"
            )
        return value

    @field_validator("classes")
    @classmethod
    def _distinct(cls, value: str | tuple[ClassParams, ...]) -> str | tuple[ClassParams, ...]:
        if isinstance(value, str):
            return value
        names = [one.name for one in value]
        if not 2 <= len(names) <= VOID:
            raise ValueError(f"expected 2 to {VOID} names: id {VOID} means void and is not a class")
        blank = [str(place) for place, name in enumerate(names) if not name.strip()]
        if blank:
            raise ValueError(f"expected a name for every id; blank: id {', '.join(blank)}")
        steering = [str(place) for place, name in enumerate(names) if not name.isprintable()]
        if steering:
            raise ValueError(
                "expected names of printable characters, without control characters and ends of "
                f"lines; others: id {', '.join(steering)}"
            )
        if len(set(names)) != len(names):
            raise ValueError("expected every name once")
        return value

    @field_validator("bands")
    @classmethod
    def _directories(cls, value: tuple[str, ...]) -> tuple[str, ...]:
        for name in value:
            is_name = name.isprintable() and PurePath(name).name == name
            if not is_name or name in TAKEN or name.startswith((".", "-")):
                raise ValueError(
                    "expected names of directories beside JPEGImages, such as Depth, that do not "
                    f"begin with . or -; found {name!r}"
                )
        if len(set(value)) != len(value):
            raise ValueError("expected every directory once")
        return value

    @field_validator("unlabelled")
    @classmethod
    def _list_of_its_own(cls, value: str | None) -> str | None:
        if value is not None and (
            not is_id(value) or value.startswith("-") or value[-4:] == ".txt"
        ):
            raise ValueError(
                "expected the name of a list in ImageSets/Segmentation without .txt, such as "
                "unlabelled"
            )
        if value in ALL_SPLITS:
            raise ValueError(
                f"expected another list than {value}, whose images have masks or are kept for "
                "scoring; write one of their own, such as unlabelled"
            )
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

    @model_validator(mode="after")
    def _ids_once(self) -> DataParams:
        owners: dict[int, str] = {}
        for name, ids in zip(self.class_names, self._ids(), strict=True):
            for one in ids:
                if one in owners:
                    raise ValueError(
                        f"data.classes gives id {one} to {owners[one]} and to {name}; expected "
                        "every id once. A name alone has the id of its place, from 0"
                    )
                owners[one] = name
        both = [f"{one} ({owners[one]})" for one in self.ignore if one in owners]
        if both:
            raise ValueError(
                f"data.ignore names ids that are a class: {', '.join(both)}; expected ids that no "
                "class of data.classes has"
            )
        return self

    @model_validator(mode="after")
    def _known_names(self) -> DataParams:
        own = {self.background} - {AUTO, None}
        for key, used in (("colors", self.colors), ("background", own)):
            unknown = [name for name in used if name not in self.class_names]
            if unknown:
                raise ValueError(
                    f"data.{key} names {', '.join(map(repr, unknown))}; expected names out of "
                    f"data.classes: {', '.join(self.class_names)}"
                )
        return self

    @property
    def reading(self) -> Reading:
        """How the files of the data set are read."""
        channels = RGB if self.channels is None else self.channels
        ids, places = self._ids(), tuple((place,) for place in range(len(self.class_names)))
        return Reading(
            Photographs(self.max_pixels, self.bit_depth),
            Bands(channels, self.bands),
            MaskIds(AS_STORED.ids if ids == places else ids, self.ignore),
        )

    @property
    def class_names(self) -> tuple[str, ...]:
        """The names in id order; `len(class_names)` is the number of classes."""
        return VOC_CLASSES if isinstance(self.classes, str) else tuple(c.name for c in self.classes)

    @property
    def drawn(self) -> Classes:
        """The classes with their colours and their background."""
        names, background = self.class_names, self.background
        if background == AUTO:
            background = next((one for one in names if one.strip().lower() == BACKGROUND), None)
        label = None if background is None else names.index(background)
        colors = zip(names, default_colors(names, label), strict=True)
        return Classes(names, label, tuple(self.colors.get(name, color) for name, color in colors))

    def _ids(self) -> tuple[tuple[int, ...], ...]:
        if isinstance(self.classes, str):
            return tuple((label,) for label in range(len(VOC_CLASSES)))
        return tuple(one.ids or (place,) for place, one in enumerate(self.classes))
