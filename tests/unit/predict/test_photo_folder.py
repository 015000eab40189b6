"""A folder as phones, browsers and strangers leave it: nothing is passed over without a word."""

from __future__ import annotations

import csv
import json
import logging
import os
from dataclasses import asdict
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from segops.predict.folder import predict_folder
from segops.predict.journal import FORMAT, JOURNAL, FinishedImage, outputs_in
from segops.predict.outputs import Options
from segops.predict.table import TABLE
from segops.runtime.errors import SegopsError
from tests.support.folder_runs import make_bundle

WHOLE = asdict(
    FinishedImage(
        format=FORMAT, mask="a.png", image="0", model="0", device="cpu", width=2, height=2,
        confidence=0.5, pixels=[4], outputs={"mask": "0"},
    )
)  # fmt: skip


def picture(seed: int = 0) -> Image.Image:
    return Image.fromarray(np.random.default_rng(seed).integers(0, 256, (20, 30, 3), np.uint8))


@pytest.fixture(scope="module")
def bundle(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_bundle(tmp_path_factory.mktemp("photo_folder") / "bundle")


@pytest.fixture
def photos(tmp_path: Path) -> Path:
    (tmp_path / "photos/sub").mkdir(parents=True)
    picture().save(tmp_path / "photos/plain.jpg")
    return tmp_path / "photos"


def test_what_is_passed_over_is_counted_by_kind(
    photos: Path, bundle: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    for name in ("chrome.jfif", "old.JPE"):
        picture().save(photos / name, "JPEG")
    for name in ("a.heic", "sub/b.HEIC", "raw.dng", "no-extension", ".DS_Store", TABLE):
        (photos / name).write_bytes(b"x")
    with caplog.at_level(logging.WARNING, "segops"):
        outcome = predict_folder(photos, bundle, tmp_path / "out", Options(overlay=False))
    assert (outcome.now, outcome.failed) == (3, [])
    (told,) = (one for one in caplog.messages if "passed over" in one)
    assert "4 file(s) passed over: 2 .heic, " in told
    assert "1 .dng" in told
    assert "1 without suffix" in told


def test_a_folder_without_images_says_what_lies_there(photos: Path, bundle: Path) -> None:
    (photos / "plain.jpg").unlink()
    for number in range(12):
        (photos / f"a.{number}").write_bytes(b"x")
    (photos / "b.0").write_bytes(b"x")
    with pytest.raises(SegopsError, match=r"holds no image; .* Passed over: 2 \.0, .*, 4 other\."):
        predict_folder(photos, bundle, photos.parent / "out")


@pytest.mark.parametrize("fmt", ["TIFF", "GIF", "PNG", "WEBP"])
def test_of_several_pictures_the_first_is_taken_and_this_is_said(
    fmt: str, photos: Path, bundle: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    path = photos / f"pages.{fmt.lower()}"
    picture().save(path, save_all=True, append_images=[picture(1)])
    with caplog.at_level(logging.WARNING, "segops"):
        outcome = predict_folder(path, bundle, tmp_path / "out", Options(overlay=False))
    assert outcome.now == 1
    assert caplog.messages == [f"{path}: holds several pictures; the first one is taken."]


def test_a_name_is_no_formula(photos: Path, bundle: Path, tmp_path: Path) -> None:
    picture().save(photos / "=HYPERLINK(1).jpg")
    predict_folder(photos, bundle, tmp_path / "out", Options(overlay=False))
    with (tmp_path / "out" / TABLE).open(newline="") as file:
        assert [row["image"] for row in csv.DictReader(file)] == [
            "./=HYPERLINK(1).jpg", "plain.jpg",
        ]  # fmt: skip


@pytest.mark.parametrize(
    "line",
    [
        {"strange": True}, [], None, 1, "text", "[" * 100_000, "1" * 5000,
        WHOLE | {"mask": ["a"]}, WHOLE | {"mask": ""}, WHOLE | {"mask": "/"},
        WHOLE | {"outputs": None}, WHOLE | {"outputs": {"strange": "0"}}, WHOLE | {"outputs": [1]},
        WHOLE | {"width": 0}, WHOLE | {"width": "2"}, WHOLE | {"pixels": "4"},
        WHOLE | {"format": FORMAT + 1}, WHOLE | {"confidence": "much"},
    ],
    ids=lambda line: str(line)[:40],
)  # fmt: skip
def test_a_stranger_s_journal_is_left_alone(
    line: object, photos: Path, bundle: Path, tmp_path: Path
) -> None:
    text = line if isinstance(line, str) and line != "text" else json.dumps(line)
    for directory in (photos, tmp_path / "out"):
        (directory / JOURNAL).parent.mkdir(parents=True)
        (directory / JOURNAL).write_text(f"{text}\n")
    assert outputs_in(photos) == set()
    outcome = predict_folder(photos, bundle, tmp_path / "out", Options(overlay=False))
    assert (outcome.now, outcome.failed) == (1, [])
    assert (photos / JOURNAL).read_text() == f"{text}\n"
    assert predict_folder(photos, bundle, tmp_path / "out", Options(overlay=False)).before == 1


def test_a_pipe_is_no_journal(photos: Path, bundle: Path, tmp_path: Path) -> None:
    (tmp_path / "out" / JOURNAL).parent.mkdir(parents=True)
    os.mkfifo(tmp_path / "out" / JOURNAL)
    with pytest.raises(SegopsError, match=r"predictions\.jsonl: a pipe"):
        predict_folder(photos, bundle, tmp_path / "out")
