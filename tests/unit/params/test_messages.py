"""Wrong values of every kind for every parameter: what is said names the key, in words."""

from __future__ import annotations

import math
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from segops.params.base import Sections
from segops.params.data import DataParams
from segops.params.file import Params, parse_params
from segops.runtime.errors import SegopsError

WRONG: tuple[Any, ...] = (
    None, 3, -1, 2.5, "x", "", [], [1], ["x"], [[1]], [1, "x", None], {}, {"a": 1}, {1: 1}, True,
    math.inf, -math.inf, math.nan, 2**70,
)  # fmt: skip
A_CLASS = "expected a name, or a mapping with name and ids"
FOREIGN = re.compile(
    r"tuple\[|literal\[|Input should|constrained|function-|\[type=|\[key\]|Params\b|nullable"
    r"|None\b|True\b|False\b|valid (?:string|number|integer|dictionary|boolean)|Field required"
)
"""What pydantic and Python say, and people do not."""


def keys(model: Any = Params, before: str = "") -> Iterator[str]:
    """The dotted key of every section and of every parameter."""
    for name, field in model.model_fields.items():
        key = f"{before}{field.alias or name}"
        yield key
        if hasattr(field.annotation, "model_fields"):
            yield from keys(field.annotation, f"{key}.")


def said(key: str, value: Any) -> list[str]:
    """The lines about a parameter with a value; none where the value is taken."""
    *parents, last = key.split(".")
    tree: dict[str, Any] = {}
    place = tree
    for name in parents:
        place = place.setdefault(name, {})
    place[last] = value
    try:
        parse_params(tree)
    except SegopsError as error:
        first, *lines = str(error).splitlines()
        assert re.fullmatch(r"params\.yaml: (1 parameter is|\d+ parameters are) not usable:", first)
        return lines
    return []


@pytest.mark.parametrize("key", list(keys()))
def test_every_wrong_value_is_told_in_words_and_once(key: str) -> None:
    refused = 0
    for value in WRONG:
        lines = said(key, value)
        refused += bool(lines)
        for line in lines:
            assert not FOREIGN.search(line), (value, line)
            assert len(line) < 1200, line
        named = [line.split(": ")[0].strip() for line in lines]
        assert len(set(named)) == len(named), (value, lines)
        if lines and not isinstance(value, dict):
            # A check over several parameters stands under their section.
            assert key.startswith(named[0]) or key in lines[0], lines
    assert refused


@pytest.mark.parametrize(
    ("key", "value", "expected"),
    [
        (
            "data.classes",
            3,
            "expected voc, or a list of names and of mappings with name and ids (found 3)",
        ),
        ("data.classes", ["a", 3], f"entry 2: {A_CLASS} (found 3)"),
        (
            "data.classes",
            ["a", 3, None],
            f"entry 2: {A_CLASS} (found 3); entry 3: {A_CLASS} (found null)",
        ),
        (
            "data.classes",
            ["a", {"name": "b", "ids": [255]}],
            "entry 2: ids: entry 1: expected a whole number from 0 to 254: 255 means void; "
            "`segops data import folder` with --values makes a class of it (found 255)",
        ),
        (
            "data.classes",
            ["a", {"name": "b", "ids": []}],
            "entry 2: ids: expected a list of 1 or more whole numbers from 0 to 254 (found [])",
        ),
        (
            "data.classes",
            ["a", {"ids": [2]}],
            "entry 2: name: missing; expected text",
        ),
        ("data.ignore", [3, "x"], "entry 2: expected a whole number from 0 to 254 (found 'x')"),
        (
            "data.colors.person",
            "#12345",
            "expected a colour: '#rrggbb', or [red, green, blue] from 0 to 255 (found '#12345')",
        ),
        ("train.lr", "fast", "expected a number above 0 (found 'fast')"),
        ("train.lr", math.nan, "expected a number above 0 (found nan)"),
        ("train.epochs", 2.5, "expected a whole number of at least 1 (found 2.5)"),
        ("train.epochs", None, "expected a whole number of at least 1 (found null)"),
        ("train.compile", "x", "expected true or false (found 'x')"),
        ("train.optimizer", "lion", "expected sgd, adam or adamw (found 'lion')"),
        ("train.devices", "x", "expected a whole number of at least 1 or auto (found 'x')"),
        (
            "train.class_weights",
            3,
            "expected median_frequency, effective_number, a list of numbers of at least 0 or null "
            "(found 3)",
        ),
        ("train.class_weights", [1, -1], "entry 2: expected a number of at least 0 (found -1)"),
        (
            "train.loss",
            64,
            "expected names of losses joined by +, or a list of mappings with name, weight and "
            "options (found 64)",
        ),
        (
            "augment.crop",
            64,
            "expected a list of 2 whole numbers of at least 1, as in [512, 512] (found 64)",
        ),
        ("augment.crop", [64], "entry 2: missing; expected a whole number of at least 1"),
        ("augment.scale.range", [2, 1], "expected the smaller number first (found [2, 1])"),
        ("gate.min_class_iou.cat", 2, "expected a number from 0 to 1 (found 2)"),
        ("gate", 3, "expected a mapping with min_miou, min_class_iou, min_boundary_iou"),
        ("registry.model", "a b", "expected text of the form ^[A-Za-z0-9._-]+$ (found 'a b')"),
        (
            "registry.model",
            "a-ledger",
            "expected a name that does not end with -ledger: a-ledger is the ledger of the model a "
            "(found 'a-ledger')",
        ),
        ("registry.experiment", "", "expected text of 1 or more characters (found '')"),
        ("model.output_stride", 4, "expected 8, 16, 32 or null (found 4)"),
        ("model.dropout", "x", "expected a number of at least 0 and below 1 or null (found 'x')"),
    ],
)
def test_what_a_parameter_takes_is_said_in_words(key: str, value: Any, expected: str) -> None:
    (line,) = said(key, value)
    assert line.startswith(f"  {key}: {expected}")


def test_a_stage_that_reads_its_sections_alone_says_the_same(tmp_path: Path) -> None:
    class Read(Sections):
        data: DataParams

    path = tmp_path / "params.yaml"
    path.write_text("data: {classes: [a, 3]}\n")
    with pytest.raises(SegopsError) as caught:
        Read.read(path)
    assert str(caught.value) == (
        f"{path}: 1 parameter is not usable:\n  data.classes: entry 2: {A_CLASS} (found 3)"
    )
