"""Stage code: what it writes for stage train where the encoder starts from a local file."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from segops import files, paths
from segops.stages import code


def written(root: Path) -> dict[str, bytes]:
    """The file of each stage."""
    code.run(root)
    return {path.stem: path.read_bytes() for path in (root / "code").iterdir()}


def sha256(root: Path) -> object:
    return json.loads(written(root)["train"])[code.ENCODER_FILE]


def test_new_weights_in_the_file_change_the_file_of_stage_train_alone(tmp_path: Path) -> None:
    place = tmp_path / paths.PRETRAINED / "encoder.safetensors"
    place.parent.mkdir(parents=True)
    (tmp_path / "params.yaml").write_text(
        f"model: {{encoder_weights: {place.relative_to(tmp_path)}}}\n"
    )
    place.write_bytes(b"first")
    first = written(tmp_path)
    assert sha256(tmp_path) == files.sha256_file(place)
    assert written(tmp_path) == first
    place.write_bytes(b"second")
    second = written(tmp_path)
    assert {stage for stage in first if first[stage] != second[stage]} == {"train"}
    assert sha256(tmp_path) == files.sha256_file(place)


@pytest.mark.parametrize(
    "text",
    [
        "model: {encoder_weights: null}\n",
        "model: {encoder_weights: imagenet}\n",
        "model: {encoder_weights: gone.safetensors}\n",
        "model: {encoder_weights: [1]}\n",
        "model: {",
        None,
    ],
)
def test_without_a_file_there_is_none(text: str | None, tmp_path: Path) -> None:
    if text is not None:
        (tmp_path / "params.yaml").write_text(text)
    assert sha256(tmp_path) is None
