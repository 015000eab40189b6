"""One picture of the sample, from the background to the camera, and its mask.

All randomness comes from the generator given. Pixels go through sums, products and Pillow's own
filters alone, whose bits are the same on every processor: the same seed gives the same picture.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageChops, ImageDraw, ImageFilter

from segops.runtime.classes import VOID

from .kinds import KINDS, Kind
from .shapes import Outline, box, direction, ellipse, polygon, smooth

SUPERSAMPLING = 3
"""Side of the block of drawn pixels that becomes one pixel of the picture; odd, so that a block
has a middle, which decides the mask."""

Floats = NDArray[np.float32]
Point = tuple[float, float]


@dataclass(frozen=True)
class Scene:
    """A picture, uint8 (H, W, 3), RGB, and the object that every pixel shows.

    Attributes:
        objects: uint8 array of shape (H, W): 0 for background, else 1 + the object's index.
        class_ids: VOC id of each object, back to front.
        border: Width in pixels of the void border, 1 to 3.
    """

    image: NDArray[np.uint8]
    objects: NDArray[np.uint8]
    class_ids: tuple[int, ...]
    border: int

    def mask(self) -> NDArray[np.uint8]:
        """The ids of the pixels, void where objects end; uint8 array of shape (H, W)."""
        ids = np.array([0, *self.class_ids], dtype=np.uint8)[self.objects]
        ids[void_border(self.objects, self.border)] = VOID
        return ids


def void_border(objects: NDArray[np.uint8], width: int) -> NDArray[np.bool_]:
    """The pixels along the outlines of objects; bool array of shape (H, W).

    A border one pixel wide takes its pixels from the object in front; of two, one lies on either
    side of the outline; of three, two lie outside.
    """
    picture = Image.fromarray(objects)
    highest = picture if width == 1 else picture.filter(ImageFilter.MaxFilter(3))
    if width == 3:
        highest = highest.filter(ImageFilter.MaxFilter(3))
    lowest = picture.filter(ImageFilter.MinFilter(3))
    edge: NDArray[np.bool_] = np.asarray(highest) != np.asarray(lowest)
    return edge


def draw_scene(rng: np.random.Generator, size: tuple[int, int], first: Kind) -> Scene:
    """Draw a scene of `size` (width, height) with one to three objects, one of kind `first`."""
    painter = _Painter(rng, size[0] * SUPERSAMPLING, size[1] * SUPERSAMPLING)
    light = direction(rng.uniform(200, 340))
    painter.background()
    count = int(rng.choice([1, 2, 2, 3, 3]))
    kinds = [first, *(KINDS[int(index)] for index in rng.integers(0, len(KINDS), count - 1))]
    kinds = [kinds[int(index)] for index in rng.permutation(count)]
    centres: list[Point] = []
    for number, kind in enumerate(kinds, 1):
        extent = min(painter.size) * rng.uniform(0.26, 0.5) * kind.extent
        centres.append(painter.place(extent, centres))
        painter.add_object(number, kind, extent, centres[-1], light)
    middle = SUPERSAMPLING // 2
    objects = np.asarray(painter.objects)[middle::SUPERSAMPLING, middle::SUPERSAMPLING]
    return Scene(
        painter.photograph(),
        np.ascontiguousarray(objects),
        tuple(kind.class_id for kind in kinds),
        border=int(rng.choice([1, 2, 2, 3])),
    )


class _Painter:
    """Paints with `rng` on `canvas`, and the numbers of objects on `objects`."""

    def __init__(self, rng: np.random.Generator, width: int, height: int) -> None:
        self.rng = rng
        self.size = width, height

    def place(self, extent: float, others: list[Point]) -> Point:
        """The centre of an object: at times over another object, at times over the border."""
        rng, (width, height) = self.rng, self.size
        if others and rng.random() < 0.3:
            turn = direction(rng.uniform(0, 360))
            x, y = others[-1][0] + 1.2 * extent * turn[0], others[-1][1] + extent * turn[1]
            return min(max(x, 0.1 * width), 0.9 * width), min(max(y, 0.12 * height), 0.88 * height)
        places = [
            (rng.uniform(0.1, 0.9) * width, rng.uniform(0.15, 0.85) * height) for _ in range(4)
        ]

        def distance(place: Point) -> float:
            squares = (
                (place[0] - x) * (place[0] - x) + (place[1] - y) * (place[1] - y) for x, y in others
            )
            return min(squares, default=0.0)

        return max(places, key=distance)

    def colour(self, low: float, high: float, dull: float = 0.0, lively: float = 0.85) -> Floats:
        """A colour of any hue, float32 (3,) in 0..255.

        The brightest channel lies between `low` and `high`, the saturation between `dull` and
        `lively`.
        """
        hue = self.rng.random(3).astype(np.float32)
        hue = (hue - hue.min()) / (hue.max() - hue.min() + np.float32(0.01))
        saturation = np.float32(self.rng.uniform(dull, lively))
        value = np.float32(self.rng.uniform(low, high))
        return np.asarray(value * (1 - saturation * (1 - hue)), dtype=np.float32)

    def noise(self, width: int, height: int, across: float, down: float) -> Floats:
        """Smooth noise with cells of `across` by `down` pixels; float32 (H, W) in -1..1."""
        columns, rows = max(2, round(width / across)), max(2, round(height / down))
        cells = Image.fromarray(self.rng.integers(0, 256, (rows, columns), dtype=np.uint8))
        values = cells.resize((width, height), Image.Resampling.BICUBIC)
        return np.asarray(values, dtype=np.float32) / np.float32(127.5) - 1

    def surface(self, width: int, height: int, rough: float, stretch: float) -> Image.Image:
        """A textured surface, shaded from top to bottom.

        `rough` is the strength of the texture, about 0 to 1; grains are `stretch` times wider than
        high.
        """
        upper, lower, grain = (self.colour(40, 235, lively=0.5) for _ in range(3))
        lower = np.float32(0.5) * (upper + lower)
        # Grains are no finer than a pixel of the picture: the drawing's resolution is not needed.
        columns, rows = -(-width // SUPERSAMPLING), -(-height // SUPERSAMPLING)
        down = np.linspace(0, 1, rows, dtype=np.float32)[:, None, None]
        unit = self.rng.uniform(0.8, 1.3)
        coarse, middle, fine = (
            self.noise(columns, rows, cell * unit * stretch, cell * unit) for cell in (30, 9, 2.5)
        )
        mix = np.clip(np.float32(0.5) + np.float32(0.9) * coarse, 0, 1) * np.float32(0.7)
        shade = 1 + np.float32(rough) * (np.float32(0.3) * middle + np.float32(0.35) * fine)
        plane = upper + (lower - upper) * down
        plane = plane + (grain - plane) * mix[..., None]
        pixels = np.clip(plane * shade[..., None], 0, 255).astype(np.uint8)
        return Image.fromarray(pixels).resize((width, height), Image.Resampling.NEAREST)

    def background(self) -> None:
        """A far surface, a near surface below a horizon, and things that belong to no class."""
        rng, (width, height) = self.rng, self.size
        self.canvas = self.surface(width, height, rng.uniform(0.05, 0.4), rng.uniform(1, 3))
        self.objects = Image.new("L", self.size, 0)
        horizon = rng.uniform(0.3, 0.8) * height
        for _ in range(int(rng.integers(0, 3))):
            self.far_thing(horizon)
        if rng.random() < 0.8:
            near = self.surface(width, height, rng.uniform(0.1, 0.6), rng.uniform(1, 4))
            slope = rng.uniform(-0.08, 0.08) * height
            edge = polygon([0, width, width, 0], [horizon - slope, horizon + slope, height, height])
            self.canvas.paste(near, (0, 0), _cover(self.size, [edge]))
        for _ in range(int(rng.integers(0, 3))):
            x, y = rng.uniform(0, width), rng.uniform(horizon, height + 1)
            across = rng.uniform(0.04, 0.14) * width
            self.paint([smooth(ellipse(x, y, across, across * rng.uniform(0.3, 0.8)), 1)])

    def far_thing(self, horizon: float) -> None:
        """A hill, a house front, a cloud or a pole."""
        rng, (width, height) = self.rng, self.size
        x = rng.uniform(0, width)
        choice = int(rng.integers(0, 4))
        if choice == 0:
            reach, rise = rng.uniform(0.3, 0.7) * width, rng.uniform(0.1, 0.5) * height
            hill = polygon(
                [x - reach, x - 0.3 * reach, x + reach], [height, horizon - rise, height]
            )
            self.paint([smooth(hill)])
        elif choice == 1:
            wide, high = rng.uniform(0.15, 0.4) * width, rng.uniform(0.3, 0.9) * height
            self.paint([box(x, horizon - high, x + wide, height)])
            pitch = SUPERSAMPLING * rng.uniform(8, 14)
            panes = [
                box(left, top, left + 0.35 * pitch, top + 0.55 * pitch)
                for left in np.arange(x + 0.4 * pitch, x + wide - 0.5 * pitch, pitch)
                for top in np.arange(horizon - high + 0.4 * pitch, horizon, pitch)
            ]
            self.paint(panes)
        elif choice == 2:
            y = rng.uniform(0, horizon)
            puffs = [
                ellipse(
                    x + rng.uniform(-0.15, 0.15) * width,
                    y + rng.uniform(-0.05, 0.05) * height,
                    rng.uniform(0.06, 0.16) * width,
                    rng.uniform(0.03, 0.08) * height,
                )
                for _ in range(5)
            ]
            self.paint(puffs, soft=3.0 * SUPERSAMPLING)
        else:
            thick = SUPERSAMPLING * rng.uniform(1.5, 4)
            self.paint([box(x, rng.uniform(-1, horizon), x + thick, height)])

    def paint(self, shapes: Sequence[Outline], soft: float = 0.0) -> None:
        """Paint polygons with one surface, their outlines blurred by `soft` pixels."""
        cover = _cover(self.size, shapes)
        if soft:
            cover = cover.filter(ImageFilter.GaussianBlur(soft))
        bounds = cover.getbbox()
        if bounds is None:
            return
        width, height = bounds[2] - bounds[0], bounds[3] - bounds[1]
        surface = self.surface(width, height, self.rng.uniform(0, 0.6), 1.0)
        self.canvas.paste(surface, bounds[:2], cover.crop(bounds))

    def add_object(
        self, number: int, kind: Kind, extent: float, centre: Point, light: Point
    ) -> None:
        """Paint an object, and write `number` on the pixels that it covers."""
        parts = kind.draw(self.rng)
        outlines = self.placed([part.outline for part in parts], kind.turn, extent, centre)
        pairs = list(zip(parts, outlines, strict=True))
        cover = _cover(self.size, [outline for part, outline in pairs if not part.inside])
        bounds = cover.getbbox()
        if bounds is None:
            return
        self.shadow(cover, extent, light)
        self.objects.paste(number, (0, 0), cover)
        paints = {
            "body": self.colour(90, 200, dull=0.2, lively=0.9),
            "second": self.colour(70, 220, dull=0.2, lively=0.9),
            "glass": self.colour(25, 190),
            "dark": self.colour(15, 70),
            "light": self.colour(170, 240, lively=0.4),
        }
        below = cover = cover.crop(bounds)
        flat = Image.new("RGB", cover.size)
        for part, outline in pairs:
            colour = tuple(int(min(value * part.shade, 255)) for value in paints[part.paint])
            piece = _cover(cover.size, [outline - np.array(bounds[:2])])
            if part.inside:
                piece = ImageChops.darker(piece, below)
            else:
                below = piece
            if area := piece.getbbox():
                flat.paste(colour, area, piece.crop(area))
        shade = self.shading(cover.size, light)[..., None]
        pixels = np.clip(np.asarray(flat, dtype=np.float32) * shade, 0, 255).astype(np.uint8)
        self.canvas.paste(Image.fromarray(pixels), bounds[:2], cover)

    def placed(
        self, outlines: list[Outline], turn: float, extent: float, centre: Point
    ) -> list[Outline]:
        """Mirror, stretch, shear, turn, scale and shift outlines to their place, in pixels."""
        rng = self.rng
        cosine, sine = direction(rng.uniform(-turn, turn))
        mirror = -1.0 if rng.random() < 0.5 else 1.0
        stretch = rng.uniform(0.85, 1.18)
        shear = rng.uniform(-0.12, 0.12)
        placed = []
        for outline in outlines:
            x, y = outline[:, 0] * mirror * stretch, outline[:, 1] / stretch
            x = x + shear * y
            x, y = x * cosine - y * sine, x * sine + y * cosine
            placed.append(polygon(x * extent + centre[0], y * extent + centre[1]))
        return placed

    def shadow(self, cover: Image.Image, extent: float, light: Point) -> None:
        """Darken the pixels beside an object, away from the light."""
        blur = ImageFilter.GaussianBlur(0.08 * extent / SUPERSAMPLING)
        soft = cover.reduce(SUPERSAMPLING).filter(blur)
        soft = soft.resize(cover.size, Image.Resampling.NEAREST)
        across, down = (round(0.12 * extent * part) for part in light)
        shift = (1, 0, across, 0, 1, down)
        soft = soft.transform(soft.size, Image.Transform.AFFINE, shift, fillcolor=0)
        strength = self.rng.uniform(0.1, 0.6)
        self.canvas.paste((0, 0, 0), (0, 0), soft.point(lambda value: round(value * strength)))

    def shading(self, size: tuple[int, int], light: Point) -> Floats:
        """Brightness over an object's bounds: brighter towards the light, with a grain."""
        rng, (u, v) = self.rng, _unit_grid(*size)
        strength = np.float32(rng.uniform(0.15, 0.4))
        shade = 1 + strength * (np.float32(light[0]) * u + np.float32(light[1]) * v)
        cell = SUPERSAMPLING * rng.uniform(2, 8)
        grain = self.noise(*size, cell, cell)
        return np.asarray(shade * (1 + np.float32(rng.uniform(0.03, 0.16)) * grain), np.float32)

    def photograph(self) -> NDArray[np.uint8]:
        """The picture with blur, exposure, colour cast, light fall-off and noise of a camera."""
        rng, picture = self.rng, self.canvas.reduce(SUPERSAMPLING)
        if rng.random() < 0.5:
            picture = picture.filter(ImageFilter.GaussianBlur(rng.uniform(0.3, 0.8)))
        u, v = _unit_grid(*picture.size)
        slope_x, slope_y = np.float32(rng.uniform(-0.2, 0.2)), np.float32(rng.uniform(-0.2, 0.2))
        fall = np.float32(rng.uniform(0, 0.2))
        field = 1 + slope_x * u + slope_y * v - fall * (u * u + v * v)
        cast = rng.uniform(0.85, 1.15, 3).astype(np.float32) * np.float32(rng.uniform(0.7, 1.2))
        lift = np.float32(rng.uniform(-10, 30))
        shape = (*field.shape, 3)
        noise = rng.integers(-2, 3, shape) + rng.integers(-2, 3, shape)
        pixels = np.asarray(picture, dtype=np.float32) * field[..., None] * cast + lift
        pixels = pixels + noise.astype(np.float32) * np.float32(rng.uniform(0, 1.5))
        return np.clip(pixels, 0, 255).astype(np.uint8)


def _cover(size: tuple[int, int], shapes: Sequence[Outline]) -> Image.Image:
    """The pixels inside polygons, 255 each."""
    cover = Image.new("L", size, 0)
    draw = ImageDraw.Draw(cover)
    for shape in shapes:
        draw.polygon([(float(x), float(y)) for x, y in shape], fill=255)
    return cover


def _unit_grid(width: int, height: int) -> tuple[Floats, Floats]:
    """Coordinates from -1 to 1, float32 (1, W) to the right and (H, 1) down."""
    right, down = (np.linspace(-1, 1, side, dtype=np.float32) for side in (width, height))
    return right[None, :], down[:, None]
