"""The pictures of the evaluation page: layers, budget, what the script is given."""

from __future__ import annotations

import base64
import json
from io import BytesIO

import numpy as np
import pytest
from PIL import Image, ImageColor

from segops.metrics.wrong_pixels import KINDS as KIND_NAMES
from segops.params.colors import VOID_LIGHT
from segops.report.gallery import (
    HEAT_SIDE,
    SIDE,
    VOID_ALPHA,
    gallery,
    heat_layer,
    kind_layer,
    mask_layer,
    photo,
)
from segops.report.overlay import ERROR_KINDS
from segops.runtime.classes import Classes, palette
from tests.support.evaluations import NAMES, pictures_of


def decoded(text: str) -> Image.Image:
    return Image.open(BytesIO(base64.b64decode(text)))


def pixels(text: str) -> np.ndarray:
    return np.asarray(decoded(text).convert("RGBA"))


def test_kinds_are_those_that_are_counted() -> None:
    assert tuple(kind.name for kind in ERROR_KINDS) == KIND_NAMES
    assert len({kind.colour for kind in ERROR_KINDS}) == len(ERROR_KINDS)


def test_photographs_are_made_small_and_never_large() -> None:
    wide = decoded(photo(np.zeros((300, 1200, 3), dtype=np.uint8)))
    assert (wide.format, wide.size) == ("JPEG", (SIDE, 100))
    assert decoded(photo(np.zeros((7, 5, 3), dtype=np.uint8))).size == (5, 7)
    assert decoded(photo(np.zeros((1, 5000, 3), dtype=np.uint8))).size == (SIDE, 1)


def test_a_mask_lets_background_through_and_keeps_its_colours() -> None:
    mask = np.zeros((40, 60), dtype=np.uint8)
    mask[10:30, 20:50] = 15
    mask[0] = 255
    layer = decoded(mask_layer(mask))
    assert (layer.format, layer.mode) == ("PNG", "P")
    shown = pixels(mask_layer(mask))
    assert shown[5, 5, 3] == 0
    assert shown[20, 35].tolist() == [*palette()[15], 255]
    assert shown[10, 35].tolist() == [*(palette()[15] // 2 + 127), 255]
    assert shown[0, 5].tolist() == [*VOID_LIGHT, VOID_ALPHA]


@pytest.mark.parametrize("void", [False, True])
def test_a_mask_of_every_id_keeps_every_colour(void: bool) -> None:
    mask = np.repeat(np.arange(256 if void else 255, dtype=np.uint8), 64).reshape(-1, 64)
    shown = pixels(mask_layer(mask))
    assert (shown[:255, 5, :3] == palette()[:255]).all()
    assert (shown[1:255, 5, 3] == 255).all()


def test_large_masks_are_scaled_by_nearest_neighbour() -> None:
    mask = np.random.default_rng(0).integers(1, 4, (900, 1300)).astype(np.uint8)
    shown = pixels(mask_layer(mask))
    assert max(shown.shape) == SIDE
    colours = {tuple(one) for one in shown.reshape(-1, 4).tolist()}
    allowed = [*palette()[1:4].tolist(), *(palette()[1:4] // 2 + 127).tolist()]
    assert colours <= {(*one, 255) for one in allowed}


def test_each_kind_of_error_has_its_colour() -> None:
    kinds = np.array([[0, 1, 2, 3, 4]], dtype=np.uint8)
    shown = pixels(kind_layer(kinds))[0]
    assert shown[0, 3] == 0
    assert shown[1:].tolist() == [[*ImageColor.getrgb(kind.colour), 255] for kind in ERROR_KINDS]


def test_an_activation_is_clear_where_weak_and_bright_where_strong() -> None:
    ramp = np.tile(np.arange(256, dtype=np.uint8), (256, 1))
    shown = pixels(heat_layer(ramp)).astype(int)
    assert shown.shape == (HEAT_SIDE, HEAT_SIDE, 4)
    assert shown[5, 0, 3] == 0
    assert shown[5, -1, 3] == 255
    lightness = shown[5, :, :3] @ np.array([0.2126, 0.7152, 0.0722])
    assert (np.diff(lightness) >= -0.5).all()


def test_entries_hold_what_the_script_asks_for() -> None:
    shown = gallery(pictures_of(), Classes(NAMES), 10**6)
    entries = json.loads(shown.data)
    assert [one["id"] for one in entries] == ["image0", "image1", "image2"]
    assert entries[1]["errors"] == [["cat", "missed", 225], ["dog", "false alarm", 10]]
    assert entries[1]["classes"] == ["ground", "cat", "dog"]
    assert entries[1]["pixels"] == 30 * 40 - 15
    assert (entries[0]["score"], entries[0]["confidence"]) == (0.5, 0.9)
    assert entries[2]["confidence"] is None
    assert ["activation" in one for one in entries] == [False, True, False]
    assert [entry["name"] for entry in shown.colours] == ["ground", "cat", "dog", "void"]
    assert (shown.total, shown.shown, shown.explained) == (3, 3, True)


def test_the_budget_is_kept_and_the_last_are_left_out() -> None:
    whole = gallery(pictures_of(6), Classes(NAMES), 10**6)
    for room in (len(whole.data), len(whole.data) - 1, len(whole.data) // 2, 10, 0):
        some = gallery(iter(pictures_of(6)), Classes(NAMES), room)
        assert some.total == 6
        assert len(some.data) <= max(room, 2)
        ids = [one["id"] for one in json.loads(some.data)]
        assert ids == [f"image{index}" for index in range(some.shown)]
        assert some.explained == (some.shown > 1)
    assert whole.shown == 6
    assert gallery(pictures_of(6), Classes(NAMES), len(whole.data) // 2).shown in (2, 3)


def test_ids_cannot_end_the_script() -> None:
    picture = pictures_of(1)[0]
    object.__setattr__(picture, "image_id", "</script><img>")
    data = gallery([picture], Classes(NAMES), 10**6).data
    assert "<" not in data
    assert json.loads(data)[0]["id"] == "</script><img>"
