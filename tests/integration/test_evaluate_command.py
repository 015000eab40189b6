"""`segops evaluate`: its tables, its limit, and what it says to a model that is none."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest
import typer
from typer.testing import CliRunner

from segops import paths
from segops.cli import evaluate as command
from segops.cli.common import Terminal
from segops.data.packing import pack
from segops.data.store import PackedStore
from segops.evaluate import robustness, variants
from segops.evaluate.bootstrap import paired_difference, true_classes
from segops.evaluate.scoring import Predicted, Tally, judge
from segops.evaluate.variants import VariantResult
from segops.metrics.iou import class_pixels, miou
from segops.predict.bundle import load_bundle
from segops.runtime.classes import VOC_CLASSES
from segops.runtime.errors import SegopsError
from segops.voc.layout import open_layout
from tests.support.bundles import write_bundle
from tests.unit.evaluate.test_score import SPEC, lively

app = typer.Typer()
app.command()(command.evaluate)


@pytest.fixture(scope="module")
def workspace(generated_voc: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("workspace")
    pack(open_layout(generated_voc), root / paths.PACKED, VOC_CLASSES)
    store = PackedStore(root / paths.PACKED)
    seen = {"other_name": store.image_sha256(store.ids("val")[0])}
    write_bundle(root / paths.SEGMENTER, lively(store), SPEC, VOC_CLASSES, {}, {})
    write_bundle(root / "other", lively(store), SPEC, VOC_CLASSES, seen, {})
    (root / "dvc.yaml").write_text("stages: {}\n")
    (root / "params.yaml").write_text("hardware: {threads: 1}\n")
    return root


def segops(workspace: Path, monkeypatch: pytest.MonkeyPatch, *arguments: str) -> str:
    """Run the command in the workspace; what it prints."""
    monkeypatch.chdir(workspace)
    before = {path: path.stat().st_mtime_ns for path in workspace.rglob("*")}
    wide = Terminal(width=160)
    monkeypatch.setattr(command, "console", wide)
    with wide.capture() as captured:
        CliRunner().invoke(app, list(arguments), catch_exceptions=False)
    assert {path: path.stat().st_mtime_ns for path in workspace.rglob("*")} == before
    return captured.get()


def test_it_shows_the_figures_and_every_class(
    workspace: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    said = segops(workspace, monkeypatch)
    assert re.search(r"mIoU 0\.\d{3} on 6 images of val \(95 % interval 0\.\d+ to 0\.\d+\)", said)
    assert re.search(r"│ boundary F1 +│ +0\.\d{3} │", said)
    assert re.search(r"│ mean contour distance \(lower is better\) +│ \d+\.\d\d.px │", said)
    assert re.search(r"│ expected calibration error \(lower is better\) +│ +0\.\d{3} │", said)
    assert re.search(r"│ background +│ 0\.\d{3} +│", said)
    assert said.count("┏") == 2  # classes and metrics
    assert "left out" not in said


@pytest.mark.slow
def test_compare_prints_one_table_of_all_ways(
    workspace: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    rows: list[VariantResult] = []
    compare = variants.compare

    def overheard(*arguments: Any, **named: Any) -> list[VariantResult]:
        rows.extend(compare(*arguments, **named))
        return rows

    monkeypatch.setattr(variants, "compare", overheard)
    said = segops(workspace, monkeypatch, "other", "--compare", "--limit", "4")
    assert "Only the first 4 of the 6 images of val" in said
    assert "1 of these images are left out: the model was trained on them" in said
    assert said.count("┏") == 1
    names = [one.variant.name for one in rows]
    assert names == [one.name for one in variants.variants({}, [(1, 1)])]
    for one in rows:
        assert one.boundary_iou is not None
        assert one.milliseconds is not None
        line = (
            rf"│ {one.variant.name} +│ +{one.miou:.4f} │ +{one.boundary_iou:.4f} "
            rf"│ +{one.milliseconds:.1f} │ +"
        )
        settings = rf"│   {re.escape(one.variant.description)} +│ +│ +│ +│ +"
        if one.difference is not None:
            found = one.difference
            line += re.escape(f"{found.difference:+.4f}")
            settings += re.escape(f"{found.low:+.4f} to {found.high:+.4f}")
        assert re.search(rf"{line} *│\n{settings} *│", said), said
    _require_what_the_worker_counts(workspace, rows)


@pytest.mark.slow
def test_robustness_prints_a_row_for_each_corruption(
    workspace: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(robustness, "CORRUPTIONS", dict.fromkeys(["fog", "jpeg"]))
    said = segops(workspace, monkeypatch, "--robustness", "--limit", "2")
    assert "Only the first 2 of the 6 images of val" in said
    assert re.search(r"┃ corruption ┃ strength 1 ┃ strength 3 ┃ strength 5 ┃ +mean ┃", said)
    for name in ("fog", "jpeg"):
        assert re.search(rf"│ {name} +│( +0\.\d{{4}} │){{4}}", said)
    assert re.search(r"mIoU 0\.\d{4} on 2 images as they are; mean under all corruptions 0\.", said)


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["--robustness", "--compare"], "takes no --compare"),
        (["--robustness", "--split", "test"], "leave --compare, --robustness and --limit"),
    ],
)
def test_robustness_is_of_val_and_alone(
    workspace: Path, monkeypatch: pytest.MonkeyPatch, arguments: list[str], said: str
) -> None:
    monkeypatch.chdir(workspace)
    done = CliRunner().invoke(app, arguments)
    assert done.exit_code == 2
    assert said in re.sub(r"[\s│]+", " ", done.output)


def _require_what_the_worker_counts(root: Path, rows: list[VariantResult]) -> None:
    """Windows and the model's own way, counted once more, give the differences of the table."""
    store = PackedStore(root / paths.PACKED)
    predictors = {
        one.variant.name: load_bundle(root / "other", predict=one.variant.settings)
        for one in rows
        if one.variant.name in ("plain", "windows", "flip")
    }
    found = {}
    for name, predictor in predictors.items():
        tally = Tally(VOC_CLASSES, details=False)
        for image_id in store.ids("val")[1:4]:
            mask, truth = predictor.predict_mask(store.image(image_id)), store.mask(image_id)
            predicted = Predicted(image_id, store.image_sha256(image_id), truth, mask, None)
            tally.add(judge(predicted, len(VOC_CLASSES), details=False))
        found[name] = tally
    plain = found["plain"].counts
    for one in rows:
        if one.variant.name in found:
            tally = found[one.variant.name]
            assert one.miou == miou(*class_pixels(tally.split.confusion))
        if one.variant.name in ("windows", "flip"):
            expected = paired_difference(tally.counts, plain, true_classes(plain), 1000, 0.975, 0)
            assert one.difference == expected
    assert rows[-1].milliseconds == rows[0].milliseconds  # its own way is plain: scored once


@pytest.mark.parametrize("model", ["nowhere", "params.yaml"])
def test_what_is_no_model_is_named(
    workspace: Path, monkeypatch: pytest.MonkeyPatch, model: str
) -> None:
    with pytest.raises(SegopsError, match=rf"^{model}: no bundle there.*models:/NAME@ALIAS"):
        segops(workspace, monkeypatch, model)


def test_a_bad_registered_name_says_what_is_expected(
    workspace: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with pytest.raises(SegopsError, match=r"models:oops: expected models:/NAME@ALIAS"):
        segops(workspace, monkeypatch, "models:oops")


def test_a_checkout_without_a_model_is_told_what_makes_one(
    workspace: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    (tmp_path / "dvc.yaml").write_text("stages: {}\n")
    (tmp_path / "params.yaml").write_text("")
    (tmp_path / "data").mkdir()
    (tmp_path / paths.PACKED).symlink_to(workspace / paths.PACKED)
    with pytest.raises(SegopsError, match=r"models/segmenter: no bundle there.*`segops run`"):
        segops(tmp_path, monkeypatch)
