"""Classes as a bundle's ``model.json`` says them."""

from __future__ import annotations

from typing import Any

import pytest

from segops.runtime.classes import Classes, palette
from segops.runtime.errors import SegopsError

NAMES = ["sky", "road", "car"]


def test_what_is_written_is_read() -> None:
    for background in (None, 0, 2):
        classes = Classes(tuple(NAMES), background, ((1, 2, 3), (0, 0, 255)))
        assert Classes.of_model({"class_names": NAMES, **classes.to_model()}) == classes
        table = classes.palette()
        assert table[:2].tolist() == [[1, 2, 3], [0, 0, 255]]
        assert (table[2:] == palette()[2:]).all()


def test_a_bundle_of_an_older_release_has_vocs_colours_and_its_first_class_for_background() -> None:
    classes = Classes.of_model({"class_names": NAMES})
    assert (classes.background, classes.background_name) == (0, "sky")
    assert (classes.palette() == palette()).all()


@pytest.mark.parametrize(
    ("model", "words"),
    [
        ({"background": "sea"}, "background is 'sea'; expected null or one of sky, road, car"),
        ({"background": ["sky"]}, "background is"),
        ({"colors": ["#00000g"]}, "colors: .*expected '#rrggbb' each"),
        ({"colors": [7]}, "colors: .*expected '#rrggbb' each"),
        ({"colors": None}, "colors: .*expected '#rrggbb' each"),
        ({"colors": ["#000000"] * 4}, "colors: expected at most 3"),
        ({"colors": ["#0000"]}, "colors: expected at most 3, '#rrggbb' each"),
    ],
)
def test_what_is_no_class_or_colour_is_refused(model: dict[str, Any], words: str) -> None:
    with pytest.raises(SegopsError, match=words):
        Classes.of_model({"class_names": NAMES, **model})
