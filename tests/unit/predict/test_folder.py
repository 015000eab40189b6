"""Prediction of a directory: what is written, what is refused, and how much is under way."""

from __future__ import annotations

import os
from io import BytesIO
from pathlib import Path
from threading import Lock
from typing import Any

import numpy as np
import pandas as pd
import pytest
from numpy.typing import NDArray
from PIL import Image

from segops import files
from segops.predict import folder, image_files, outputs
from segops.predict.bundle import load_bundle
from segops.predict.folder import predict_folder
from segops.predict.journal import LOCK
from segops.predict.outputs import Options
from segops.predict.table import columns, write_table
from segops.report.overlay import overlay
from segops.runtime.bands import decode_consumer_bands
from segops.runtime.errors import SegopsError
from segops.runtime.images import decode_consumer_image
from segops.runtime.masks import read_mask
from tests.support.folder_runs import (
    NAMES,
    contents,
    finished_image,
    make_bundle,
    picture,
    save,
    shown,
    table,
)


@pytest.fixture
def photos(tmp_path: Path) -> Path:
    kinds = ("a.jpg", "b.JPEG", "c.png", "sub/a.bmp", "sub/d.TIF", "sub/deep/e.tiff", "f.WebP")
    for seed, name in enumerate(kinds):
        save(tmp_path / "photos" / name, seed, height=30 + seed)
    return tmp_path / "photos"


def test_every_image_gets_a_mask_an_overlay_and_a_row(
    photos: Path, bundle: Path, tmp_path: Path
) -> None:
    (photos / "notes.txt").write_text("no image")
    (photos / "._a.jpg").write_bytes(b"what another system keeps beside a file")
    outcome = predict_folder(photos, bundle, tmp_path / "out")
    assert (outcome.now, outcome.before, outcome.failed) == (7, 0, [])
    predictor, rows = load_bundle(bundle), table(tmp_path / "out")
    images = sorted(path for path in photos.rglob("*.*") if path.name[0] in "abcdef")
    names = [path.relative_to(photos).as_posix() for path in images]
    assert list(rows) == sorted(names)
    classes = set[int]()
    for path, name in zip(images, names, strict=True):
        image = decode_consumer_image(path.read_bytes(), name)
        expected = predictor.predict(image)
        target = (tmp_path / "out" / name).with_suffix(".png")
        np.testing.assert_array_equal(read_mask(target), expected.mask)
        with Image.open(target) as mask:
            assert mask.mode == "P"
        drawn = BytesIO()
        Image.fromarray(overlay(image, expected.mask)).save(drawn, "JPEG", quality=90)
        assert target.with_suffix(".overlay.jpg").read_bytes() == drawn.getvalue()
        shares = np.bincount(expected.mask.ravel(), minlength=3) / expected.mask.size
        figures = [float(f"{value:.6g}") for value in (expected.confidence, *shares)]
        assert rows[name] == {
            "width": image.shape[1],
            "height": image.shape[0],
            **dict(zip(("confidence", *NAMES), figures, strict=True)),
            "error": None,
        }
        classes |= set(np.unique(expected.mask).tolist())
    assert classes == {0, 1, 2}


@pytest.mark.parametrize("kind", ["avif", "gif", "JP2", "pgm", "ppm"])
def test_a_directory_s_rarer_kinds_are_done_too(kind: str, bundle: Path, tmp_path: Path) -> None:
    path = tmp_path / "photos" / f"one.{kind}"
    path.parent.mkdir()
    image = Image.fromarray(picture())
    (image.convert("L") if kind == "pgm" else image).save(path)
    assert predict_folder(path.parent, bundle, tmp_path / "out").now == 1
    assert read_mask(tmp_path / "out/one.png").shape == (37, 50)


def test_one_image_can_be_asked_for(bundle: Path, tmp_path: Path) -> None:
    path = save(tmp_path / "one.png")
    outcome = predict_folder(path, bundle, tmp_path / "out", Options(overlay=False))
    assert outcome.now == 1
    assert shown(tmp_path / "out") == {"one.png", "predictions.csv"}
    with pytest.raises(SegopsError, match="its mask would replace it"):
        predict_folder(path, bundle, tmp_path)


def test_an_image_is_predicted_as_it_is_seen(bundle: Path, tmp_path: Path) -> None:
    exif = Image.Exif()
    exif[0x0112] = 6
    save(tmp_path / "photos/turned.png", exif=exif)
    predict_folder(tmp_path / "photos", bundle, tmp_path / "out")
    mask = read_mask(tmp_path / "out/turned.png")
    upright = np.ascontiguousarray(np.rot90(picture(), -1))
    np.testing.assert_array_equal(mask, load_bundle(bundle).predict(upright).mask)
    row = table(tmp_path / "out")["turned.png"]
    assert (row["width"], row["height"]) == (37, 50)


def test_what_is_broken_is_named_and_the_rest_goes_on(
    photos: Path, bundle: Path, tmp_path: Path
) -> None:
    whole = (photos / "a.jpg").read_bytes()
    (photos / "cut.jpg").write_bytes(whole[:200])
    (photos / "empty.png").write_bytes(b"")
    (photos / "gone.png").symlink_to(photos / "nowhere.png")
    os.mkfifo(photos / "pipe.png")
    long = "x" * 240
    save(photos / f"{long}.png")
    save(photos / b"latin\xe9.png".decode(errors="surrogateescape"))
    (photos / b"broken\xe9.png".decode(errors="surrogateescape")).write_bytes(b"no image")
    outcome = predict_folder(photos, bundle, tmp_path / "out")
    assert (outcome.now, len(outcome.failed)) == (8, 6)
    rows = table(tmp_path / "out")
    assert list(rows) == sorted(rows)
    broken = {name: row for name, row in rows.items() if row["error"] is not None}
    assert set(broken) == {
        "broken\\udce9.png", "cut.jpg", "empty.png", "gone.png", "pipe.png", f"{long}.png",
    }  # fmt: skip
    for name, row in broken.items():
        assert name in row["error"]
        assert [value for value in row.values() if value is not None] == [row["error"]]
    assert "no such file" in broken["gone.png"]["error"]
    assert "too long" in broken[f"{long}.png"]["error"]
    (photos / "cut.jpg").write_bytes(whole)
    outcome = predict_folder(photos, bundle, tmp_path / "out")
    assert (outcome.now, outcome.before, len(outcome.failed)) == (1, 8, 5)


def test_a_mask_does_not_outlive_its_image(bundle: Path, tmp_path: Path) -> None:
    photos, out = tmp_path / "photos", tmp_path / "out"
    path = save(photos / "one.png")
    whole = path.read_bytes()
    predict_folder(photos, bundle, out)
    before = {name: (out / name).read_bytes() for name in shown(out)}
    assert set(before) == {"one.png", "one.overlay.jpg", "predictions.csv"}
    path.write_bytes(whole[:100])
    assert len(predict_folder(photos, bundle, out).failed) == 1
    assert shown(out) == {"predictions.csv"}
    path.write_bytes(whole)
    assert predict_folder(photos, bundle, out).now == 1
    assert {name: (out / name).read_bytes() for name in shown(out)} == before


def test_a_mask_outlives_a_run_that_could_not_do_its_image(
    bundle: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    photos, out = tmp_path / "photos", tmp_path / "out"
    save(photos / "one.png")
    predict_folder(photos, bundle, out)
    before = shown(out)
    monkeypatch.setattr(folder, "LARGEST_PROBABILITIES", 10)
    outcome = predict_folder(photos, bundle, out, Options(probabilities=True))
    assert "would take" in outcome.failed[0]
    assert shown(out) == before


def test_more_pixels_than_the_model_allows_are_refused_by_the_header(tmp_path: Path) -> None:
    bundle = make_bundle(tmp_path / "bundle", predict={"max_pixels": 2000})
    save(tmp_path / "photos/fits.png", height=40, width=50)
    save(tmp_path / "photos/large.png", height=41, width=50)
    # A header that says 60,000 x 60,000, and nothing behind it.
    content = bytearray((tmp_path / "photos/large.png").read_bytes())
    content[16:24] = (60_000).to_bytes(4, "big") * 2
    (tmp_path / "photos/bomb.png").write_bytes(content)
    outcome = predict_folder(tmp_path / "photos", bundle, tmp_path / "out")
    assert outcome.now == 1
    bomb, large = outcome.failed
    assert "bomb.png" in bomb
    assert "large.png: 50 x 41 pixels" in large
    assert "predict.max_pixels" in large


@pytest.mark.parametrize("names", [("a.jpg", "a.png"), ("sub/a.jpg", "sub/a.JPG")])
def test_two_images_with_one_mask_are_refused(
    names: tuple[str, str], bundle: Path, tmp_path: Path
) -> None:
    for name in names:
        save(tmp_path / "photos" / name)
    with pytest.raises(SegopsError, match=r"both masks would be .*a\.png. Rename one"):
        predict_folder(tmp_path / "photos", bundle, tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_outputs_below_the_source_are_no_images(photos: Path, bundle: Path) -> None:
    first = predict_folder(photos, bundle, photos / "out")
    other = predict_folder(photos, bundle, photos / "sub/other")
    again = predict_folder(photos, bundle, photos / "out")
    assert (first.now, other.now, again.now, again.before) == (7, 7, 0, 7)
    assert shown(photos / "out") == shown(photos / "sub/other")


def test_outputs_never_mix_with_images(photos: Path, bundle: Path, tmp_path: Path) -> None:
    save(photos / "sub/photos/a.png")
    for output, said in (
        (photos, "would lie among the images"),
        (photos / "sub", "outputs would mix with images"),
        (photos / "a.jpg", "is no directory"),
    ):
        with pytest.raises(SegopsError, match=said):
            predict_folder(photos, bundle, output)
    with pytest.raises(SegopsError, match="would lie among the images"):
        predict_folder(photos / "sub/photos", bundle, photos / "sub/photos/..///photos")
    before = contents(photos)
    # Above the source, where no mask comes to lie below it.
    assert predict_folder(photos, bundle, tmp_path).now == 8
    assert contents(photos) == before


def test_links_that_lead_back_are_not_followed(bundle: Path, tmp_path: Path) -> None:
    save(tmp_path / "photos/sub/a.jpg")
    (tmp_path / "photos/sub/up").symlink_to(tmp_path / "photos")
    (tmp_path / "linked").symlink_to(tmp_path / "photos")
    outcome = predict_folder(tmp_path / "linked", bundle, tmp_path / "out")
    assert outcome.now == 1
    assert list(table(tmp_path / "out")) == ["sub/a.jpg"]


def test_nothing_to_predict_is_an_error(bundle: Path, tmp_path: Path) -> None:
    (tmp_path / "none").mkdir()
    with pytest.raises(SegopsError, match=r"holds no image; expected \.avif, \.bmp"):
        predict_folder(tmp_path / "none", bundle, tmp_path / "out")
    with pytest.raises(SegopsError, match="no such file or directory"):
        predict_folder(tmp_path / "nowhere", bundle, tmp_path / "out")


def test_what_cannot_be_written_stops_the_run(photos: Path, bundle: Path, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(SegopsError, match="cannot be written: Not a directory"):
        predict_folder(photos, bundle, tmp_path / "file/out")
    (tmp_path / "out/c.png").mkdir(parents=True)
    with pytest.raises(SegopsError, match=r"c\.png.* cannot be written"):
        predict_folder(photos, bundle, tmp_path / "out")
    assert not (tmp_path / "out/predictions.csv").exists()
    (tmp_path / "out/c.png").rmdir()
    outcome = predict_folder(photos, bundle, tmp_path / "out")
    assert outcome.now + outcome.before == 7
    assert outcome.before > 0


def test_two_runs_do_not_write_in_one_place(photos: Path, bundle: Path, tmp_path: Path) -> None:
    with (
        files.exclusive(tmp_path / "out" / LOCK, "a prediction"),
        pytest.raises(SegopsError, match="a prediction is under way"),
    ):
        predict_folder(photos, bundle, tmp_path / "out")


def test_probabilities_are_those_of_the_mask(photos: Path, bundle: Path, tmp_path: Path) -> None:
    predict_folder(photos, bundle, tmp_path / "out", Options(probabilities=True))
    found = np.load(tmp_path / "out/sub/d.probabilities.npy", mmap_mode="r")
    mask = read_mask(tmp_path / "out/sub/d.png")
    assert (found.dtype, found.shape) == (np.float16, (3, *mask.shape))
    assert found.min() >= 0
    np.testing.assert_allclose(found.astype(float).sum(axis=0), 1, atol=2e-3)
    chosen = np.take_along_axis(found, mask[None].astype(int), 0)[0]
    np.testing.assert_array_equal(chosen, found.max(axis=0))
    confidence = table(tmp_path / "out")["sub/d.TIF"]["confidence"]
    assert confidence == pytest.approx(chosen.mean(dtype=float), abs=1e-3)


def test_probabilities_that_are_too_large_are_refused_by_name(
    bundle: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(folder, "LARGEST_PROBABILITIES", 3 * 50 * 40 * 2)
    save(tmp_path / "photos/fits.png", height=40)
    save(tmp_path / "photos/large.png", height=41)
    outcome = predict_folder(
        tmp_path / "photos", bundle, tmp_path / "out", Options(probabilities=True)
    )
    assert outcome.now == 1
    assert "large.png: its probabilities would take" in outcome.failed[0]
    assert "(3 classes, 50 x 41 pixels, 2 bytes each)" in outcome.failed[0]


def test_an_explanation_shows_a_class(bundle: Path, tmp_path: Path) -> None:
    for seed in range(2):
        save(tmp_path / f"photos/{seed}.png", seed)
    found: dict[str, NDArray[Any]] = {}
    for name in ("cat", "dog", "auto"):
        options = Options(overlay=False, explain=name)
        predict_folder(tmp_path / "photos", bundle, tmp_path / name, options)
        with Image.open(tmp_path / name / "0.explain.jpg") as view:
            found[name] = np.array(view)
        assert found[name].shape == picture().shape
    row = table(tmp_path / "auto")["0.png"]
    largest = "cat" if row["cat"] > row["dog"] else "dog"
    np.testing.assert_array_equal(found["auto"], found[largest])
    assert (found["cat"] != found["dog"]).any()


def test_auto_explains_nothing_where_there_is_background_alone(tmp_path: Path) -> None:
    empty = make_bundle(tmp_path / "empty", bias=1e4)
    save(tmp_path / "photos/a.png")
    for run in range(2):
        outcome = predict_folder(
            tmp_path / "photos", empty, tmp_path / "out", Options(explain="auto")
        )
        assert outcome.now == 1 - run
    assert shown(tmp_path / "out") == {"a.png", "a.overlay.jpg", "predictions.csv"}


def test_an_unknown_class_is_refused_before_any_work(
    photos: Path, bundle: Path, tmp_path: Path
) -> None:
    said = "--explain tiger: the model has no such class. Expected auto or one of background, cat"
    with pytest.raises(SegopsError, match=said):
        predict_folder(photos, bundle, tmp_path / "out", Options(explain="tiger"))
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(("images", "size"), [(5, 1 << 30), (32, 3 * 37 * 50 * 16), (32, 1)])
def test_what_is_under_way_is_bounded(
    images: int, size: int, bundle: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for seed in range(24):
        save(tmp_path / f"photos/{seed}.png", seed)
    decode, write = decode_consumer_bands, outputs.write
    lock, names, most = Lock(), set[str](), [0]

    def spied_decode(content: bytes, name: str, *limits: Any) -> NDArray[np.uint8]:
        with lock:
            names.add(Path(name).stem)
            most[0] = max(most[0], len(names))
        return decode(content, name, *limits)

    def spied_write(mask: Path, *arguments: Any) -> dict[str, str | None]:
        written = write(mask, *arguments)
        with lock:
            names.remove(mask.stem)
        return written

    monkeypatch.setattr(folder, "IMAGES_AT_ONCE", images)
    monkeypatch.setattr(folder, "BYTES_AT_ONCE", size)
    monkeypatch.setattr(image_files, "decode_consumer_bands", spied_decode)
    monkeypatch.setattr(outputs, "write", spied_write)
    assert predict_folder(tmp_path / "photos", bundle, tmp_path / "out").now == 24
    assert not names
    assert most[0] <= {1 << 30: 5, 1: 1}.get(size, 3)
    assert size == 1 or most[0] > 1


@pytest.mark.parametrize("shape", [(1, 1), (9, 1), (1, 9), (23, 31)])
def test_an_overlay_drawn_by_strips_is_the_whole_one(
    shape: tuple[int, int], monkeypatch: pytest.MonkeyPatch
) -> None:
    random = np.random.default_rng(0)
    image = random.integers(0, 256, (*shape, 3), dtype=np.uint8)
    mask = random.integers(0, 3, shape, dtype=np.uint8)
    for pixels in (1, 31, 70, 10_000):
        monkeypatch.setattr(outputs, "_STRIP", pixels)
        np.testing.assert_array_equal(outputs.draw_overlay(image, mask), overlay(image, mask))


def test_an_overlay_wider_than_a_jpeg_is_made_smaller(bundle: Path, tmp_path: Path) -> None:
    save(tmp_path / "photos/strip.png", height=2, width=66_000)
    assert predict_folder(tmp_path / "photos", bundle, tmp_path / "out").failed == []
    with Image.open(tmp_path / "out/strip.overlay.jpg") as drawn:
        assert drawn.width == 65_500
    assert read_mask(tmp_path / "out/strip.png").shape == (2, 66_000)


def test_a_class_called_like_a_column_is_told_apart(tmp_path: Path) -> None:
    names = ("background", "image", 'sign, "stop"')
    assert columns(names)[4:] == ["background", "class image", 'sign, "stop"', "error"]
    entry = finished_image((4, 2), 0.5, (1, 7, 0))
    write_table(tmp_path / "table.csv", names, [("a", entry), ("b", "broken,\nby far")])
    found = pd.read_csv(tmp_path / "table.csv")
    assert found.columns.tolist() == columns(names)
    assert found.iloc[0, 1:7].tolist() == [4, 2, 0.5, 1 / 8, 7 / 8, 0]
    assert found["error"].tolist()[1] == "broken,\nby far"


def test_figures_are_written_to_six_significant_digits(tmp_path: Path) -> None:
    entry = finished_image((1000, 700), 0.9876543210987654, (466_666, 7, 233_327))
    write_table(tmp_path / "table.csv", ("a", "b", "c"), [("one", entry)])
    row = (tmp_path / "table.csv").read_text().splitlines()[1]
    assert row == "one,1000,700,0.987654,0.666666,1e-05,0.333324,"
