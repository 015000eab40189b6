"""Slices by what is known of the images, and their intervals."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest

from segops.evaluate import subsets as module
from segops.evaluate.bootstrap import COLUMNS, interval, miou_from_counts
from segops.evaluate.subsets import metadata_slices, subset_places, subsets, with_intervals
from segops.params.evaluate import EvaluateParams
from segops.report.sections import slices
from segops.voc.metadata import Metadata

SETTINGS = EvaluateParams(bootstrap_samples=200)
IDS = tuple(f"image{number}" for number in range(8))


def counts_of(ids: tuple[str, ...] = IDS) -> pd.DataFrame:
    """Background and one object in each image, of which ever more is found."""
    rows = []
    for number, image_id in enumerate(ids):
        rows.append((image_id, "", 0, 800, 900 - 10 * number, 850))
        rows.append((image_id, "", 1, 10 * number, 10 * number + 50, 100))
    return pd.DataFrame(rows, columns=list(COLUMNS))


def metadata_of(sites: str, cameras: str = "") -> Metadata:
    known = zip(sites.split(), (cameras or sites).split(), strict=True)
    clean = [tuple("" if one == "-" else one for one in row) for row in known]
    return Metadata(("site", "camera"), dict(zip(IDS, clean, strict=True)))


def test_a_slice_has_the_figures_of_its_images_alone() -> None:
    counts = counts_of()
    found = metadata_slices(
        counts, metadata_of("A B A B A B A B", "x - x x x x x x"), IDS, 0, SETTINGS
    )
    assert [(one["group"], one["name"], one["images"]) for one in found] == [
        ("site (metadata)", "A", 4),
        ("site (metadata)", "B", 4),
        ("camera (metadata)", "x", 7),
        ("camera (metadata)", "not known", 1),
    ]
    part = counts[counts["image_id"].isin(IDS[::2])]
    first = found[0]
    assert first["miou"] == miou_from_counts(part, (0, 1))
    assert (first["miou_low"], first["miou_high"]) == interval(part, 200, 0.95, 0)
    assert first["miou_low"] < first["miou"] < first["miou_high"]
    assert (first["pixels"], first["recall"]) == (400, (0 + 20 + 40 + 60) / 400)
    assert (first["objects"], first["found"]) == (None, None)
    alone = found[-1]
    assert alone["miou"] is not None
    assert (alone["miou_low"], alone["miou_high"]) == (None, None)


def test_without_a_background_every_class_counts_for_recall() -> None:
    (one, _) = metadata_slices(counts_of(), metadata_of("A " * 8), IDS, None, SETTINGS)
    assert one["pixels"] == 8 * 950


def test_images_of_void_alone_have_no_figure() -> None:
    void = counts_of().iloc[:0]
    (one, _) = metadata_slices(void, metadata_of("A " * 8), IDS, 0, SETTINGS)
    figures = ("recall", "miou", "miou_low", "miou_high")
    assert [one[name] for name in figures] == [None] * 4


def test_rare_values_are_one_slice(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "MOST_VALUES", 2)
    metadata = metadata_of("d c a a b b - -", "1 " * 8)
    named = [(name, these) for group, name, these in subsets(metadata, IDS) if "site" in group]
    assert named == [
        ("a", IDS[2:4]), ("b", IDS[4:6]), ("2 others", IDS[:2]), ("not known", IDS[6:]),
    ]  # fmt: skip


def test_no_two_slices_of_a_column_have_one_name(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "MOST_VALUES", 2)
    values = ("2 others", "2 others", "not known", "", "a", "a", "b", "(2 others)")
    metadata = Metadata(("site",), {one: (value,) for one, value in zip(IDS, values, strict=True)})
    assert subsets(metadata, IDS) == [
        ("site (metadata)", "2 others", IDS[:2]),
        ("site (metadata)", "a", IDS[4:6]),
        ("site (metadata)", "((2 others))", IDS[6:]),
        ("site (metadata)", "not known", IDS[2:4]),
    ]
    rows = metadata_slices(counts_of(), metadata, IDS, 0, SETTINGS)
    shown = slices({"slices": rows}, [])
    places = subset_places(metadata, IDS, IDS, 0)
    assert [(one["key"], one["images"]) for one in shown] == [
        (key, place.images) for key, place in places.items()
    ]


def test_images_that_were_not_scored_are_left_out() -> None:
    found = subsets(metadata_of("A B A B A B A B"), IDS[:3])
    assert [(name, these) for _, name, these in found[:2]] == [
        ("A", (IDS[0], IDS[2])),
        ("B", (IDS[1],)),
    ]


def test_a_click_on_a_slice_lists_its_images_in_the_order_of_the_table() -> None:
    places = subset_places(metadata_of("A B A B A B A B"), IDS, IDS[5:1:-1], 7)
    assert list(places) == ["slice-7", "slice-8", "slice-9", "slice-10"]
    assert places["slice-7"].images == 4
    assert places["slice-7"].rows == ((1, 0), (3, 0))


def test_scenes_get_the_interval_of_their_images() -> None:
    counts = counts_of()
    scenes = [{"name": "small", "miou": None}, {"name": "crowded", "miou": 0.5}]
    small, crowded = with_intervals(scenes, counts, {1: IDS[:4]}, SETTINGS)
    assert small == scenes[0]
    part = counts[counts["image_id"].isin(IDS[:4])]
    assert crowded["miou"] == miou_from_counts(part, (0, 1))
    assert (crowded["miou_low"], crowded["miou_high"]) == interval(part, 200, 0.95, 0)
    assert np.isfinite([crowded["miou_low"], crowded["miou_high"]]).all()
