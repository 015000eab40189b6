"""Suspected label errors, set apart from those of the model."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import numpy as np
import pandas as pd
import pytest

from segops import files, paths
from segops.evaluate.bootstrap import COLUMNS, interval, miou_from_counts
from segops.evaluate.places import suspected_place
from segops.evaluate.suspects import Suspect, contradicted, keep, label_errors, read
from segops.metrics.confusion import confusion_matrix
from segops.params.evaluate import EvaluateParams
from segops.quality.label_scores import Segment
from tests.support.registry_workspace import git

SETTINGS = EvaluateParams(bootstrap_samples=200)
IDS = ("a", "b", "c", "d")
BY = "other models"


def masks() -> tuple[np.ndarray, np.ndarray]:
    """A label that lacks the left half of an object, and a prediction that has it, and errs."""
    truth, prediction = np.zeros((2, 20, 30), np.uint8)
    truth[5:15, 10:15], prediction[5:15, 5:15] = 1, 1
    prediction[0:2, 0:10] = 1  # outside of the suspect
    prediction[8, 6] = 2  # within it, but not what the audit says
    return truth, prediction


def test_a_pixel_counts_where_model_and_audit_agree_against_the_label() -> None:
    truth, prediction = masks()
    one, other = Suspect(0, 1, (5, 5, 15, 15)), Suspect(0, 1, (0, 0, 10, 20))
    assert contradicted(truth, prediction, [one]) == 10 * 5 - 1
    assert contradicted(truth, prediction, [one, other]) == 10 * 5 - 1 + 20  # none counts twice
    assert contradicted(truth, prediction, [Suspect(1, 0, (0, 0, 30, 20))]) == 0


def scored() -> tuple[Any, Any]:
    """Scores and a store of four images with the same masks."""
    truth, prediction = masks()
    confusion = confusion_matrix(truth, prediction, 3)
    rows = []
    for number, image_id in enumerate(IDS):
        rows.append((image_id, "", 0, 500 + number, 520, 550))
        rows.append((image_id, "", 1, 40, 80, 50))
    scores = SimpleNamespace(
        images=IDS,
        counts=pd.DataFrame(rows, columns=list(COLUMNS)),
        confusion=4 * confusion,
        bundle_digest="b",
        prediction=lambda image_id: prediction,
    )
    store = SimpleNamespace(mask=lambda image_id: truth, split_hash=lambda split: "h")
    return scores, store


def errors(root: Path, masks: bool = True) -> Any:
    scores, store = scored()
    return label_errors(root, cast("Any", scores), cast("Any", store), "val", SETTINGS, masks)


def test_the_page_is_told_of_the_suspects_of_its_data(tmp_path: Path) -> None:
    assert errors(tmp_path) is None
    segments = [Segment(0.9, 0, 1, (5, 5, 15, 15), 50)]
    keep(tmp_path, "h", BY, "other", 4, {"b": segments, "x": segments, "d": []})
    found = errors(tmp_path)
    assert (found.by, found.judged, found.pixels) == (BY, 4, {"b": 49, "d": 0})
    assert (found.counted, found.wrong) == (49, 4 * (50 + 20))
    rest = scored()[0].counts
    rest = rest[rest["image_id"].isin(["a", "c"])]
    assert found.miou == miou_from_counts(rest, (0, 1))
    assert (found.miou_low, found.miou_high) == interval(rest, 200, 0.95, 0)
    assert suspected_place(found, ("d", "a", "b")).rows == ((2, 49), (0, 0))
    without = errors(tmp_path, masks=False)
    assert without.pixels == {"b": None, "d": None}
    assert without.counted is None


def test_an_audit_of_other_labels_or_by_the_model_itself_says_nothing(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    keep(tmp_path, "before", BY, "other", 4, {"b": []})
    assert errors(tmp_path) is None
    keep(tmp_path, "h", BY, "b", 4, {"b": []})
    caplog.set_level("INFO", "segops")
    assert errors(tmp_path) is None
    assert "judged by this very model" in caplog.text


def test_an_audit_of_the_main_checkout_is_seen_in_a_worktree(tmp_path: Path) -> None:
    main, tree = tmp_path / "main", tmp_path / "tree"
    main.mkdir()
    git(main, "init", "--quiet")
    git(main, "-c", "user.name=a", "-c", "user.email=a@b", "commit", "--allow-empty", "-qm", "a")
    git(main, "worktree", "add", "--quiet", str(tree))
    for maker, reader in ((main, tree), (tree, main)):
        keep(maker, "h", maker.name, "other", 4, {"b": []})
        found = read(reader, "h")
        assert found is not None
        assert found.by == maker.name
    assert not (tree / paths.STATE).exists()


@pytest.mark.parametrize("box", [[5, 5, 15], [5, 5, 15, 15, 20], [5, 5, 15, "x"], 5])
def test_a_box_of_another_form_is_refused(
    box: Any, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    keep(tmp_path, "h", BY, "other", 4, {"b": [Segment(0.9, 0, 1, (5, 5, 15, 15), 50)]})
    path = tmp_path / paths.LABEL_AUDIT
    content = files.read_json(path)
    content["segments"]["b"] = [[0, 1, *box] if isinstance(box, list) else box]
    files.write_json(path, content)
    assert read(tmp_path, "h") is None
    assert f"{path}: not readable" in caplog.text


@pytest.mark.parametrize("text", ["{", "[]", '{"split_hash": "h"}', '{"split_hash": 3}'])
def test_a_damaged_file_stops_no_evaluation(tmp_path: Path, text: str) -> None:
    path = tmp_path / paths.LABEL_AUDIT
    path.parent.mkdir()
    path.write_text(text)
    assert errors(tmp_path) is None
