"""The evaluation page and the plots."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from segops.report import svg
from segops.report.confusion import occurring, row_shares
from segops.report.evaluation import write_evaluation_page
from segops.report.html import decimal, number, percent
from segops.report.overlay import Picture
from segops.report.plots import write_class_iou_png, write_confusion_png
from segops.voc.classes import VOC_CLASSES

CURVES = "epoch,step,lr,train_loss,selection_miou,seconds\n"


def confusion_of(classes: int = 4) -> np.ndarray:
    """Class 2 occurs nowhere, class 3 is predicted alone."""
    matrix = np.zeros((classes, classes), dtype=np.int64)
    matrix[0, 0], matrix[0, 1], matrix[1, 0], matrix[1, 1], matrix[0, 3] = 900, 90, 150, 50, 10
    return matrix


def evaluation_of(names: tuple[str, ...] = ("ground", "cat", "cow", "dog")) -> dict[str, Any]:
    empty = dict.fromkeys(("iou", "precision", "recall", "f1"))
    classes: dict[str, dict[str, Any]] = {
        name: {**empty, "intersection": 0, "predicted_pixels": 0, "truth_pixels": 0}
        for name in names
    }
    classes[names[1]] |= {"iou": 0.1724, "precision": 0.3571, "recall": 0.25, "f1": 0.2941}
    classes[names[1]] |= {"intersection": 50, "predicted_pixels": 140, "truth_pixels": 1234567}
    return {
        "split": "val",
        "images": 7,
        "miou": 0.6123,
        "miou_low": 0.5812,
        "miou_high": 0.6499,
        "confidence": 0.95,
        "miou_truth_or_prediction": 0.4087,
        "pixel_accuracy": 0.9011,
        "mean_class_accuracy": 0.7022,
        "frequency_weighted_iou": 0.8033,
        "mean_precision": 0.6044,
        "mean_recall": 0.7055,
        "mean_f1": 0.6066,
        "classes": classes,
        "data_hash": "d" * 64,
        "val_hash": "e" * 64,
        "weights_sha256": "a" * 64,
        "bundle_digest": "b" * 64,
    }


def pictures_of() -> list[Picture]:
    image = np.full((30, 40, 3), 120, dtype=np.uint8)
    mask = np.zeros((30, 40), dtype=np.uint8)
    mask[5:20, 5:20] = 1
    return [
        Picture("one", 0.91, image, mask, mask, "best"),
        Picture("two", 0.12, image, mask, np.zeros_like(mask), "worst"),
    ]


@pytest.fixture
def page(tmp_path: Path) -> str:
    curves = tmp_path / "learning.csv"
    curves.write_text(
        CURVES + "0,10,0.001,2.5,0.31,3\n1,20,0.002,1.25,0.4567,3\n2,30,0.001,1,0.4,3"
    )
    path = tmp_path / "evaluation.html"
    write_evaluation_page(path, evaluation_of(), confusion_of(), pictures_of(), curves)
    return path.read_text()


def test_the_page_stands_alone(page: str) -> None:
    assert not re.search(r"https?:|<script|@import|url\(", page)
    sources = re.findall(r"(?:src|href)=\"([^\"]{0,12})", page)
    assert sources
    assert all(source.startswith("data:") for source in sources)


def test_the_page_shows_every_figure(page: str) -> None:
    for figure in ("0.612", "0.581 to 0.650", "95\u202f%", "0.409", "0.901", "0.702", "0.803"):
        assert figure in page
    for figure in ("0.604", "0.706", "0.607", "0.172", "0.357", "0.250", "0.294"):
        assert figure in page
    assert "1\u202f234\u202f567" in page
    assert "classes in truth or prediction" in page
    assert "mean IoU of the 2 classes" in page
    assert "Best: 0.457 in epoch 1" in page
    for digest in ("d" * 64, "e" * 64, "a" * 64, "b" * 64):
        assert digest in page


def test_pictures_come_in_threes_with_image_scores(page: str) -> None:
    assert page.count("data:image/jpeg") == 6
    assert "Best images" in page
    assert "Worst images" in page
    assert "Median images" not in page
    assert "image score 0.910" in page
    # A score of one image never goes by the name of the split's figure.
    assert not re.search(r"<span[^>]*>[^<]*mIoU[^<]*</span>", page)


def test_without_pictures_no_photograph_is_left(tmp_path: Path) -> None:
    path = tmp_path / "evaluation.html"
    write_evaluation_page(path, evaluation_of(), confusion_of(), [], None)
    page = path.read_text()
    assert "data:image" not in page
    assert "Learning curves" not in page
    assert "Pictures" not in page


def test_the_same_inputs_give_the_same_bytes(tmp_path: Path) -> None:
    one, two = tmp_path / "one.html", tmp_path / "two.html"
    for path in (one, two):
        write_evaluation_page(path, evaluation_of(), confusion_of(), pictures_of(), None)
    assert one.read_bytes() == two.read_bytes()


def test_a_fixed_length_recipe_has_no_selection_curve(tmp_path: Path) -> None:
    curves, path = tmp_path / "learning.csv", tmp_path / "evaluation.html"
    curves.write_text(CURVES + "0,10,0.001,2.5,,3\n1,20,0.002,1.25,,3\n")
    write_evaluation_page(path, evaluation_of(), confusion_of(), [], curves)
    page = path.read_text()
    assert "Training loss" in page
    assert "selection split" not in page


def test_one_epoch_draws_a_curve(tmp_path: Path) -> None:
    curves, path = tmp_path / "learning.csv", tmp_path / "evaluation.html"
    curves.write_text(CURVES + "0,10,0.001,0.0,0.0,3\n")
    write_evaluation_page(path, evaluation_of(), confusion_of(), [], curves)
    assert "nan" not in re.sub(r"<style>.*</style>", "", path.read_text(), flags=re.S)


def test_absent_figures_are_dashes(tmp_path: Path) -> None:
    evaluation = evaluation_of() | dict.fromkeys(("miou", "miou_low", "miou_high", "mean_f1"))
    path = tmp_path / "evaluation.html"
    write_evaluation_page(path, evaluation, np.zeros((4, 4), dtype=np.int64), [], None)
    page = path.read_text()
    assert "No interval." in page
    assert "None" not in page


def test_names_are_escaped(tmp_path: Path) -> None:
    path = tmp_path / "evaluation.html"
    names = ("ground", "<b>cat</b>", "cow", "dog & pony")
    write_evaluation_page(path, evaluation_of(names), confusion_of(), [], None)
    page = path.read_text()
    assert "<b>" not in page
    assert "&lt;b&gt;cat" in page


def test_a_matrix_of_other_classes_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="for 4 classes"):
        write_evaluation_page(tmp_path / "e.html", evaluation_of(), confusion_of(5), [], None)


def test_rows_are_normalised_and_absent_ones_are_nan() -> None:
    shares = row_shares(confusion_of())
    assert shares[0].tolist() == [0.9, 0.09, 0, 0.01]
    assert shares[1].tolist() == [0.75, 0.25, 0, 0]
    assert np.isnan(shares[2:]).all()
    assert occurring(confusion_of()).tolist() == [0, 1, 3]


def test_the_heat_map_names_all_21_classes() -> None:
    chart = svg.heat_map(row_shares(np.eye(21, dtype=np.int64)), VOC_CLASSES)
    assert all(chart.count(f">{name}</text>") == 2 for name in VOC_CLASSES)
    assert chart.count(">100</text>") == 21


def test_the_heat_map_leaves_small_shares_blank_and_absent_rows_empty() -> None:
    chart = svg.heat_map(np.array([[0.996, 0.004], [np.nan, np.nan]]), ("a", "b"))
    assert ">100</text>" in chart
    assert ">0</text>" not in chart
    assert chart.count('class="empty"') == 2


@pytest.mark.parametrize(("low", "high"), [(0, 1), (0, 0.05), (0, 3.7), (0, 29), (317, 505)])
def test_ticks_are_round_and_within(low: float, high: float) -> None:
    ticks = svg.Axis(low, high, 0, 100).ticks()
    assert 3 <= len(ticks) <= 7
    assert all(low <= tick <= high + 1e-9 for tick in ticks)
    assert np.allclose(np.diff(ticks), ticks[1] - ticks[0])


def test_histograms_hold_every_value() -> None:
    chart = svg.histogram({"train": [0.0, 0.1, 0.1, 1.0], "val": []}, "share", bins=10)
    shares = [float(value) for value in re.findall(r": ([\d.]+)% of images", chart)]
    assert sum(shares) == pytest.approx(100)


def test_words_for_numbers() -> None:
    assert number(1234567) == "1\u202f234\u202f567"
    assert decimal(None) == number(None) == percent(None) == "–"
    assert percent(0.123) == "12.3\u202f%"
    assert percent(0.0) == "0\u202f%"
    assert percent(0.0001) == "<0.1\u202f%"


def test_plots_are_pictures_and_the_same_each_time(tmp_path: Path) -> None:
    names = ("ground", "cat", "cow", "dog")
    for turn in ("one", "two"):
        write_confusion_png(tmp_path / f"confusion-{turn}.png", confusion_of(), names)
        write_class_iou_png(tmp_path / f"iou-{turn}.png", [0.9, 0.1724, None, 0.0], names, 0.54)
    for plot in ("confusion", "iou"):
        one, two = tmp_path / f"{plot}-one.png", tmp_path / f"{plot}-two.png"
        assert one.read_bytes() == two.read_bytes()
        with Image.open(one) as picture:
            assert min(picture.size) > 200
            assert len(set(picture.convert("L").tobytes())) > 20
