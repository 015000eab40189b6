"""Which exports a decision offers: within every bound, and never where a figure is missing."""

from __future__ import annotations

import math
from typing import Any

import pytest

from segops.params.gate import ExportGate
from segops.release.exports import EXPORTS, decided, refusals, require_offered, sentence, timeless
from segops.runtime.errors import SegopsError

SOUND: dict[str, Any] = {
    "digest": "ab" * 32,
    "quantize": None,
    "error": None,
    "miou": 0.7,
    "miou_difference": -0.005,
    "worst_class": "cat",
    "worst_class_difference": -0.04,
    "differing_pixels": 0.001,
    "mib": 5.0,
    "milliseconds_p95": 20.0,
}
UNBOUNDED = {"max_miou_loss": None, "max_class_loss": None, "max_differing_pixels": None}


@pytest.mark.parametrize(
    ("changed", "policy", "said"),
    [
        ({"miou_difference": -0.02}, {}, "loses 0.0200 of mIoU; at most 0.01"),
        ({"worst_class_difference": -0.2}, {}, "class cat loses 0.2000 of IoU; at most 0.05"),
        ({}, {"max_mib": 4}, "it has 5.000 MiB; at most 4"),
        ({}, {"max_milliseconds": 10}, "an image takes 20.0 ms"),
        ({"differing_pixels": 0.0231}, {}, "2.310% of the pixels otherwise than the model; at"),
        ({"mib": None}, {"max_mib": 9}, "gate.export.max_mib was not measured"),
        ({"miou_difference": None}, {}, "it was not compared with the model"),
        ({"miou_difference": math.nan}, UNBOUNDED, "it was not compared with the model"),
        ({"differing_pixels": None}, UNBOUNDED, "it was not compared with the model"),
        ({"error": "a batch of 2"}, {}, "it is broken: a batch of 2"),
    ],
)
def test_what_is_beyond_a_bound_or_unknown_is_not_offered(
    changed: dict[str, Any], policy: dict[str, Any], said: str
) -> None:
    assert refusals(SOUND, ExportGate()) == []
    (reason,) = refusals(SOUND | changed, ExportGate(**policy))
    assert said in reason
    found = decided({"onnx": SOUND, "onnx-int8": SOUND | changed}, ExportGate(**policy))
    assert found["onnx-int8"]["offered"] is False
    assert said in sentence("onnx-int8", found["onnx-int8"])
    with pytest.raises(SegopsError, match="onnx-int8 is not offered"):
        require_offered(found, "onnx-int8", "segops version 3")


def test_an_offered_export_is_found_by_its_form() -> None:
    details = {EXPORTS: decided({"onnx": SOUND}, ExportGate())}
    assert require_offered(details[EXPORTS], "onnx", "segops version 3") == SOUND["digest"]
    assert "onnx is offered: mIoU 0.700 (-0.0050" in sentence("onnx", details[EXPORTS]["onnx"])
    with pytest.raises(SegopsError, match=r"without an export openvino \(it has: onnx\)"):
        require_offered(details[EXPORTS], "openvino", "segops version 3")
    with pytest.raises(SegopsError, match=r"it has: none"):
        require_offered({}, "onnx", "segops version 3")


def test_int8_may_differ_in_more_pixels() -> None:
    assert refusals(SOUND | {"quantize": "int8", "differing_pixels": 0.04}, ExportGate()) == []


def test_an_export_without_a_figure_is_not_offered() -> None:
    assert refusals({}, ExportGate(**UNBOUNDED)) == ["it was not compared with the model"]


def test_the_time_of_an_image_makes_no_other_decision() -> None:
    policy = ExportGate(max_milliseconds=10)
    first, again, faster = (
        {"policy": {}, EXPORTS: decided({"onnx": SOUND | {"milliseconds_p95": one}}, policy)}
        for one in (20.0, 21.0, 9.0)
    )
    assert timeless(first) == timeless(again) != timeless(faster)
    assert timeless({"policy": {}}) == timeless({"policy": {}, EXPORTS: {}})
