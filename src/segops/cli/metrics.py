"""Tables of metrics in the terminal; see :mod:`segops.metrics.catalogue`."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from rich.table import Table


def metrics_table(names: Sequence[str], evaluations: Sequence[Mapping[str, Any]]) -> Table:
    """A row a metric of the split, a column a model.

    Args:
        names: What people call the models.
        evaluations: Their evaluations, of the form of ``metrics/evaluation.json``.
    """
    from segops.metrics.catalogue import SPLIT_METRICS, shown

    table = Table("metric", title="Metrics", title_justify="left")
    for name in names:
        table.add_column(name, justify="right", overflow="fold")
    for metric in shown(SPLIT_METRICS, "terminal"):
        label = metric.label + (" (lower is better)" if metric.lower_is_better else "")
        table.add_row(label, *(metric.text(one) for one in evaluations))
    return table


def class_table(evaluation: Mapping[str, Any]) -> Table:
    """A row a class that occurs in truth or prediction, a column a metric of classes."""
    from segops.metrics.catalogue import CLASS_METRICS, shown

    metrics = shown(CLASS_METRICS, "terminal")
    table = Table("class", title="Classes", title_justify="left")
    for metric in metrics:
        table.add_column(metric.label.replace(" ", "\n"), justify="right", no_wrap=True)
    for name, values in evaluation["classes"].items():
        if values["truth_pixels"] or values["predicted_pixels"]:
            table.add_row(name, *(metric.text(values) for metric in metrics))
    return table
