"""Scoring in a process of its own: exact counts, checks before code is run, readable errors."""

from __future__ import annotations

import json
import math
import subprocess
import sys
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
from torch import nn

from segops.data.packing import pack
from segops.data.store import PackedStore
from segops.evaluate import kept_masks
from segops.evaluate.bootstrap import COLUMNS, miou_from_counts, true_classes
from segops.evaluate.score import Scores, score
from segops.metrics.iou import class_pixels, miou
from segops.predict.bundle import bundle_digest, load_bundle
from segops.predict.machine import describe
from segops.runtime.classes import VOC_CLASSES, VOID
from segops.runtime.errors import SegopsError
from segops.runtime.networks.zoo import ModelSpec, build
from segops.voc.layout import open_layout
from tests.support.bundles import weights_sha256, write_bundle
from tools.sample import generate

SPEC = ModelSpec("plain_cnn", "", 21, {"width": 8})


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> PackedStore:
    place = tmp_path_factory.mktemp("data")
    generate(place / "voc", train=2, val=5, seed=3, size=(80, 64))
    pack(open_layout(place / "voc"), place / "packed", VOC_CLASSES)
    return PackedStore(place / "packed")


def lively(store: PackedStore, spec: ModelSpec = SPEC) -> nn.Module:
    """A network without training that predicts many classes on the images of a store."""
    torch.manual_seed(0)
    network = build(spec).eval()
    for module in network.modules():
        if isinstance(module, nn.Conv2d):
            nn.init.kaiming_normal_(module.weight)
    with torch.no_grad():
        means = [
            network(torch.from_numpy(np.array(store.image(one))).permute(2, 0, 1)[None]).mean(
                (0, 2, 3)
            )
            for one in store.ids("val")
        ]
        network.network.score.bias -= torch.stack(means).mean(dim=0)
    return network


@pytest.fixture
def bundle(tmp_path: Path) -> Path:
    write_bundle(tmp_path / "bundle", build(SPEC), SPEC, VOC_CLASSES, {}, {})
    return tmp_path / "bundle"


@pytest.fixture(scope="module")
def scored(
    store: PackedStore, tmp_path_factory: pytest.TempPathFactory
) -> tuple[Scores, Path, str]:
    place = tmp_path_factory.mktemp("scored")
    write_bundle(place / "bundle", lively(store), SPEC, VOC_CLASSES, {}, {})
    with (place / "bundle" / "runtime" / "errors.py").open("a") as file:
        file.write("\nimport os\nprint('noise on standard output', os.getcwd())\n")
    hidden = store.image_sha256(store.ids("val")[1])
    scores = score(
        place / "bundle",
        store,
        "val",
        place / "out",
        bundle_digest(place / "bundle"),
        "cpu",
        threads=1,
        exclude_sha256=[hidden],
        masks=True,
    )
    return scores, place / "bundle", hidden


def test_the_counts_are_those_of_the_masks(
    scored: tuple[Scores, Path, str], store: PackedStore
) -> None:
    scores, bundle, _ = scored
    predictor = load_bundle(bundle)
    expected, confusion = [], np.zeros((21, 21), np.int64)
    for image_id in scores.images:
        truth, found = store.mask(image_id), predictor.predict(store.image(image_id)).mask
        np.testing.assert_array_equal(scores.prediction(image_id), found)
        counted = truth != VOID
        for label in range(21):
            both = int(((truth == label) & (found == label)).sum())
            predicted = int(((found == label) & counted).sum())
            true = int((truth == label).sum())
            if predicted or true:
                sha256 = store.image_sha256(image_id)
                expected.append((image_id, sha256, label, both, predicted, true))
            for other in range(21):
                confusion[label, other] += ((truth == label) & (found == other)).sum()
    pd.testing.assert_frame_equal(scores.counts, pd.DataFrame(expected, columns=list(COLUMNS)))
    np.testing.assert_array_equal(scores.confusion, confusion)
    assert (scores.counts["predicted"] > 0).sum() > 10  # not all background
    classes = true_classes(scores.counts)
    assert miou_from_counts(scores.counts, classes) == pytest.approx(
        miou(*class_pixels(confusion)), abs=1e-15
    )
    assert scores.confusion.dtype == np.int64
    for name in COLUMNS[2:]:
        assert scores.counts[name].dtype == np.int64


def test_images_that_do_not_count_are_left_out(
    scored: tuple[Scores, Path, str], store: PackedStore
) -> None:
    scores, _, hidden = scored
    assert scores.excluded == (store.ids("val")[1],)
    assert len(scores.images) == 4
    assert hidden not in set(scores.counts["image_sha256"])
    with pytest.raises(SegopsError, match="holds no masks of"):
        scores.prediction(scores.excluded[0])


def test_it_says_what_was_run(scored: tuple[Scores, Path, str]) -> None:
    scores, bundle, _ = scored
    assert scores.bundle_digest == bundle_digest(bundle)
    assert scores.weights_sha256 == weights_sha256(bundle)
    assert scores.class_names == VOC_CLASSES


def test_a_changed_bundle_is_refused_and_nothing_is_written(
    bundle: Path, store: PackedStore, tmp_path: Path
) -> None:
    digest, trace = bundle_digest(bundle), tmp_path / "was run"
    with (bundle / "runtime" / "errors.py").open("a") as file:
        file.write(f"\nopen({str(trace)!r}, 'w').close()\n")
    with pytest.raises(SegopsError, match="its code was not run"):
        score(bundle, store, "val", tmp_path / "out", digest, "cpu")
    assert not trace.exists()
    assert sorted(path.name for path in tmp_path.iterdir()) == ["bundle"]


def test_an_empty_digest_is_not_that_of_a_bundle(
    bundle: Path, store: PackedStore, tmp_path: Path
) -> None:
    with pytest.raises(SegopsError, match="its code was not run"):
        score(bundle, store, "val", tmp_path / "out", "", "cpu")


def test_what_is_printed_while_libraries_are_imported_does_no_harm(
    bundle: Path, store: PackedStore, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "sitecustomize.py").write_text(
        "import os, sys\n"
        "os.write(1, b'a line\\n')\n"
        "def listen(event, args):\n"
        "    if event == 'import' and args[0] == 'cv2':\n"
        "        os.write(1, b'no line')\n"
        "sys.addaudithook(listen)\n"
    )
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    with pytest.raises(SegopsError, match="its code was not run"):  # the worker's own words
        score(bundle, store, "val", tmp_path / "out", "another digest", "cpu")


def test_a_crash_of_the_bundles_code_is_told(
    bundle: Path, store: PackedStore, tmp_path: Path
) -> None:
    with (bundle / "runtime" / "errors.py").open("a") as file:
        file.write("\nraise RuntimeError('the flux capacitor is empty')\n")
    with pytest.raises(SegopsError, match=r"status 1(.|\n)*the flux capacitor is empty"):
        score(bundle, store, "val", tmp_path / "out", None, "cpu")
    assert not (tmp_path / "out").exists()


def test_a_model_of_other_classes_is_refused(store: PackedStore, tmp_path: Path) -> None:
    names = ("background", *reversed(VOC_CLASSES[1:]))
    write_bundle(tmp_path / "bundle", build(SPEC), SPEC, names, {}, {})
    with pytest.raises(SegopsError, match="They must be the same, in the same order"):
        score(tmp_path / "bundle", store, "val", tmp_path / "out", None, "cpu")


def test_an_id_that_is_no_class_is_told_with_its_image(tmp_path: Path) -> None:
    generate(tmp_path / "voc", train=2, val=2, seed=3, size=(80, 64))
    layout = open_layout(tmp_path / "voc")
    pack(layout, tmp_path / "packed", VOC_CLASSES[:2])  # the sample has ids above 1
    spec = ModelSpec("plain_cnn", "", 2, {"width": 8})
    write_bundle(tmp_path / "bundle", build(spec), spec, VOC_CLASSES[:2], {}, {})
    with pytest.raises(SegopsError, match=r"truth holds id .*expected ids below 2"):
        score(
            tmp_path / "bundle",
            PackedStore(tmp_path / "packed"),
            "val",
            tmp_path / "out",
            None,
            "cpu",
        )


def test_what_is_no_bundle_is_named(store: PackedStore, tmp_path: Path) -> None:
    with pytest.raises(SegopsError, match="nowhere: no such directory"):
        score(tmp_path / "nowhere", store, "val", tmp_path / "out")


def test_the_parent_does_without_torch() -> None:
    program = (
        "import sys, json, segops.evaluate.score, segops.stages.evaluate;"
        "print(json.dumps(sorted({'torch', 'mlflow'} & set(sys.modules))))"
    )
    done = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, check=True
    )
    assert json.loads(done.stdout) == []


def test_the_masks_of_a_few_images_are_kept(
    scored: tuple[Scores, Path, str], store: PackedStore, tmp_path: Path
) -> None:
    scores, bundle, hidden = scored
    path = tmp_path / "kept.json"
    kept_masks.write(path, kept_masks.of(scores, store))
    kept = kept_masks.read(path.read_bytes(), "kept.json")
    assert kept.bundle_digest == bundle_digest(bundle)
    assert kept.machine == describe("cpu", 1)
    assert len(kept.masks) == kept_masks.MOST
    assert [one.image_id for one in kept.masks] == kept_masks.chosen(store, scores.images)
    for one in kept.masks:
        np.testing.assert_array_equal(one.mask, scores.prediction(one.image_id))
        assert one.sha256 == store.image_sha256(one.image_id) != hidden
    for other in (path.read_bytes().replace(b'"images"', b'"pictures"'), b"{", b"[]"):
        with pytest.raises(SegopsError, match=r"kept\.json: no kept masks"):
            kept_masks.read(other, "kept.json")


def test_the_kept_images_are_spread_evenly_and_not_huge(
    store: PackedStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    ids = store.ids("val")
    assert kept_masks.chosen(store, ids) == [ids[0], ids[1], ids[2], ids[4]]
    assert kept_masks.chosen(store, ids[:2]) == list(ids[:2])
    assert kept_masks.chosen(store, ()) == []
    smallest = min(math.prod(store.size(one)) for one in ids)
    monkeypatch.setattr(kept_masks, "LARGEST", smallest - 1)
    assert kept_masks.chosen(store, ids) == []
