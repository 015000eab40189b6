"""Parameters that change while a stage runs."""

from __future__ import annotations

from pathlib import Path

import pytest

from segops.params.constant import constant_params
from segops.runtime.errors import SegopsError

GRAPH = "stages: {code: {cmd: a}, train: {cmd: b, params: [augment.copy_paste, train]}}\n"


@pytest.mark.parametrize(
    ("stage", "text", "reason"),
    [
        ("train", "train: {lr: 0.2}", "train.lr from 0.1 to 0.2. The result is of the old"),
        ("train", "augment: {copy_paste: {p: 0.5}}", "augment.copy_paste.p from 0.0 to 0.5"),
        ("train", "train: {lr: ", "not readable as YAML"),
        ("train", "train: {lr: 0.1, schedule: poly}\naugment: {crop: [64, 64]}", ""),
        ("train", "# a remark\ntrain: {lr: 1.0e-1, seed: 0}", ""),
        ("code", "train: {lr: 0.2}", ""),
    ],
)
def test_what_a_stage_names_may_not_change(
    tmp_path: Path, stage: str, text: str, reason: str
) -> None:
    (tmp_path / "dvc.yaml").write_text(GRAPH)
    (tmp_path / "params.yaml").write_text("train: {lr: 0.1}")

    def change() -> None:
        with constant_params(tmp_path, stage):
            (tmp_path / "params.yaml").write_text(text)

    if reason:
        with pytest.raises(SegopsError) as raised:
            change()
        assert reason in str(raised.value)
    else:
        change()
