"""What was asked of an evaluation reaches its files: metadata, robustness and a label audit."""

from __future__ import annotations

import csv
import json
import re
from html import unescape
from pathlib import Path
from typing import Any

import pytest
import torch

from segops import paths
from segops.data.store import PackedStore
from segops.evaluate import robustness
from segops.evaluate.image_table import COLUMNS
from segops.evaluate.suspects import read
from segops.label_check.audit import audit_labels
from segops.params.file import load_params
from segops.report.html import number
from segops.runtime.classes import VOC_CLASSES
from segops.stages import augment, evaluate, prepare, validate
from tests.support.bundles import write_bundle
from tests.unit.evaluate.test_score import SPEC, lively

pytestmark = pytest.mark.slow

SETTINGS = """
data: {path: voc, metadata: known.csv}
validate: {required_classes: [background]}
augment: {crop: [32, 32]}
evaluate: {bootstrap_samples: 100, speed: false, robustness: true}
hardware: {threads: 1, workers: 0}
"""
SITES = ("<b>north</b>", "south")
CORRUPTIONS = ("fog", "jpeg")


@pytest.fixture
def root(tiny_voc: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A workspace after stage evaluate, its val audited by another model before."""
    monkeypatch.setattr(robustness, "CORRUPTIONS", dict.fromkeys(CORRUPTIONS))
    root = tiny_voc.parent
    (root / "params.yaml").write_text(SETTINGS)
    lists = [tiny_voc / "ImageSets" / "Segmentation" / f"{one}.txt" for one in ("train", "val")]
    ids = [one for path in lists for one in path.read_text().split()]
    rows = [f"{one},{SITES[number % 2]}" for number, one in enumerate(ids)]
    (tiny_voc / "known.csv").write_text("\n".join(["image_id,site", *rows]) + "\n")
    for stage in (validate, prepare, augment):
        stage.run(root)
    store = PackedStore(root / paths.PACKED)
    network = lively(store)
    write_bundle(root / paths.SEGMENTER, network, SPEC, VOC_CLASSES, {}, {})
    with torch.no_grad():
        network.network.score.bias[15] += 0.01
    write_bundle(root / "judge", network, SPEC, VOC_CLASSES, {}, {})
    settings, judge = load_params(root), str(root / "judge")
    audit_labels(root, settings, ("val",), root / "audit", model=judge, most=2, device="cpu")
    evaluate.run(root)
    return root


def section_of(page: str, name: str) -> str:
    start = page.index(f'<section id="{name}">')
    return page[start : page.index("</section>", start)]


def words(html: str) -> str:
    return unescape(re.sub(r"(<[^>]+>|[ \n])+", " ", html))


def places_of(page: str) -> dict[str, Any]:
    data = re.search(r'id="places-data">(.*?)</script>', page)
    assert data
    places: dict[str, Any] = json.loads(data[1])
    return places


def test_metadata_robustness_and_an_audit_reach_the_files(root: Path) -> None:
    store = PackedStore(root / paths.PACKED)
    ids = store.ids("val")
    evaluation = json.loads((root / paths.EVALUATION).read_text())
    page = (root / paths.EVALUATION_PAGE).read_text()
    with (root / paths.IMAGE_TABLE).open(newline="") as file:
        rows = {row["image"]: row for row in csv.DictReader(file)}
    assert set(rows) == set(ids)
    listed = re.findall(r'data-column="image" data-value="([^"]+)"', page)
    assert listed == list(rows)
    places = places_of(page)

    # data.metadata: a slice for each site, with an interval and its images.
    known = store.metadata("val")
    assert known is not None
    for site in SITES:
        place, found = next(
            (place, one)
            for place, one in enumerate(evaluation["slices"])
            if (one["group"], one["name"]) == ("site (metadata)", site)
        )
        these = [one for one in ids if known.values[one] == (site,)]
        assert found["images"] == len(these) == 3
        assert found["miou_low"] <= found["miou"] <= found["miou_high"]
        images, *pairs = places[f"slice-{place}"]
        assert images == 3
        assert sorted(listed[row] for row in pairs[::2]) == sorted(these)
        shown = section_of(page, "slices")
        assert shown.count(f'data-only="slice-{place}"') == 2  # its name and its bar of recall
        assert site in words(shown)
    assert SITES[0] not in page

    # evaluate.robustness: every corruption in three strengths.
    corrupted = evaluation["robustness"]
    assert [one["name"] for one in corrupted["corruptions"]] == list(CORRUPTIONS)
    assert corrupted["clean"] == pytest.approx(evaluation["miou"])
    shown = words(section_of(page, "robustness"))
    for one in corrupted["corruptions"]:
        assert len(one["miou"]) == len(corrupted["strengths"]) == 3
        assert all(f"{value:.3f}" in shown for value in (*one["miou"], one["mean"]))

    # The audit: on the page and in the table, and in no metric.
    kept = read(root, store.split_hash("val"))
    assert kept is not None
    assert kept.segments
    assert "suspected" not in json.dumps(evaluation)
    marked = {
        one: row["suspected_pixels"] for one, row in rows.items() if row["suspected_label"] == "1"
    }
    assert set(marked) == set(kept.segments)
    assert {row["suspected_label"] for row in rows.values()} == {"0", "1"}
    assert all(0 < int(marked[one]) <= int(rows[one]["wrong_pixels"]) for one in marked)
    shown = words(section_of(page, "labels"))
    assert f"suspects the labels of {len(marked)} of the scored images" in shown
    assert f"In these, {number(sum(map(int, marked.values())))} wrong pixels" in shown
    assert places["suspected"][0] == len(marked)
    assert sorted(places["suspected"][2::2], reverse=True) == places["suspected"][2::2]
    assert tuple(next(iter(rows.values()))) == COLUMNS
