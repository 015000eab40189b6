"""A model against another on the page, and the champion that is kept for it."""

from __future__ import annotations

import json
import logging
import math
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest

from segops import paths
from segops.evaluate import kept_champion
from segops.evaluate.bootstrap import paired_difference, true_classes, without_images
from segops.evaluate.comparison import oppose
from segops.evaluate.kept_champion import ChampionEvaluation, opponent
from segops.evaluate.metrics_file import evaluation_from_counts
from segops.metrics.catalogue import compute_metrics
from segops.metrics.counts import SplitCounts
from segops.metrics.iou import class_pixels
from segops.params.evaluate import EvaluateParams
from segops.report.page_inputs import Opponent
from segops.runtime.errors import SegopsError
from tests.unit.evaluate.test_bootstrap import rival, simulate, table

NAMES = ("background", "cat", "dog", "bird", "sofa", "chair")
SETTINGS = EvaluateParams(bootstrap_samples=200, confidence=0.9, seed=4)
VAL = "e" * 64


def pair(images: int = 20, seed: int = 0) -> tuple[pd.DataFrame, pd.DataFrame]:
    """Counts of a model and of a worse one on the same images."""
    random = np.random.default_rng(seed)
    worse = simulate(random, images)
    return table(rival(random, worse, 0.1)), table(worse)


def champion(counts: pd.DataFrame, **changes: Any) -> ChampionEvaluation:
    evaluation = evaluation_from_counts(counts, NAMES, SETTINGS)
    fields: dict[str, Any] = {
        "model": "segops",
        "version": "3",
        "bundle_digest": "c" * 64,
        "class_names": NAMES,
        "trained_on": frozenset({"trained"}),
        "val_hash": VAL,
        "evaluation": evaluation,
        "counts": counts,
    }
    return ChampionEvaluation(**fields | changes)


def met(root: Path, counts: pd.DataFrame, digest: str = "d" * 64) -> Opponent | None:
    return opponent(root, counts, VAL, NAMES, digest, {"other"}, SETTINGS)


def test_an_opponent_has_the_two_sided_interval_of_what_neither_was_trained_on() -> None:
    ours, theirs = pair()
    seen = [f"{image:064x}" for image in (2, 7, 11)]
    found = oppose("version 3", ours, theirs, {"miou": 0.5}, seen, SETTINGS, NAMES)
    assert (found.name, found.images, found.excluded) == ("version 3", 17, 3)
    assert found.evaluation == {"miou": 0.5}
    assert found.confidence == 0.9
    ours, theirs = without_images(ours, seen), without_images(theirs, seen)
    both = paired_difference(ours, theirs, true_classes(ours), 200, 0.95, 4)
    assert (found.miou.difference, found.miou.low, found.miou.high) == (
        both.difference,
        both.low,
        both.high,
    )
    one_sided = paired_difference(ours, theirs, true_classes(ours), 200, 0.9, 4)
    assert found.miou.low < one_sided.low
    assert list(found.classes) == [NAMES[label] for label in true_classes(ours)]
    mean = np.mean([one.difference for one in found.classes.values()])
    assert mean == pytest.approx(found.miou.difference)


def test_classes_that_are_only_in_images_left_out_are_not_compared() -> None:
    random = np.random.default_rng(0)
    worse = simulate(random, 20)
    better = rival(random, worse, 0.1)
    worse[:, 5] = better[:, 5] = 0
    worse[3, 5], better[3, 5] = (1, 2, 3), (2, 2, 3)
    ours, theirs = table(better), table(worse)
    found = oppose("x", ours, theirs, {}, (), SETTINGS, NAMES).classes["chair"]
    assert found.difference == pytest.approx(2 / 3 - 1 / 4)
    assert math.isnan(found.low)
    assert math.isnan(found.high)
    assert "chair" not in oppose("x", ours, theirs, {}, {f"{3:064x}"}, SETTINGS, NAMES).classes


def test_nothing_left_to_compare_on_is_an_error() -> None:
    ours, theirs = pair(3)
    with pytest.raises(SegopsError, match="version 3: no labelled image is left"):
        oppose("version 3", ours, theirs, {}, set(ours["image_sha256"]), SETTINGS, NAMES)


def test_an_evaluation_from_counts_has_the_metrics_of_the_confusion_matrix() -> None:
    random = np.random.default_rng(0)
    confusions = random.integers(0, 50, (9, 6, 6))
    confusions[:, 3] = 0  # predicted but never true
    confusions[:, 4] = confusions[:, :, 4] = 0  # nowhere
    confusions[:, :, 5] = 0  # true but never predicted
    dense = np.stack(
        [confusions.diagonal(axis1=1, axis2=2), confusions.sum(axis=1), confusions.sum(axis=2)], 2
    )
    found = evaluation_from_counts(table(dense), NAMES, SETTINGS)
    expected = compute_metrics(SplitCounts(class_pixels(confusions.sum(axis=0))), NAMES)
    for name, figures in expected.pop("classes").items():
        assert found["classes"][name] == pytest.approx(figures)
    assert {name: found[name] for name in expected} == pytest.approx(expected)
    assert found["images"] == 9
    assert found["miou_low"] < found["miou"] < found["miou_high"]
    json.dumps(found, allow_nan=False)


def test_the_champion_is_kept_and_met(tmp_path: Path) -> None:
    ours, theirs = pair()
    kept = champion(theirs, trained_on=frozenset({f"{5:064x}"}))
    kept_champion.write(tmp_path, kept)
    found = kept_champion.read(tmp_path)
    assert found is not None
    pd.testing.assert_frame_equal(found.counts, theirs)
    for name in ("model", "version", "bundle_digest", "class_names", "trained_on", "evaluation"):
        assert getattr(found, name) == getattr(kept, name)
    met_one = met(tmp_path, ours)
    assert met_one is not None
    assert met_one.name == "champion, version 3"
    assert (met_one.images, met_one.excluded) == (19, 1)  # the champion was trained on one
    assert met_one.miou.difference > 0
    assert met_one.evaluation == kept.evaluation


@pytest.mark.parametrize(
    ("changes", "says"),
    [
        ({"bundle_digest": "d" * 64}, ""),
        ({"val_hash": "f" * 64}, "was scored on other val data"),
        ({"class_names": (*NAMES[:5], "stool")}, "was scored with other classes"),
        ({"trained_on": frozenset(f"{image:064x}" for image in range(20))}, "no labelled image"),
    ],
)
def test_who_is_no_opponent(
    changes: dict[str, Any], says: str, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO, "segops")
    ours, theirs = pair()
    kept_champion.write(tmp_path, champion(theirs, **changes))
    assert met(tmp_path, ours) is None
    assert says in caplog.text


def test_another_truth_is_no_opponent(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """As after masks were changed by hand behind the hash: the page is made, with a warning."""
    ours, theirs = pair()
    theirs["truth"] += theirs["truth"] == theirs["truth"].max()
    kept_champion.write(tmp_path, champion(theirs))
    assert met(tmp_path, ours) is None
    assert "not scored on the same images and masks" in caplog.text


def test_no_champion_or_half_a_champion_is_passed_over(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    ours, theirs = pair()
    caplog.set_level(logging.INFO, "segops")
    assert met(tmp_path, ours) is None
    assert "No champion of this val is known here" in caplog.text
    kept_champion.write(tmp_path, champion(theirs))
    kept = tmp_path / paths.KEPT_CHAMPION
    (kept / "evaluation.json").write_text('{"miou": 1.0}\n')  # of another champion
    assert met(tmp_path, ours) is None
    assert "do not belong together" in caplog.text
    (kept / "evaluation.json").unlink()
    assert met(tmp_path, ours) is None
    assert "is not whole" in caplog.text


def test_a_write_that_fails_leaves_the_old_champion(tmp_path: Path) -> None:
    ours, theirs = pair()
    kept_champion.write(tmp_path, champion(theirs))
    with pytest.raises(ValueError, match="JSON"):
        kept_champion.write(
            tmp_path, champion(ours, version="4", evaluation={"miou": float("nan")})
        )
    found = kept_champion.read(tmp_path)
    assert found is not None
    assert found.version == "3"
    assert [one.name for one in (tmp_path / paths.STATE).iterdir()] == ["reference"]
