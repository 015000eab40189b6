"""The commands that change params.yaml, as a person types them."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest
from click.testing import Result
from typer.testing import CliRunner

from segops.cli import app
from segops.cli.common import console
from segops.params.file import load_params
from segops.runtime.errors import SegopsError
from tests.support.tune_workspace import prepare

ROOT = Path(__file__).parents[3]


@pytest.fixture
def checkout(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The shipped parameters and recipes, with no data and no flow."""
    shutil.copy(ROOT / "params.yaml", tmp_path)
    shutil.copytree(ROOT / "recipes", tmp_path / "recipes")
    (tmp_path / "dvc.yaml").write_text("stages: {}\n")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(console, "width", 160)
    return tmp_path


def segops(*arguments: str) -> Result:
    return CliRunner().invoke(app, arguments)


def test_recipes_are_listed_with_network_and_aim(checkout: Path) -> None:
    shown = segops("recipes")
    assert shown.exit_code == 0, shown.output
    row = next(line for line in shown.output.splitlines() if "voc2012-pspnet-r50" in line)
    assert "PSPNet, dilated ResNet-50, output stride 8" in row
    assert "76.8 %" in row
    unet = next(line for line in shown.output.splitlines() if "voc2012-unet-r50" in line)
    assert "none published" in unet


def test_a_recipe_is_checked_without_a_trace(checkout: Path) -> None:
    before = (checkout / "params.yaml").read_bytes()
    shown = segops("run", "--recipe", "voc2012-fcn-r50", "--check")
    assert shown.exit_code == 0, shown.output
    assert "mIoU 67.1 % after 20,000 iterations" in shown.output
    assert "tu-resnet50c" in shown.output
    assert "warning:" in shown.output
    assert "`segops data fetch sbd`" in shown.output
    assert "Nothing was written" in shown.output
    assert (checkout / "params.yaml").read_bytes() == before


def test_a_recipe_is_written_before_the_run(checkout: Path) -> None:
    result = segops("run", "--recipe", str(checkout / "recipes" / "voc2012-deeplabv3plus-r50.yaml"))
    assert isinstance(result.exception, SegopsError)
    assert "flows/once.py: no such file" in str(result.exception)  # the run had begun
    assert "params.yaml is changed" in result.output
    assert load_params(checkout).model.architecture == "dilated_deeplabv3plus"
    assert load_params(checkout).train.iterations == 20000


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("--recipe", "nope"), "no such recipe"),
        (("--check",), "--check belongs to --recipe"),
    ],
)
def test_a_bad_recipe_starts_no_run(
    checkout: Path, arguments: tuple[str, ...], message: str
) -> None:
    before = (checkout / "params.yaml").read_bytes()
    result = segops("run", *arguments)
    assert isinstance(result.exception, SegopsError)
    assert message in str(result.exception)
    assert (checkout / "params.yaml").read_bytes() == before


def test_the_range_test_s_suggestion_is_applied(
    tiny_voc: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    root = prepare(tiny_voc.parent)
    monkeypatch.chdir(root)
    monkeypatch.setattr(console, "width", 160)
    sweep = ("tune", "lr", "--low", "1e-5", "--high", "1e4", "--steps", "40")
    shown = segops(*sweep)
    assert shown.exit_code == 0, shown.output
    assert "the loss falls fastest" in shown.output
    assert "-  lr: 0.003" in shown.output
    assert load_params(root).train.lr == 0.003
    applied = segops(*sweep, "--apply")
    assert applied.exit_code == 0, applied.output
    rate = load_params(root).train.lr
    assert rate != 0.003
    assert f"+  lr: {rate}" in shown.output
    assert (root / "reports" / "learning_rate.png").is_file()


def test_a_loss_that_never_falls_is_said(tiny_voc: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    root = prepare(tiny_voc.parent)
    monkeypatch.chdir(root)
    result = segops("tune", "lr", "--low", "1e6", "--high", "1e9", "--steps", "10", "--apply")
    assert isinstance(result.exception, SegopsError)
    assert "The loss never fell between 1e+06 and 1e+09" in str(result.exception)
    assert load_params(root).train.lr == 0.003
