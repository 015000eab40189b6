"""A metric that is put into the catalogue from outside appears wherever metrics appear."""

from __future__ import annotations

import json
import math
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import typer
from typer.testing import CliRunner

from segops import paths
from segops.cli import compare
from segops.cli import evaluate as command
from segops.cli.common import Terminal
from segops.metrics.catalogue import CLASS_METRICS, SPLIT_METRICS, Metric
from segops.metrics.iou import ClassPixels, Difference, PerClass, ratio
from segops.record.update import record
from segops.release import compare_models
from segops.release.compare_models import Compared
from segops.report.page_inputs import Opponent
from segops.stages import evaluate
from tests.support import registry_workspace as made

pytestmark = pytest.mark.slow


def miss_rate(pixels: ClassPixels) -> PerClass:
    """Share of each class's true pixels that are predicted as another class."""
    return 1 - ratio(pixels.intersection, pixels.truth)


@pytest.fixture
def _rows() -> Iterator[None]:
    SPLIT_METRICS.append(
        Metric(
            "mean_miss_rate",
            "mean miss rate",
            "share of the true pixels that are missed, mean over classes",
            miss_rate,
            averaged=True,
            path="misses.mean",
            digits=4,
            lower_is_better=True,
        )
    )
    CLASS_METRICS.append(
        Metric("miss_rate", "miss rate", "missed", miss_rate, mean="mean_miss_rate")
    )
    yield
    del SPLIT_METRICS[-1], CLASS_METRICS[-1]


@pytest.mark.usefixtures("_rows")
def test_a_new_row_is_computed_shown_and_recorded(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    root = made.make(tmp_path / "checkout")
    made.set_params(
        root, evaluate={"bootstrap_samples": 100, "speed": False}, report={"pictures": False}
    )
    made.train(root, 1)
    evaluate.run(root)

    evaluation = json.loads((root / paths.EVALUATION).read_text())
    by_class = {name: one["miss_rate"] for name, one in evaluation["classes"].items()}
    recalls = {name: one["recall"] for name, one in evaluation["classes"].items()}
    true = [name for name, one in evaluation["classes"].items() if one["truth_pixels"]]
    assert {by_class[name] for name in by_class if name not in true} == {None}
    assert by_class[true[0]] == pytest.approx(1 - recalls[true[0]])
    mean = evaluation["misses"]["mean"]
    assert mean == pytest.approx(1 - evaluation["mean_recall"])

    page = (root / paths.EVALUATION_PAGE).read_text()
    assert f'<span class="label">mean miss rate</span><span class="value">{mean:.4f}<' in page
    assert '<th scope="col" data-key="miss_rate" title="missed" class="n">miss rate</th>' in page
    first = by_class[true[0]]
    assert f'data-column="miss_rate" data-value="{first}">{first:.3f}</td>' in page
    assert f'data-column="miss_rate">{mean:.4f}</td>' in page  # the row of means

    run = made.client(root).get_run(record(root).run_id)
    assert run.data.metrics["mean_miss_rate"] == mean
    assert run.data.metrics[f"miss_rate/{true[0]}"] == first

    row = f"│ mean miss rate (lower is better) │ {mean:.4f} │"
    said = printed(root, monkeypatch, command, command.evaluate)
    assert row in " ".join(said.split())
    assert re.search(rf"│ {true[0]} [^\n]* {first:.3f} │\n", said)  # in the table of classes
    against = Opponent("b", evaluation, 8, 0, 0.95, Difference(0, math.nan, math.nan), {})
    both = Compared(("a", "b"), (evaluation, evaluation), (against,), (), 8, 0, Path("page.html"))
    monkeypatch.setattr(compare_models, "compare", lambda *_: both)
    said = printed(root, monkeypatch, compare, compare.compare, "a", "b")
    assert f"{row} {mean:.4f} │" in " ".join(said.split())


def printed(
    root: Path, monkeypatch: pytest.MonkeyPatch, module: Any, function: Any, *arguments: str
) -> str:
    """What a command prints."""
    monkeypatch.chdir(root)
    console = Terminal(width=160)
    monkeypatch.setattr(module, "console", console)
    app = typer.Typer()
    app.command()(function)
    with console.capture() as captured:
        CliRunner().invoke(app, arguments, catch_exceptions=False)
    return captured.get()
