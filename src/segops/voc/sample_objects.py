"""The eight classes of the generated sample.

A class shows in shape and structure alone; colours are drawn at random where an object is painted.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from .sample_shapes import Part
from .sample_things import bird, bottle, pottedplant, tvmonitor
from .sample_vehicles import aeroplane, boat, bus, car


@dataclass(frozen=True)
class Kind:
    """A class of the sample.

    Attributes:
        class_id: Its VOC id.
        draw: Makes one object of it.
        turn: Largest rotation in degrees, either way.
        extent: Factor of its size, so that the classes cover areas of the same order.
    """

    class_id: int
    draw: Callable[[np.random.Generator], list[Part]]
    turn: float
    extent: float = 1.0


KINDS: tuple[Kind, ...] = (
    Kind(1, aeroplane, 25.0, 1.15),
    Kind(3, bird, 20.0, 1.0),
    Kind(4, boat, 8.0, 1.0),
    Kind(5, bottle, 15.0, 1.1),
    Kind(6, bus, 8.0, 1.0),
    Kind(7, car, 8.0, 1.1),
    Kind(16, pottedplant, 8.0, 0.95),
    Kind(20, tvmonitor, 8.0, 0.9),
)
"""aeroplane, bird, boat, bottle, bus, car, pottedplant, tvmonitor."""
