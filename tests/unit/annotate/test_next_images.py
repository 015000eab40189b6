"""`segops data next`: what is left out, chosen, and written for a labelling tool."""

from __future__ import annotations

import csv
import shutil
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image
from typer.testing import CliRunner, Result

from segops.annotate import next_images, unlabelled
from segops.annotate.drafts import FOLDER, PAGE, TABLE
from segops.cli import app
from segops.importers import cvat
from segops.predict.bundle import BundledPredictor, load_bundle
from segops.predict.image_files import File
from segops.predict.observe import Observe
from segops.runtime.errors import SegopsError
from segops.runtime.masks import read_mask, write_mask
from segops.voc.layout import IMAGES, MASKS, Layout
from tests.support.browser import measured, needs_browser
from tests.support.drifting import ordinary
from tests.support.folder_runs import NAMES, save
from tests.unit.report.test_hostile_names import IDS

SIZE = (90, 120)


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A workspace with 4 labelled images, and a directory of new and of known ones."""
    root = tmp_path_factory.mktemp("next")
    (root / "dvc.yaml").write_text("stages: {}\n")
    (root / "params.yaml").write_text(f"data: {{path: voc, classes: [{', '.join(NAMES)}]}}\n")
    layout = Layout(root / "voc")
    for seed in range(4):
        save(layout.root / IMAGES / f"old{seed}.jpg", seed, *SIZE, quality=95)
        (layout.root / MASKS).mkdir(exist_ok=True)
        write_mask(layout.mask_path(f"old{seed}"), np.zeros(SIZE, np.uint8))
    layout.write_list("train", ["old0", "old1", "old2"])
    layout.write_list("val", ["old3"])
    images = root / "photos"
    for seed in range(10, 16):
        save(images / f"a/{seed}.png", seed, *SIZE)
    save(images / f"b/{IDS[0]}.jpg", 20, *SIZE)
    Image.fromarray(ordinary(3, *SIZE)).save(images / "=1+1.png")
    return root


@pytest.fixture
def root(made: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    target = tmp_path / "root"
    shutil.copytree(made, target)
    monkeypatch.chdir(target)
    return target


def choose(root: Path, bundle: Path, count: int, *arguments: str) -> Result:
    fixed = ["--images", str(root / "photos"), "--model", str(bundle), "--device", "cpu"]
    return CliRunner().invoke(app, ["data", "next", str(count), *fixed, *arguments])


def rows(output: Path) -> list[dict[str, str]]:
    with (output / TABLE).open(newline="") as file:
        return list(csv.DictReader(file))


def test_the_choice_is_written_as_a_list_a_page_and_a_data_set(root: Path, bundle: Path) -> None:
    done = choose(root, bundle, 5)
    assert done.exit_code == 0, (done.output, done.exception)
    assert "5 images of 8 chosen" in done.output
    found = rows(root / "next")
    assert [row["rank"] for row in found] == list("12345")
    worth = [float(row["uncertainty"]) * float(row["distance"]) for row in found]
    assert worth == sorted(worth, reverse=True)

    layout = Layout(root / "next" / FOLDER)
    predictor = load_bundle(bundle)
    ids = [row["id"].removeprefix("./") for row in found]
    assert layout.ids("train") == tuple(ids)
    for row, image_id in zip(found, ids, strict=True):
        source = root / "photos" / row["image"].removeprefix("./")
        [copy] = (one for one in (layout.root / IMAGES).iterdir() if one.stem == image_id)
        assert copy.read_bytes() == source.read_bytes()
        pixels = np.asarray(Image.open(source).convert("RGB"))
        mask = read_mask(layout.mask_path(image_id))
        np.testing.assert_array_equal(mask, predictor.predict_mask(pixels))
        assert Image.open(layout.mask_path(image_id)).mode == "P"
    drawn = {label for one in ids for label in np.unique(read_mask(layout.mask_path(one)))}
    assert len(drawn) > 1

    taken = cvat.read(layout.root)
    assert not taken.problems
    assert {image.image_id: image.split for image in taken.images} == dict.fromkeys(ids, "train")
    first = next(image for image in taken.images if image.image_id == ids[0])
    labels = first.draw(SIZE[::-1])
    names = np.array([NAMES.index(label) for label in labels.labels])
    np.testing.assert_array_equal(names[labels.indices], read_mask(layout.mask_path(ids[0])))

    before = {path: path.read_bytes() for path in (root / "next").rglob("*") if path.is_file()}
    again = choose(root, bundle, 5)
    assert isinstance(again.exception, SegopsError)
    assert "--overwrite" in str(again.exception)
    assert choose(root, bundle, 5, "--overwrite").exit_code == 0
    assert before == {p: p.read_bytes() for p in (root / "next").rglob("*") if p.is_file()}


def test_known_and_repeated_images_are_left_out_and_counted(root: Path, bundle: Path) -> None:
    photos = root / "photos"
    shutil.copy(root / "voc" / IMAGES / "old0.jpg", photos / "same file.jpg")
    old = Image.open(root / "voc" / IMAGES / "old3.jpg")
    old.save(photos / "same pixels.png")
    old.resize((60, 45)).save(photos / "small.jpg")
    old.transpose(Image.Transpose.FLIP_LEFT_RIGHT).save(photos / "mirrored.png")
    Image.open(photos / "a/10.png").save(photos / "z.jpg", quality=60)
    done = choose(root, bundle, 99)
    assert "8 images of 13 chosen" in done.output
    assert "4 in the data set, 1 that repeat" in done.output
    names = {row["image"].removeprefix("./") for row in rows(root / "next")}
    assert names == {*(f"a/{seed}.png" for seed in range(10, 16)), f"b/{IDS[0]}.jpg", "=1+1.png"}


def test_ids_of_chosen_images_are_free(root: Path, bundle: Path) -> None:
    shutil.rmtree(root / "photos")
    for seed, name in enumerate(("x/y.png", "x_y.jpg", "old1.png"), 30):
        save(root / "photos" / name, seed, *SIZE)
    assert choose(root, bundle, 3).exit_code == 0
    ids = [row["id"] for row in rows(root / "next")]
    assert len({*ids, "old1"}) == 4
    assert len(list((root / "next" / FOLDER / MASKS).iterdir())) == 3


def test_bad_images_are_named_and_the_rest_is_ranked(root: Path, bundle: Path) -> None:
    (root / "photos/torn.jpg").write_bytes(b"\xff\xd8\xff\xe0 torn")
    done = choose(root, bundle, 2)
    assert done.exit_code == 1
    assert "1 image could not be read" in str(done.exception)
    assert "torn.jpg" in str(done.exception)
    assert len(rows(root / "next")) == 2


def test_images_that_do_not_fit_into_memory_are_named_and_the_rest_is_ranked(
    root: Path, bundle: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    save(root / "photos/large.png", 40, 60, 200)
    save(root / "photos/huge.png", 41, 60, 202)
    predicted, decoded = next_images._predicted, unlabelled.decode_files

    def predict(observe: Observe, image: NDArray[np.uint8]) -> object:
        if image.shape[1] == 200:
            raise RuntimeError("DefaultCPUAllocator: can't allocate memory: you tried")
        return predicted(observe, image)

    def decode(held: list[File], predictor: BundledPredictor) -> NDArray[np.uint8]:
        pixels = decoded(held, predictor)
        if pixels.shape[1] == 202:
            raise MemoryError
        return pixels

    monkeypatch.setattr(next_images, "_predicted", predict)
    monkeypatch.setattr(unlabelled, "decode_files", decode)
    done = choose(root, bundle, 2)
    assert isinstance(done.exception, SegopsError)
    assert "2 images could not be read" in str(done.exception)
    for name in ("large.png", "huge.png"):
        assert f"{name}: does not fit into memory" in str(done.exception)
    assert len(rows(root / "next")) == 2

    save(root / "voc" / IMAGES / "old0.jpg", 0, 60, 200)
    done = choose(root, bundle, 2, "--output", "other")
    assert isinstance(done.exception, SegopsError)
    assert "old0.jpg: does not fit into memory" in str(done.exception)
    assert not (root / "other").exists()


def test_what_cannot_be_done_is_refused_and_nothing_is_written(root: Path, bundle: Path) -> None:
    def refused(*arguments: str) -> str:
        done = choose(root, bundle, 2, *arguments)
        assert isinstance(done.exception, SegopsError), done.output
        assert not (root / "next").exists()
        return str(done.exception)

    for inside in ("photos/next", "voc/next"):
        assert "among the images" in refused("--output", str(root / inside))
    (root / "other").mkdir()
    (root / "other/file").touch()
    assert "something else" in refused("--overwrite", "--output", str(root / "other"))
    (root / TABLE).touch()  # as if it held an earlier choice
    told = refused("--overwrite", "--output", str(root))
    assert f"photos: lies in {root}, which would be replaced" in told
    shutil.rmtree(root / "photos")
    assert "no such file" in refused()
    shutil.copytree(root / "voc" / IMAGES, root / "photos")
    assert "4 are in the data set" in refused()


@needs_browser
def test_the_page_shows_names_as_they_stand_and_fits_a_telephone(
    root: Path, bundle: Path, tmp_path: Path
) -> None:
    assert choose(root, bundle, 8).exit_code == 0
    page = root / "next" / PAGE
    script = """
    const page = document.scrollingElement;
    return {scrolls: page.scrollWidth > innerWidth, title: document.title,
      loaded: [...document.images].every((one) => one.naturalWidth > 0),
      pictures: document.images.length,
      text: document.body.textContent};
    """
    for width in (420, 1200):
        seen = measured(page, width, script)
        assert seen["title"] == "Images to annotate next · segops"
        assert (seen["scrolls"], seen["loaded"], seen["pictures"]) == (False, True, 16)
        assert f"b/{IDS[0]}.jpg" in seen["text"]

    (root / "params.yaml").write_text(
        (root / "params.yaml").read_text() + "report: {pictures: false}\n"
    )
    assert choose(root, bundle, 8, "--overwrite").exit_code == 0
    assert "data:image/jpeg" not in page.read_text()
