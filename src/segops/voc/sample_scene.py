"""One picture of the generated sample: background, objects, light, camera, and its mask.

Everything random comes from the generator that is handed in. Pixels see sums, products and
Pillow's own filters alone, whose bits no processor changes: the same seed gives the same picture.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageChops, ImageDraw, ImageFilter

from segops.runtime.classes import VOID

from .sample_objects import KINDS, Kind
from .sample_shapes import Outline, Part, box, direction, ellipse, polygon, smooth

SUPERSAMPLING = 3
"""Side of the block of drawn pixels that becomes one pixel of the picture; odd, so that a block
has a middle, which decides what the mask says."""

Floats = NDArray[np.float32]


@dataclass(frozen=True)
class Scene:
    """A picture, and which object every pixel shows.

    Attributes:
        image: uint8 array of shape (H, W, 3), RGB.
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

    Of a border one pixel wide the object in front gives up the pixels; two lie on either side of
    the outline; three, two of them outside.
    """
    picture = Image.fromarray(objects)
    highest = picture.filter(ImageFilter.MaxFilter(3))
    lowest = picture.filter(ImageFilter.MinFilter(3))
    if width == 1:
        highest = picture
    if width == 3:
        highest = highest.filter(ImageFilter.MaxFilter(3))
    edge: NDArray[np.bool_] = np.asarray(highest) != np.asarray(lowest)
    return edge


def draw_scene(rng: np.random.Generator, size: tuple[int, int], first: Kind) -> Scene:
    """Draw a scene with one to three objects.

    Args:
        rng: Where all that is random comes from.
        size: Width and height in pixels.
        first: The kind of one of the objects.
    """
    width, height = size[0] * SUPERSAMPLING, size[1] * SUPERSAMPLING
    light = direction(rng.uniform(200, 340))
    canvas = _background(rng, width, height)
    objects = Image.new("L", (width, height), 0)
    count = int(rng.choice([1, 2, 2, 3, 3]))
    kinds = [first, *(KINDS[int(index)] for index in rng.integers(0, len(KINDS), count - 1))]
    kinds = [kinds[int(index)] for index in rng.permutation(count)]
    centres: list[tuple[float, float]] = []
    for index, kind in enumerate(kinds):
        extent = min(width, height) * rng.uniform(0.26, 0.5) * kind.extent
        centres.append(_place(rng, width, height, extent, centres))
        _paint_object(rng, canvas, objects, index + 1, kind, extent, centres[-1], light)
    middle = SUPERSAMPLING // 2
    return Scene(
        image=_photograph(rng, canvas.reduce(SUPERSAMPLING)),
        objects=np.ascontiguousarray(
            np.asarray(objects)[middle::SUPERSAMPLING, middle::SUPERSAMPLING]
        ),
        class_ids=tuple(kind.class_id for kind in kinds),
        border=int(rng.choice([1, 2, 2, 3])),
    )


def _place(
    rng: np.random.Generator,
    width: int,
    height: int,
    extent: float,
    others: list[tuple[float, float]],
) -> tuple[float, float]:
    """Where an object goes: over another one at times, over the border at times."""
    if others and rng.random() < 0.3:
        turn = direction(rng.uniform(0, 360))
        x, y = others[-1][0] + 1.2 * extent * turn[0], others[-1][1] + extent * turn[1]
        return min(max(x, 0.1 * width), 0.9 * width), min(max(y, 0.12 * height), 0.88 * height)
    places = [(rng.uniform(0.1, 0.9) * width, rng.uniform(0.15, 0.85) * height) for _ in range(4)]

    def room(place: tuple[float, float]) -> float:
        return min(
            ((place[0] - x) * (place[0] - x) + (place[1] - y) * (place[1] - y) for x, y in others),
            default=0.0,
        )

    return max(places, key=room)


def _colour(
    rng: np.random.Generator, low: float, high: float, dull: float = 0.0, lively: float = 0.85
) -> Floats:
    """A colour of any hue; float32 (3,) in 0..255.

    Args:
        rng: Where all that is random comes from.
        low: Least value of the brightest channel.
        high: Largest value of the brightest channel.
        dull: Least saturation, 0 to 1.
        lively: Largest saturation, 0 to 1.
    """
    hue = rng.random(3).astype(np.float32)
    hue = (hue - hue.min()) / (hue.max() - hue.min() + np.float32(0.01))
    saturation = np.float32(rng.uniform(dull, lively))
    value = np.float32(rng.uniform(low, high))
    return np.asarray(value * (1 - saturation * (1 - hue)), dtype=np.float32)


def _noise(rng: np.random.Generator, width: int, height: int, across: float, down: float) -> Floats:
    """Smooth noise with cells of `across` by `down` pixels; float32 (height, width) in -1..1."""
    columns, rows = max(2, round(width / across)), max(2, round(height / down))
    cells = Image.fromarray(rng.integers(0, 256, (rows, columns), dtype=np.uint8))
    values = np.asarray(cells.resize((width, height), Image.Resampling.BICUBIC), dtype=np.float32)
    return values / np.float32(127.5) - 1


def _surface(
    rng: np.random.Generator, width: int, height: int, rough: float, stretch: float
) -> Image.Image:
    """A textured surface, shaded from top to bottom.

    Args:
        rng: Where all that is random comes from.
        width: Pixels.
        height: Pixels.
        rough: Strength of the texture, about 0 to 1.
        stretch: How much wider than high the grains are.
    """
    upper, lower, grain = (_colour(rng, 40, 235, lively=0.5) for _ in range(3))
    lower = np.float32(0.5) * (upper + lower)
    # Grains are no finer than a pixel of the picture: the drawing's resolution is not needed.
    columns, rows = -(-width // SUPERSAMPLING), -(-height // SUPERSAMPLING)
    down = np.linspace(0, 1, rows, dtype=np.float32)[:, None]
    unit = rng.uniform(0.8, 1.3)
    coarse = _noise(rng, columns, rows, 30 * unit * stretch, 30 * unit)
    middle = _noise(rng, columns, rows, 9 * unit * stretch, 9 * unit)
    fine = _noise(rng, columns, rows, 2.5 * unit * stretch, 2.5 * unit)
    mix = np.clip(np.float32(0.5) + np.float32(0.9) * coarse, 0, 1) * np.float32(0.7)
    shade = 1 + np.float32(rough) * (np.float32(0.3) * middle + np.float32(0.35) * fine)
    pixels = np.empty((rows, columns, 3), dtype=np.uint8)
    for channel in range(3):
        plane = upper[channel] + (lower[channel] - upper[channel]) * down
        plane = plane + (grain[channel] - plane) * mix
        pixels[..., channel] = np.clip(plane * shade, 0, 255)
    return Image.fromarray(pixels).resize((width, height), Image.Resampling.NEAREST)


def _background(rng: np.random.Generator, width: int, height: int) -> Image.Image:
    """A far surface, a near one below a horizon, and things that belong to no class."""
    canvas = _surface(rng, width, height, rng.uniform(0.05, 0.4), rng.uniform(1, 3))
    horizon = rng.uniform(0.3, 0.8) * height
    for _ in range(int(rng.integers(0, 3))):
        _paint_far_thing(rng, canvas, horizon)
    if rng.random() < 0.8:
        near = _surface(rng, width, height, rng.uniform(0.1, 0.6), rng.uniform(1, 4))
        slope = rng.uniform(-0.08, 0.08) * height
        edge = polygon((0, horizon - slope), (width, horizon + slope), (width, height), (0, height))
        canvas.paste(near, (0, 0), _cover(canvas.size, [edge]))
    for _ in range(int(rng.integers(0, 3))):
        x, y = rng.uniform(0, width), rng.uniform(horizon, height + 1)
        across = rng.uniform(0.04, 0.14) * width
        stone = smooth(ellipse(x, y, across, across * rng.uniform(0.3, 0.8)), 1)
        _paint_shapes(rng, canvas, [stone])
    return canvas


def _paint_far_thing(rng: np.random.Generator, canvas: Image.Image, horizon: float) -> None:
    """A hill, a house front, a cloud or a pole."""
    width, height = canvas.size
    x = rng.uniform(0, width)
    choice = int(rng.integers(0, 4))
    if choice == 0:
        reach, rise = rng.uniform(0.3, 0.7) * width, rng.uniform(0.1, 0.5) * height
        hill = polygon((x - reach, height), (x - 0.3 * reach, horizon - rise), (x + reach, height))
        _paint_shapes(rng, canvas, [smooth(hill)])
    elif choice == 1:
        wide, high = rng.uniform(0.15, 0.4) * width, rng.uniform(0.3, 0.9) * height
        _paint_shapes(rng, canvas, [box(x, horizon - high, x + wide, height)])
        pitch = SUPERSAMPLING * rng.uniform(8, 14)
        panes = [
            box(left, top, left + 0.35 * pitch, top + 0.55 * pitch)
            for left in np.arange(x + 0.4 * pitch, x + wide - 0.5 * pitch, pitch)
            for top in np.arange(horizon - high + 0.4 * pitch, horizon, pitch)
        ]
        _paint_shapes(rng, canvas, panes)
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
        _paint_shapes(rng, canvas, puffs, soft=3.0 * SUPERSAMPLING)
    else:
        thick = SUPERSAMPLING * rng.uniform(1.5, 4)
        _paint_shapes(rng, canvas, [box(x, rng.uniform(-1, horizon), x + thick, height)])


def _paint_shapes(
    rng: np.random.Generator, canvas: Image.Image, shapes: list[Outline], soft: float = 0.0
) -> None:
    """Paint polygons with one surface, their outlines blurred by `soft` pixels."""
    if not shapes:
        return
    cover = _cover(canvas.size, shapes)
    if soft:
        cover = cover.filter(ImageFilter.GaussianBlur(soft))
    bounds = cover.getbbox()
    if bounds is None:
        return
    surface = _surface(rng, bounds[2] - bounds[0], bounds[3] - bounds[1], rng.uniform(0, 0.6), 1.0)
    canvas.paste(surface, bounds[:2], cover.crop(bounds))


def _cover(size: tuple[int, int], shapes: list[Outline]) -> Image.Image:
    cover = Image.new("L", size, 0)
    draw = ImageDraw.Draw(cover)
    for shape in shapes:
        draw.polygon([(float(x), float(y)) for x, y in shape], fill=255)
    return cover


def _paint_object(
    rng: np.random.Generator,
    canvas: Image.Image,
    objects: Image.Image,
    number: int,
    kind: Kind,
    extent: float,
    centre: tuple[float, float],
    light: tuple[float, float],
) -> None:
    """Paint an object on `canvas` and write `number` on the pixels of `objects` that it covers."""
    parts = _transform(rng, kind, kind.draw(rng), extent, centre)
    cover = _cover(canvas.size, [part.outline for part in parts if not part.inside])
    bounds = cover.getbbox()
    if bounds is None:
        return
    _paint_shadow(rng, canvas, cover, extent, light)
    objects.paste(number, (0, 0), cover)
    paints = {
        "body": _colour(rng, 90, 200, dull=0.2, lively=0.9),
        "second": _colour(rng, 70, 220, dull=0.2, lively=0.9),
        "glass": _colour(rng, 25, 190),
        "dark": _colour(rng, 15, 70),
        "light": _colour(rng, 170, 240, lively=0.4),
    }
    cover = cover.crop(bounds)
    flat = Image.new("RGB", cover.size)
    below = cover
    for part in parts:
        colour = tuple(int(min(value * part.shade, 255)) for value in paints[part.paint])
        piece = _cover(cover.size, [part.outline - np.array(bounds[:2])])
        if part.inside:
            piece = ImageChops.darker(piece, below)
        else:
            below = piece
        inner = piece.getbbox()
        if inner is not None:
            flat.paste(colour, inner, piece.crop(inner))
    shade = _shading(rng, cover.size, light)[..., None]
    pixels = np.clip(np.asarray(flat, dtype=np.float32) * shade, 0, 255).astype(np.uint8)
    canvas.paste(Image.fromarray(pixels), bounds[:2], cover)


def _transform(
    rng: np.random.Generator,
    kind: Kind,
    parts: list[Part],
    extent: float,
    centre: tuple[float, float],
) -> list[Part]:
    """Mirror, stretch, shear, turn, scale and shift an object to where it lies, in pixels."""
    cosine, sine = direction(rng.uniform(-kind.turn, kind.turn))
    mirror = -1.0 if rng.random() < 0.5 else 1.0
    stretch = rng.uniform(0.85, 1.18)
    shear = rng.uniform(-0.12, 0.12)
    placed = []
    for part in parts:
        x, y = part.outline[:, 0] * mirror * stretch, part.outline[:, 1] / stretch
        x = x + shear * y
        x, y = x * cosine - y * sine, x * sine + y * cosine
        outline = np.stack([x * extent + centre[0], y * extent + centre[1]], axis=1)
        placed.append(replace(part, outline=outline))
    return placed


def _paint_shadow(
    rng: np.random.Generator,
    canvas: Image.Image,
    cover: Image.Image,
    extent: float,
    light: tuple[float, float],
) -> None:
    """Darken what lies beside an object, away from the light."""
    soft = cover.reduce(SUPERSAMPLING).filter(
        ImageFilter.GaussianBlur(0.08 * extent / SUPERSAMPLING)
    )
    soft = soft.resize(cover.size, Image.Resampling.NEAREST)
    shift = round(0.12 * extent * light[0]), round(0.12 * extent * light[1])
    soft = soft.transform(
        soft.size, Image.Transform.AFFINE, (1, 0, shift[0], 0, 1, shift[1]), fillcolor=0
    )
    strength = rng.uniform(0.1, 0.6)
    canvas.paste((0, 0, 0), (0, 0), soft.point(lambda value: round(value * strength)))


def _shading(rng: np.random.Generator, size: tuple[int, int], light: tuple[float, float]) -> Floats:
    """Brightness over an object's bounds: brighter towards the light, with a grain."""
    width, height = size
    u = np.linspace(-1, 1, width, dtype=np.float32)[None, :]
    v = np.linspace(-1, 1, height, dtype=np.float32)[:, None]
    strength = np.float32(rng.uniform(0.15, 0.4))
    shade = 1 + strength * (np.float32(light[0]) * u + np.float32(light[1]) * v)
    cell = SUPERSAMPLING * rng.uniform(2, 8)
    grain = _noise(rng, width, height, cell, cell)
    return np.asarray(shade * (1 + np.float32(rng.uniform(0.03, 0.16)) * grain), dtype=np.float32)


def _photograph(rng: np.random.Generator, picture: Image.Image) -> NDArray[np.uint8]:
    """What a camera makes of it: blur, exposure, colour cast, light fall-off and noise."""
    if rng.random() < 0.5:
        picture = picture.filter(ImageFilter.GaussianBlur(rng.uniform(0.3, 0.8)))
    pixels = np.asarray(picture, dtype=np.float32)
    height, width = pixels.shape[:2]
    u = np.linspace(-1, 1, width, dtype=np.float32)[None, :]
    v = np.linspace(-1, 1, height, dtype=np.float32)[:, None]
    slope_x, slope_y = np.float32(rng.uniform(-0.2, 0.2)), np.float32(rng.uniform(-0.2, 0.2))
    fall = np.float32(rng.uniform(0, 0.2))
    field = 1 + slope_x * u + slope_y * v - fall * (u * u + v * v)
    cast = rng.uniform(0.85, 1.15, 3).astype(np.float32) * np.float32(rng.uniform(0.7, 1.2))
    lift = np.float32(rng.uniform(-10, 30))
    noise = rng.integers(-2, 3, pixels.shape) + rng.integers(-2, 3, pixels.shape)
    pixels = pixels * field[..., None] * cast + lift
    pixels = pixels + noise.astype(np.float32) * np.float32(rng.uniform(0, 1.5))
    return np.clip(pixels, 0, 255).astype(np.uint8)
