"""Section `export`: what is refused when parameters are read."""

from __future__ import annotations

from typing import Any

import pytest

from segops.params import compatibility
from segops.params.file import parse_params
from segops.runtime.errors import SegopsError


def test_nothing_is_exported_unless_asked_for() -> None:
    assert parse_params({}).export.formats == ()
    assert parse_params({}).export.quantize is None


@pytest.mark.parametrize(
    ("tree", "said"),
    [
        ({"export": {"formats": ["tflite"]}}, "tflite"),
        ({"export": {"formats": ["onnx", "onnx"]}}, "each format once"),
        ({"export": {"quantize": "int4"}}, "int4"),
        ({"export": {"calibration_images": 0}}, "calibration_images"),
        (
            {"export": {"formats": ["onnx"]}, "predict": {"crf": {"iterations": 5}}},
            r"predict\.crf\.iterations is 5",
        ),
    ],
)
def test_what_cannot_be_is_refused_by_name(tree: dict[str, Any], said: str) -> None:
    with pytest.raises(SegopsError, match=said):
        parse_params(tree)


def test_an_architecture_of_the_table_is_refused_with_its_reason(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setitem(compatibility.NOT_EXPORTED, "unet", "it looks twice")
    tree: dict[str, Any] = {"model": {"architecture": "unet"}}
    parse_params(tree)
    with pytest.raises(SegopsError, match=r"unet cannot be exported: it looks twice"):
        parse_params(tree | {"export": {"formats": ["onnx"]}})
