"""How the files of a data set are read: part of section `data` of ``params.yaml``."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from segops.files import sha256_lines
from segops.runtime.bands import RGB
from segops.runtime.images import AS_SHIPPED, Photographs
from segops.voc.mask_ids import AS_STORED, MaskIds


@dataclass(frozen=True)
class Bands:
    """The bands of each image.

    Attributes:
        channels: Bands of the file in ``JPEGImages``; 3: RGB, whatever colours the file holds.
        directories: Further directories beside ``JPEGImages``, whose files hold one band each.
    """

    channels: int = RGB
    directories: tuple[str, ...] = ()

    @property
    def is_rgb(self) -> bool:
        """Whether an image is its photograph as RGB."""
        return self.channels == RGB and not self.directories

    @property
    def total(self) -> int:
        """Channels of an image, and of the model."""
        return self.channels + len(self.directories)

    def sha256(self, files: Sequence[str]) -> str:
        """The hash of an image from those of its files, in hexadecimal.

        That of the photograph where images are RGB. Otherwise it depends on the number of its bands
        too, because another number gives other pixels.
        """
        if self.is_rgb:
            return files[0]
        return sha256_lines([f"channels\t{self.channels}", *files])


@dataclass(frozen=True)
class Reading:
    """How the files of a data set are read.

    Attributes:
        photographs: The largest size, and the bits, of its files.
        bands: What the images' pixels are.
        mask_ids: Which classes the pixels of its masks are.
    """

    photographs: Photographs = AS_SHIPPED
    bands: Bands = Bands()
    mask_ids: MaskIds = AS_STORED

    @classmethod
    def from_json(cls, values: Mapping[str, Any]) -> Reading:
        """Make one of what :func:`dataclasses.asdict` gives, also where lists are its tuples."""
        bands, of_ids = values["bands"], values["mask_ids"]
        ids = of_ids["ids"]
        return cls(
            Photographs(**values["photographs"]),
            Bands(bands["channels"], tuple(bands["directories"])),
            MaskIds(None if ids is None else tuple(map(tuple, ids)), tuple(of_ids["ignore"])),
        )

    @property
    def lines(self) -> tuple[str, ...]:
        """What the hash of the data takes of it, beside the hashes of the images.

        It is () where files are read as shipped.
        """
        depth = self.photographs.bit_depth
        return (*self.mask_ids.lines, *([] if depth is None else [f"bit_depth\t{depth}"]))


READ_AS_SHIPPED = Reading()
"""How a data set is read where no ``params.yaml`` says otherwise."""
