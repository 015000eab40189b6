"""`segops data labels`: with trainings of its own and with a model; its list leaves images out."""

from __future__ import annotations

import csv
import logging
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from typer.testing import CliRunner

from benchmarks import label_audit as benchmark
from segops import paths
from segops.cli import app
from segops.data.store import PackedStore
from segops.evaluate.suspects import read
from segops.label_check import folds
from segops.label_check.audit import KEPT, PAGE, SUSPECTS, TABLE, audit_labels
from segops.label_check.folds import BUNDLE
from segops.params.file import load_params
from segops.predict.bundle import read_model
from segops.runtime.classes import VOC_CLASSES
from segops.runtime.errors import SegopsError
from segops.runtime.masks import write_mask
from segops.runtime.networks.zoo import ModelSpec, build
from segops.voc.layout import Layout, open_layout
from segops.voc.use import use
from tests.support.bundles import write_bundle
from tests.support.tune_workspace import prepare, tree_of
from tools.sample import CLASS_IDS

WIDTH = {"options": {"width": 4}}


@pytest.fixture
def root(tiny_voc: Path, one_thread: None) -> Path:
    """A workspace with 12 train and 6 val images, ready for training."""
    return prepare(tiny_voc.parent, model=WIDTH)


@pytest.fixture
def one_thread() -> None:
    torch.set_num_threads(1)


def audited(root: Path, monkeypatch: pytest.MonkeyPatch, *arguments: str) -> str:
    monkeypatch.chdir(root)
    done = CliRunner().invoke(app, ["data", "labels", *arguments], catch_exceptions=False)
    assert done.exit_code == 0, done.output
    return done.output


def test_folds_judge_every_image_and_are_kept(
    root: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO, "segops")
    before = {name: data for name, data in tree_of(root).items() if not name.startswith(".segops")}
    said = audited(root, monkeypatch, "--epochs", "1", "--folds", "2", "--most", "4")
    assert "18 images judged" in said
    assert "dvc repro --force --single-item evaluate" in said
    suspects = (root / "reports" / SUSPECTS).read_text().split()
    assert len(suspects) == 4
    with (root / "reports" / TABLE).open(newline="") as file:
        rows = list(csv.DictReader(file))
    assert len({row["image"] for row in rows}) == 18
    assert list(dict.fromkeys(row["image"] for row in rows))[:4] == suspects
    page = (root / "reports" / PAGE).read_text()
    assert page.count("data:image/jpeg") == 12
    after = {
        name: data for name, data in tree_of(root).items()
        if not name.startswith((".segops", "reports"))
    }  # fmt: skip
    assert after == before, "nothing of the workspace's own changes"
    store = PackedStore(root / paths.PACKED)
    found = read(root, store.split_hash("val"))
    assert found is not None
    assert found.judged == 6
    assert set(found.segments) == set(suspects) & set(store.ids("val"))
    assert read(root, store.split_hash("train")) is None
    trained = [
        set(read_model(root / KEPT / str(number) / BUNDLE)["training_images"]) for number in (0, 1)
    ]
    assert trained[0] | trained[1] == {*store.ids("train"), *store.ids("val")}
    assert not trained[0] & trained[1]
    # Again: nothing is trained, and the results are the same.
    caplog.clear()
    kept = tree_of(root / "reports")
    monkeypatch.setattr(folds, "train", None)
    audited(root, monkeypatch, "--epochs", "1", "--folds", "2", "--most", "4")
    assert caplog.text.count("trained before") == 2
    assert tree_of(root / "reports") == kept
    # Other parameters train anew.
    with pytest.raises(TypeError):
        audited(root, monkeypatch, "--epochs", "2", "--folds", "2")
    # The list leaves its images out.
    out = root / "less"
    use(root / "voc", out, tuple(suspects))
    left = {one for ids in open_layout(out).splits().values() for one in ids}
    assert len(left) == 14
    assert not left & set(suspects)


def test_a_model_judges_only_what_it_did_not_see(
    root: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    store = PackedStore(root / paths.PACKED)
    spec = ModelSpec("plain_cnn", "", len(VOC_CLASSES), WIDTH["options"])
    seen = {one: store.image_sha256(one) for one in store.ids("train")}
    write_bundle(root / "mine", build(spec), spec, VOC_CLASSES, seen, {})
    monkeypatch.setattr(folds, "train", None)
    said = audited(root, monkeypatch, "--model", "mine", "--out", "found")
    assert "12 images left out" in said
    assert "6 images judged" in said
    assert set((root / "found" / SUSPECTS).read_text().split()) <= set(store.ids("val"))
    settings = load_params(root)
    with pytest.raises(SegopsError, match="mine: was trained on all 12 images of train"):
        audit_labels(root, settings, ("train",), root / "none", model=str(root / "mine"))
    assert not (root / "none").exists()
    other = ModelSpec("plain_cnn", "", 3, WIDTH["options"])
    write_bundle(root / "other", build(other), other, ("background", "a", "b"), {}, {})
    with pytest.raises(SegopsError, match="the model knows the classes background, a, b"):
        audit_labels(root, settings, ("val",), root / "none", model=str(root / "other"))
    mask = Layout(root / settings.data.path).mask_path(store.ids("val")[0])
    write_mask(mask, np.zeros(store.size(mask.stem), np.uint8))
    with pytest.raises(SegopsError, match="packed from other files than"):
        audit_labels(root, settings, ("val",), root / "none", model=str(root / "mine"))


def test_a_workspace_that_is_not_prepared_is_told(tmp_path: Path) -> None:
    (tmp_path / "params.yaml").write_text("{}")
    with pytest.raises(SegopsError, match="no data are prepared"):
        audit_labels(tmp_path, load_params(tmp_path), ("train",), tmp_path / "reports")


@pytest.mark.slow
def test_planted_errors_come_first(tmp_path: Path, one_thread: None) -> None:
    """Of 9 planted errors in 90 masks; chance finds one in ten."""
    root = prepare(coloured_boxes(tmp_path / "checkout", 90), augment=PLAIN, model=WIDTH)
    planted = benchmark.plant(open_layout(root / "voc"), 9)
    benchmark.prepare(root)
    audit = audit_labels(
        root, load_params(root), ("train",), root / "reports", folds=2, epochs=12, most=9
    )
    precision = benchmark.measure(root, planted, audit, {}).precision
    assert precision["chance"] == 0.1
    assert precision["softmin"] >= 0.6, precision
    assert precision["segments"] >= 0.4, precision


PLAIN = {"flip": {"p": 0.5}, "color_jitter": {"p": 0.0}, "photometric": {"p": 0.0}}


def coloured_boxes(root: Path, count: int) -> Path:
    """Two boxes an image in a colour of their class; each is surrounded by void."""
    layout, rng = Layout(root / "voc"), np.random.default_rng(0)
    for part in ("JPEGImages", "SegmentationClass"):
        (layout.root / part).mkdir(parents=True)
    ids = [f"{number:03d}" for number in range(count + 2)]
    for number, image_id in enumerate(ids):
        image = rng.integers(90, 150, (64, 80, 3), dtype=np.uint8)
        mask = np.zeros((64, 80), np.uint8)
        for place in (0, 40):
            chosen = (number + place) // 3 % 3
            left, top = place + rng.integers(3, 10), rng.integers(3, 20)
            box = np.s_[top : top + rng.integers(20, 38), left : left + rng.integers(15, 26)]
            mask[box] = 255
            mask[box][1:-1, 1:-1] = CLASS_IDS[chosen]
            image[box] = rng.integers(0, 60, image[box].shape)
            image[box][..., chosen] += 180
        Image.fromarray(image).save(layout.image_path(image_id).with_suffix(".png"))
        write_mask(layout.mask_path(image_id), mask)
    layout.write_list("train", ids[:count])
    layout.write_list("val", ids[count:])
    return root
