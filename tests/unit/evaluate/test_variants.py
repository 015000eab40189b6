"""Ways of predicting: which are tried on which images."""

from __future__ import annotations

from typing import Any

import pytest

from segops.evaluate.variants import OWN, variants
from segops.runtime.predict_settings import PredictSettings

NAMES = ["plain", "windows", "flip", "multi-scale", "flip and multi-scale", "CRF", OWN]


def described(own: dict[str, Any], sizes: list[tuple[int, int]]) -> dict[str, str]:
    found = variants(own, sizes)
    assert [one.name for one in found] == NAMES
    for one in found:
        PredictSettings.model_validate(dict(one.settings))
    return {one.name: one.description for one in found}


def test_a_model_with_settings_of_old_is_tried_with_sensible_ones() -> None:
    assert described({}, [(375, 500)] * 3) == {
        "plain": "whole",
        "windows": "windows 256 x 320, overlap 0.5",
        "flip": "whole, flip",
        "multi-scale": "whole, scales 0.75 1 1.25",
        "flip and multi-scale": "whole, flip, scales 0.75 1 1.25",
        "CRF": "whole, CRF 5 iterations",
        OWN: "whole",
    }


def test_the_models_own_settings_lead() -> None:
    own = {
        "mode": "window",
        "window": [128, 192],
        "overlap": 0.25,
        "flip": True,
        "scales": [0.5, 1.0],
        "crf": {"iterations": 3, "color_sigma": 7.0},
    }
    found = described(own, [(375, 500)])
    assert found["plain"] == "whole"
    assert found["windows"] == "windows 128 x 192, overlap 0.25"
    assert found["multi-scale"] == "whole, scales 0.5 1"
    assert found["CRF"] == "whole, CRF 3 iterations"
    assert found[OWN] == ("windows 128 x 192, overlap 0.25, flip, scales 0.5 1, CRF 3 iterations")
    crf = variants(own, [(375, 500)])[5].settings["crf"]
    assert (crf["color_sigma"], crf["gaussian_sigma"]) == (7.0, 3.0)


def test_images_too_large_for_memory_are_never_predicted_whole() -> None:
    found = variants({"window": [512, 512], "whole_pixels": 1000}, [(40, 20), (9000, 12000)])
    assert {one.settings["mode"] for one in found} == {"auto", "window"}
    assert "whole to 1,000 pixels, else windows" in found[0].description


@pytest.mark.parametrize(
    ("sizes", "window"),
    [
        ([(128, 160)] * 2, "96 x 96"),
        ([(8, 8)], "32 x 32"),
        ([(600, 700)], "512 x 512"),
        ([(375, 700)], "256 x 512"),
    ],
)
def test_windows_are_smaller_than_the_usual_image(sizes: Any, window: str) -> None:
    assert described({}, sizes)["windows"] == f"windows {window}, overlap 0.5"
