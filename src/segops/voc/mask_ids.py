"""How the ids in the masks of a data set become classes."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

import numpy as np
from numpy.typing import NDArray

from segops.runtime.classes import VOID
from segops.runtime.errors import SegopsError

UNNAMED = 256
"""What is added to an id of a file that no class has, to tell it from a class."""


@dataclass(frozen=True)
class MaskIds:
    """Which ids in the masks of a data set are which class, and which are void, as 255 always is.

    Attributes:
        ids: For each class the ids of its pixels; None: each id is the class of this number.
        ignore: Further ids that are void.
    """

    ids: tuple[tuple[int, ...], ...] | None = None
    ignore: tuple[int, ...] = ()

    @property
    def lines(self) -> tuple[str, ...]:
        """The mapping as the hash of the data takes it; () where every id stays what it is."""
        own = [
            f"ids\t{label}\t{','.join(map(str, sorted({*ids})))}"
            for label, ids in enumerate(self.ids or ())
            if {*ids} != {label}
        ]
        ignored = ",".join(map(str, sorted({*self.ignore})))
        return (*own, *([f"ignore\t{ignored}"] if ignored else []))

    @cached_property
    def table(self) -> NDArray[np.uint16]:
        """The class of each id, uint16 (256,).

        255 for void. Where classes have ids of their own, 256 + id for an id of no class; else an
        id is the class of its number, also where there are fewer classes.
        """
        table = np.arange(VOID + 1, dtype=np.uint16)
        if self.ids is not None:
            table += UNNAMED
            for label, ids in enumerate(self.ids):
                table[list(ids)] = label
        table[[*self.ignore, VOID]] = VOID
        return table

    def labels(self, mask: NDArray[np.uint8]) -> NDArray[np.uint8] | NDArray[np.uint16]:
        """The entries of :attr:`table` for a mask, uint8 (H, W), of the same shape."""
        return self.table[mask] if self.lines else mask

    @cached_property
    def number(self) -> int:
        """One more than the highest entry of :attr:`table`."""
        return int(self.table.max()) + 1

    def classes(self, mask: NDArray[np.uint8], name: str) -> NDArray[np.uint8]:
        """Turn the ids of a mask, uint8 (H, W), into classes, of the same shape; 255 is void.

        Raises:
            SegopsError: Classes have ids of their own and the mask, which the message calls `name`,
                holds others.
        """
        if not self.lines:
            return mask
        labels = self.table[mask]
        if labels.max() >= UNNAMED:
            unnamed = np.unique(labels[labels >= UNNAMED]) - UNNAMED
            raise SegopsError(
                f"{name}: ids {', '.join(map(str, unnamed))} are in neither data.classes nor "
                "data.ignore. Give them to a class, or ignore them."
            )
        return labels.astype(np.uint8)


AS_STORED = MaskIds()
"""Each id is the class of its number."""
