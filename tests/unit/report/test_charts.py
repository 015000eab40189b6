"""Charts as SVG, and how numbers are written."""

from __future__ import annotations

import re

import numpy as np
import pytest

from segops.report import svg
from segops.report.evaluation_page import occurring, row_shares
from segops.report.html import decimal, number, percent
from segops.runtime.classes import VOC_CLASSES
from tests.support.evaluations import confusion_of


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
    shares = np.array([[0.991, 0.004, 0.005], [np.nan] * 3, [0, 0, 1]])
    chart = svg.heat_map(shares, ("a", "b", "c"))
    assert ">99</text>" in chart
    assert ">0</text>" not in chart
    assert chart.count('class="empty"') == 3


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
