"""Which exports a decision offers: within every bound, and never where a figure is missing."""

from __future__ import annotations

import math
from typing import Any

import pytest

from segops.params.gate import ExportGate
from segops.release.exports import (
    EXPORTS,
    decided,
    quickest,
    refusals,
    require_offered,
    rows,
    sentence,
    sentences,
    timeless,
)
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
TORCH = {"miou": 0.705, "mib": 6.0, "milliseconds_p50": 30.0, "milliseconds_p95": 40.0, "size": [1]}
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
    found = decided({"onnx": SOUND, "onnx-int8": SOUND | changed}, ExportGate(**policy), TORCH)
    assert found["onnx-int8"]["offered"] is False
    assert said in sentence("onnx-int8", found["onnx-int8"])
    with pytest.raises(SegopsError, match="onnx-int8 is not offered"):
        require_offered(found, "onnx-int8", "segops version 3")


def test_an_offered_export_is_found_by_its_form() -> None:
    details = {EXPORTS: decided({"onnx": SOUND}, ExportGate(), TORCH)}
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

    def details(p95: float, **model: float) -> dict[str, Any]:
        exports = {"onnx": SOUND | {"milliseconds_p95": p95}}
        return timeless({"policy": {}, EXPORTS: decided(exports, policy, TORCH | model)})

    first = details(20.0)
    times = {"milliseconds_p50": 1.0, "milliseconds_p95": 2.0, "peak_mib": 3.0}
    assert first == details(21.0) == details(20.0, **times) != details(9.0)
    old = {"onnx": {key: one for key, one in first[EXPORTS]["onnx"].items() if key != "model"}}
    assert timeless({"policy": {}, EXPORTS: old}) == first
    assert timeless({"policy": {}}) == timeless({"policy": {}, EXPORTS: {}})


def test_the_figures_of_the_model_stand_beside_those_of_its_exports() -> None:
    broken = {"digest": "cd" * 32, "quantize": "int8", "error": "it does not run"}
    found = decided({"onnx-int8": broken, "onnx": SOUND}, ExportGate(), TORCH)
    model = {
        "miou": 0.705, "boundary_iou": None, "mib": 6.0, "milliseconds_p50": 30.0,
        "milliseconds_p95": 40.0, "peak_mib": None,
    }  # fmt: skip
    assert found["onnx"]["model"] == found["onnx-int8"]["model"] == model
    table = rows(found)
    assert [one["name"] for one in table] == ["torch", "onnx", "onnx-int8"]
    assert [one["milliseconds_p95"] for one in table] == [40.0, 20.0, None]
    assert [one["miou_difference"] for one in table] == [None, -0.005, None]
    own = "torch is the model itself: mIoU 0.705, 6.0 MiB, 40.0 ms an image (95th percentile, CPU)."
    assert sentences(found)[0] == own
    assert sentences(decided({"onnx": SOUND}, ExportGate(), {}))[0].endswith(": not measured.")


def test_a_decision_of_an_earlier_segops_has_no_row_of_the_model() -> None:
    old = {"onnx": SOUND | {"offered": True, "reasons": []}}
    assert [one["name"] for one in rows(old)] == ["onnx"]
    (text,) = sentences(old)
    assert text.startswith("onnx is offered: mIoU 0.700")
    assert timeless({EXPORTS: old})[EXPORTS]["onnx"]["mib"] == 5.0


BOTH = ("onnx", "onnx-int8")


@pytest.mark.parametrize(
    ("int8", "own", "usable", "expected", "said"),
    [
        (9.0, 30.0, BOTH, "onnx-int8", "onnx-int8 takes 9.0 ms an image, torch 30.0 ms"),
        (9.0, 30.0, ("onnx",), "onnx", "onnx takes 12.0 ms an image, torch 30.0 ms"),
        (12.0, 30.0, BOTH, "onnx", "onnx takes 12.0 ms"),
        (9.0, 8.0, BOTH, "torch", "onnx-int8 takes 9.0 ms an image, torch 8.0 ms"),
        (9.0, 9.0, BOTH, "torch", "onnx-int8 takes 9.0 ms an image, torch 9.0 ms"),
        (9.0, None, BOTH, "torch", "no time of it beside torch"),
        (None, 30.0, ("onnx-int8",), "torch", "no library here runs onnx or onnx-int8"),
        (9.0, 30.0, (), "torch", "no library here runs onnx or onnx-int8"),
    ],
)
def test_the_quickest_of_what_is_offered_and_installed(
    int8: float | None, own: float | None, usable: tuple[str, ...], expected: str, said: str
) -> None:
    exports = {
        "onnx": SOUND | {"milliseconds_p50": 12.0},
        "onnx-int8": SOUND | {"milliseconds_p50": int8},
    }
    exports = {name: one | {"torch_milliseconds_p50": own} for name, one in exports.items()}
    found = decided(exports, ExportGate(), TORCH)
    runtime, why = quickest(found, usable)
    assert runtime == expected
    assert said in why


def test_what_is_not_offered_is_not_chosen_however_quick() -> None:
    times = {"milliseconds_p50": 1.0, "torch_milliseconds_p50": 30.0}
    exports = {"onnx": SOUND | times | {"miou_difference": -0.5}}
    runtime, why = quickest(decided(exports, ExportGate(), TORCH), BOTH)
    assert (runtime, why) == ("torch", "the gate offers no export of it")
    assert quickest({}, BOTH) == (runtime, why)


def test_a_decision_without_the_figures_of_the_model_chooses_torch() -> None:
    old = {"onnx": SOUND | {"milliseconds_p50": 1.0, "offered": True, "reasons": []}}
    runtime, why = quickest(old, BOTH)
    assert (runtime, "no time of it beside torch" in why) == ("torch", True)


def test_each_export_is_compared_with_torch_at_its_own_moment() -> None:
    exports = {
        "onnx": SOUND | {"milliseconds_p50": 20.0, "torch_milliseconds_p50": 60.0},
        "openvino": SOUND | {"milliseconds_p50": 15.0, "torch_milliseconds_p50": 30.0},
    }
    assert quickest(decided(exports, ExportGate(), TORCH), tuple(exports))[0] == "onnx"
