"""The prediction log: whole lines, no pixels, no names unless they are asked for."""

from __future__ import annotations

import json
from datetime import UTC, datetime, timedelta
from pathlib import Path

import numpy as np
import pytest

from segops.predict import log as log_module
from segops.predict.folder import predict_folder
from segops.predict.log import PredictionLog, is_log, log_files, own_files, read_log
from segops.predict.observe import Observation, Predicted
from segops.runtime.errors import SegopsError
from tests.support.folder_runs import make_bundle, save

FEATURES = np.array([0.5, -2.25, 65504.0], np.float16)
OBSERVED = Observation("ab" * 32, 50, 37, (0.5, -1.25), Predicted((0.25, 0.75), 0.9, 0.1, FEATURES))


def test_a_line_comes_back_as_it_was_written(tmp_path: Path) -> None:
    log = PredictionLog(tmp_path / "log", "digest", names=True)
    log.add(OBSERVED, "a\udcff.jpg")
    log.add(Observation("cd" * 32, 1, 1, (0.0,)), "b.jpg")
    first, second = read_log(tmp_path / "log")
    assert (first.model, first.name) == ("digest", "a\\udcff.jpg")
    kept = first.observation.predicted
    assert kept is not None
    assert kept.embedding is not None
    assert kept.embedding.tolist() == FEATURES.tolist()
    assert (kept.shares, kept.confidence, kept.entropy) == ((0.25, 0.75), 0.9, 0.1)
    assert first.observation.statistics == OBSERVED.statistics
    assert second.observation.predicted is None


def test_each_process_has_its_file_and_a_torn_line_is_left_out(tmp_path: Path) -> None:
    for _ in range(2):
        PredictionLog(tmp_path, "digest").add(OBSERVED, "a.jpg")
    one, two = log_files(tmp_path)
    assert is_log(one)
    assert not is_log(tmp_path / "no.jpg")
    two.write_bytes(two.read_bytes()[:-20])
    assert len(list(read_log(tmp_path))) == 1


def test_each_day_has_its_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    log, day = PredictionLog(tmp_path, "digest"), datetime(2026, 3, 1, 23, 59, tzinfo=UTC)
    for minutes in (0, 0, 1, 2):
        monkeypatch.setattr(log_module, "_now", lambda: day + timedelta(minutes=minutes))  # noqa: B023
        log.add(OBSERVED, "a.jpg")
    files = log_files(tmp_path)
    assert [path.name[:8] for path in files] == ["20260301", "20260302"]
    assert [len(list(read_log(path))) for path in files] == [2, 2]
    (tmp_path / "theirs.jsonl").touch()
    assert own_files(tmp_path) == files


@pytest.mark.parametrize(
    ("changed", "said"),
    [
        ({"statistics": ["many"]}, "statistics"),
        ({"confidence": 3}, "confidence"),
        ({"format": 9}, "format"),
        ({"embedding": "!"}, "base64"),
        ({"embedding": "AHw="}, "not finite"),
    ],
)
def test_a_foreign_line_is_named(tmp_path: Path, changed: dict[str, object], said: str) -> None:
    PredictionLog(tmp_path, "digest").add(OBSERVED, "a.jpg")
    [path] = log_files(tmp_path)
    tree = json.loads(path.read_text())
    inner = tree["predicted"]
    for key, value in changed.items():
        (inner if key in inner else tree)[key] = value
    path.write_text(path.read_text() + json.dumps(tree) + "\n")
    with pytest.raises(SegopsError, match=rf"{path}:2: .*{said}"):
        list(read_log(tmp_path))


def test_a_prediction_logs_what_it_predicts(tmp_path: Path) -> None:
    for seed in range(3):
        save(tmp_path / f"photos/private{seed}.png", seed)
    bundle = make_bundle(tmp_path / "bundle")
    photos, out, log = tmp_path / "photos", tmp_path / "out", tmp_path / "log"
    predict_folder(photos, bundle, out, observations=log)
    lines = list(read_log(log))
    assert len(lines) == 3
    assert {one.observation.width for one in lines} == {50}
    assert all(one.observation.predicted is not None for one in lines)
    [path] = log_files(log)
    assert "private" not in path.read_text()
    predict_folder(photos, bundle, out, observations=log)
    assert log_files(log) == [path]  # nothing was predicted, so nothing is logged
    save(tmp_path / "photos/private0.png", 9)
    predict_folder(photos, bundle, out, observations=log, log_names=True)
    assert [one.name for one in read_log(log)][3:] == ["private0.png"]
