"""Where a run works, and what a run from outside may ask for."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from segops.operate.place import Wanted, chosen, require_allowed
from segops.runtime.errors import SegopsError


@pytest.mark.parametrize(
    "overrides",
    [
        {"data.path": "/etc"},
        {"data": {"path": "/etc"}},
        {"gate.min_miou": 0.0},
        {"gate": {}},
        {"gate.min_boundary_iou": None},
        {"registry.model": "other"},
        {"validate.min_train_images": 1},
        {"model.start_from": "/home/somebody/model"},
        {"model.encoder_weights": "../weights.safetensors"},
        {"model": {"encoder_weights": "../weights.safetensors"}},
        {"model.encoder_weights": "imagenet/../weights.safetensors"},
        {"model.encoder_weights": "imagenet.pth"},
        {"train.teacher": "/home/somebody/model"},
        {"train": {"teacher": None}},
    ],
)
def test_a_run_from_outside_chooses_no_file_and_weakens_no_gate(overrides: dict[str, Any]) -> None:
    with pytest.raises(SegopsError, match="takes this from its commit"):
        require_allowed(overrides)


def test_a_run_from_outside_may_train_otherwise() -> None:
    require_allowed(
        {
            "train.lr": 0.01,
            "augment.hflip": 0.5,
            "model.start_from": "models:/segops@champion",
            "model.encoder_weights": None,
            "train.teacher": "models:/segops/3",
            "data.max_pixels": 1000,
        }
    )
    require_allowed({"model.encoder_weights": "imagenet"})


def test_parameters_and_revisions_belong_to_a_worktree(tmp_path: Path) -> None:
    for wanted in (Wanted(revision="HEAD"), Wanted(overrides={"train.lr": 1}, isolated=False)):
        with (
            pytest.raises(SegopsError, match="belong to a run in a worktree"),
            chosen(tmp_path, "x", wanted, print),
        ):
            pass


def test_outside_git_a_deployment_runs_in_place(tmp_path: Path) -> None:
    said: list[str] = []
    with chosen(tmp_path, "x", Wanted(deployed=True), said.append) as place:
        assert (place.root, place.name) == (tmp_path, None)
    assert said == ["No commit of git is here: the run works in the workspace itself."]
