"""The DVC plots: every entry of ``dvc.yaml`` names a template and columns that there are."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import yaml

ROOT = Path(__file__).parents[3]
COLUMNS = {
    "plots/confusion.csv": {"actual", "predicted", "pixels", "share"},
    "plots/class_iou.csv": {"class", "iou"},
}


def fields(tree: object) -> set[str]:
    """All `field` values of a Vega-Lite specification that are no anchors of DVC."""
    if isinstance(tree, list):
        return set().union(*map(fields, tree)) if tree else set()
    if not isinstance(tree, dict):
        return set()
    own = {tree["field"]} if isinstance(tree.get("field"), str) else set()
    found = own.union(*map(fields, tree.values()))
    return {name for name in found if not name.startswith("<DVC")}


@pytest.mark.parametrize("path", sorted(COLUMNS))
def test_plots_name_templates_and_columns_that_there_are(path: str) -> None:
    plots = yaml.safe_load((ROOT / "dvc.yaml").read_text())["plots"]
    entry = next(one[path] for one in plots if path in one)
    template = json.loads((ROOT / ".dvc" / "plots" / f"{entry['template']}.json").read_text())
    assert {entry["x"], entry["y"]} <= COLUMNS[path]
    assert fields(template) - {"rev"} <= COLUMNS[path]
    assert template["data"]["values"] == "<DVC_METRIC_DATA>"
