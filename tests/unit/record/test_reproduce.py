"""The script that makes a registered model again: what it puts into the parameters, and where."""

from __future__ import annotations

import os
import shlex
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

from segops import files
from segops.params.model import ModelParams
from segops.params.train import TrainParams
from segops.record.reproduce import encoder_start, making_script, reproduce_script, worktree_params

TREE = Path(__file__).parents[3]
AUTO, FP32 = TrainParams(), TrainParams(precision="fp32")
PARAMS = "# Ours.\nmodel:\n  encoder_weights: null\n  start_from: {} # the one in service\n"


def script(replaced: dict[str, str], packaged_at: str | None = None) -> str:
    return reproduce_script(
        "c" * 40, packaged_at, "data/voc", "a" * 64, "b" * 64, replaced
    ).decode()


def carry_out(text: str, root: Path) -> None:
    """Run the lines of a script that change parameters, once each."""
    lines = {line for line in text.splitlines() if line.startswith('PYTHONPATH="$tree/src" python')}
    search = {"PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}"}
    places = f"tree={shlex.quote(str(TREE))} main='/the main'"
    command = ["sh", "-euc", "\n".join([places, *lines])]
    subprocess.run(command, cwd=root, env=os.environ | search, check=True)


@pytest.mark.parametrize(
    ("written", "start_model", "becomes"),
    [
        ("models:/it's@champion", "models:/it's/3", "models:/it's/3"),
        ("old models/it's one", None, "/the main/old models/it's one"),
    ],
)
def test_the_script_puts_in_what_was_meant(
    written: str, start_model: str | None, becomes: str, tmp_path: Path
) -> None:
    model = ModelParams(start_from=written)
    replaced = worktree_params(tmp_path, model, FP32, {"start_model": start_model})
    lines = script(replaced).splitlines()
    (line,) = set(lines) - set(script({}).splitlines())
    assert lines.index('cp "$bundle/params.yaml" params.yaml') < lines.index(line)
    assert lines.index(line) < next(n for n, one in enumerate(lines) if "dvc repro" in one)
    # Packaged by other code: the parameters are put there a second time.
    assert script(replaced, "d" * 40).splitlines().count(line) == 2

    (tmp_path / "params.yaml").write_text(PARAMS.format(f'"{written}"'), encoding="utf-8")
    carry_out(script(replaced), tmp_path)
    after = (tmp_path / "params.yaml").read_text(encoding="utf-8")
    expected = PARAMS.format(f'"{becomes}"')
    assert yaml.safe_load(after) == yaml.safe_load(expected)
    lines = [line.split() for line in after.splitlines() if "start_from" not in line]
    assert lines == [line.split() for line in expected.splitlines() if "start_from" not in line]


def test_what_means_the_same_everywhere_stays(tmp_path: Path) -> None:
    (tmp_path / "weights.safetensors").write_bytes(b"weights")
    for model in (
        ModelParams(),
        ModelParams(start_from="models:/segops/3"),
        ModelParams(start_from="/models/one"),
        ModelParams(start_from="~/models/one"),
        ModelParams(encoder_weights="imagenet"),
        ModelParams(encoder_weights=str(tmp_path / "weights.safetensors")),
    ):
        training = {"start_model": "models:/segops/3", "precision": "fp32"}
        assert worktree_params(tmp_path, model, FP32, training) == {}
    # Nobody knows which version it was: the alias stays.
    model = ModelParams(start_from="models:/segops@champion")
    assert worktree_params(tmp_path, model, AUTO, {}) == {}


def test_a_teacher_is_the_one_that_taught(tmp_path: Path) -> None:
    training = {"teacher_model": "models:/segops/3", "start_model": "models:/segops/2"}
    for written, becomes in (
        ("models:/segops@champion", {"train.teacher": "models:/segops/3"}),
        ("models:/segops/1", {}),
        ("old/model", {"train.teacher": '"$main"/old/model'}),
        ("/old/model", {}),
    ):
        train = TrainParams(precision="fp32", teacher=written)
        assert worktree_params(tmp_path, ModelParams(), train, training) == becomes


def test_weights_of_the_encoder_are_looked_up_in_the_main_checkout(tmp_path: Path) -> None:
    (tmp_path / "my weights.safetensors").write_bytes(b"weights")
    model = ModelParams(encoder_weights="my weights.safetensors")
    assert worktree_params(tmp_path, model, AUTO, {}) == {
        "model.encoder_weights": "\"$main\"/'my weights.safetensors'"
    }


def test_other_weights_of_the_encoder_end_the_script_before_anything_is_made(
    tmp_path: Path,
) -> None:
    path = tmp_path / "it's.safetensors"
    path.write_bytes(b"weights")
    training = {"start_sha256": files.sha256_file(path)}

    def ended(weights: str) -> str:
        encoder = encoder_start(tmp_path, ModelParams(encoder_weights=weights), training)
        assert encoder is not None
        text = making_script("c" * 40, None, "data/voc", {}, encoder=encoder)
        (tmp_path / "script.sh").write_text(text)
        subprocess.run(["git", "init", "-q", str(tmp_path)], check=True)
        search = {"PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}"}
        done = subprocess.run(
            ["sh", "script.sh"], cwd=tmp_path, env=os.environ | search, stderr=subprocess.PIPE,
            text=True, check=False,
        )  # fmt: skip
        assert done.returncode != 0
        assert not list(tmp_path.rglob("worktree"))
        return done.stderr

    for weights in (path.name, str(path)):
        path.write_bytes(b"weights")
        assert "c" * 40 in ended(weights)  # git, which has no such commit
        path.write_bytes(b"others")
        other = ended(weights)
        assert f"{path} is not the file that the training started from" in other
        assert training["start_sha256"] in other
        assert "c" * 40 not in other
    for model in (ModelParams(), ModelParams(encoder_weights="imagenet")):
        assert encoder_start(tmp_path, model, training) is None
    assert encoder_start(tmp_path, ModelParams(encoder_weights=path.name), {}) is None


@pytest.mark.parametrize("recorded", ["fp32", "bf16"])
def test_the_recorded_precision_takes_the_place_of_auto(recorded: str, tmp_path: Path) -> None:
    """Another processor would choose another one, and come to other weights."""
    training = {"precision": recorded}
    replaced = worktree_params(tmp_path, ModelParams(), AUTO, training)
    assert replaced == {"train.precision": recorded}
    assert worktree_params(tmp_path, ModelParams(), TrainParams(precision="fp16"), training) == {}
    (tmp_path / "params.yaml").write_text(
        "train:\n  precision: auto # ours\n  seed: 3\n", encoding="utf-8"
    )
    carry_out(script(replaced), tmp_path)
    after = (tmp_path / "params.yaml").read_text(encoding="utf-8")
    assert after == f"train:\n  precision: {recorded} # ours\n  seed: 3\n"
