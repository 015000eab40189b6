"""The evaluate stage on generated data: what it writes, twice the same, and what it refuses."""

from __future__ import annotations

import csv
import json
import math
import re
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from hypothesis import given
from hypothesis import strategies as st

from segops import paths
from segops.data.packing import pack
from segops.data.store import PackedStore
from segops.evaluate import kept_champion
from segops.evaluate.bootstrap import COLUMNS, interval, miou_from_counts, true_classes
from segops.evaluate.kept_champion import ChampionEvaluation
from segops.evaluate.pictures import image_scores, rank
from segops.evaluate.score import EXPLAINED
from segops.metrics.wrong_pixels import KINDS
from segops.predict.bundle import TORCH, bundle_digest
from segops.runtime.classes import VOC_CLASSES
from segops.runtime.errors import SegopsError
from segops.stages import evaluate
from segops.voc.layout import open_layout
from tests.support.bundles import write_bundle
from tests.unit.evaluate.test_score import SPEC, lively
from tools.sample import generate

PHOTOGRAPH = "/9j/"
"""How a JPEG file begins in base 64."""
WRITTEN = (
    paths.EVALUATION,
    paths.COUNTS,
    paths.CONFUSION_PLOT,
    paths.CLASS_PLOT,
    paths.EVALUATION_PAGE,
    paths.IMAGE_TABLE,
)


def workspace(root: Path, params: str) -> Path:
    generate(root / "voc", train=2, val=6, seed=3, size=(80, 64))
    pack(open_layout(root / "voc"), root / paths.PACKED, VOC_CLASSES)
    network = lively(PackedStore(root / paths.PACKED))
    write_bundle(root / paths.SEGMENTER, network, SPEC, VOC_CLASSES, {}, {})
    (root / "params.yaml").write_text(params)
    return root


@pytest.fixture(scope="module")
def evaluated(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = workspace(
        tmp_path_factory.mktemp("one"), "hardware: {threads: 1}\nregistry: {model: cracks}\n"
    )
    evaluate.run(root)
    return root


def test_the_evaluation_holds_every_figure(evaluated: Path) -> None:
    found = json.loads((evaluated / paths.EVALUATION).read_text())
    store = PackedStore(evaluated / paths.PACKED)
    counts = pd.read_parquet(evaluated / paths.COUNTS)
    assert list(found) == [
        "split",
        "images",
        "miou",
        "miou_low",
        "miou_high",
        "confidence",
        "miou_truth_or_prediction",
        "boundary",
        "union_errors",
        "calibration",
        "pixel_accuracy",
        "mean_class_accuracy",
        "frequency_weighted_iou",
        "mean_precision",
        "mean_recall",
        "mean_f1",
        "classes",
        "slices",
        "confusions",
        "errors",
        "background",
        "predict",
        "data_hash",
        "val_hash",
        "weights_sha256",
        "bundle_digest",
    ]
    assert (found["split"], found["images"], found["confidence"]) == ("val", 6, 0.95)
    assert found["miou"] == pytest.approx(miou_from_counts(counts, true_classes(counts)))
    assert (found["miou_low"], found["miou_high"]) == interval(counts, 1000, 0.95, 0)
    assert found["miou_low"] < found["miou_high"]
    assert found["data_hash"] == store.data_hash
    assert found["val_hash"] == store.split_hash("val")
    assert found["bundle_digest"] == bundle_digest(evaluated / paths.SEGMENTER)
    assert list(found["classes"]) == list(VOC_CLASSES)
    absent = found["classes"]["dog"]  # the sample has no dogs
    assert absent["truth_pixels"] == 0
    assert absent["recall"] in (None, 0)
    sums = counts.groupby("class_id")[["intersection", "predicted", "truth"]].sum()
    for label, row in sums.iterrows():
        figures = found["classes"][VOC_CLASSES[int(str(label))]]
        assert figures["intersection"] == row["intersection"]
        assert figures["predicted_pixels"] == row["predicted"]
        assert figures["truth_pixels"] == row["truth"]
        iou = row["intersection"] / (row["predicted"] + row["truth"] - row["intersection"])
        assert figures["iou"] == pytest.approx(iou)


def test_the_plots_hold_the_confusion_matrix_and_the_classes(evaluated: Path) -> None:
    with (evaluated / paths.CONFUSION_PLOT).open() as file:
        cells = list(csv.DictReader(file))
    counts = pd.read_parquet(evaluated / paths.COUNTS)
    assert list(cells[0]) == ["actual", "predicted", "pixels", "share"]
    assert sum(int(cell["pixels"]) for cell in cells) == counts["truth"].sum()
    for label in {cell["actual"] for cell in cells}:
        shares = [float(cell["share"]) for cell in cells if cell["actual"] == label]
        assert sum(shares) == pytest.approx(1, abs=1e-4)
    with (evaluated / paths.CLASS_PLOT).open() as file:
        classes = list(csv.DictReader(file))
    evaluation = json.loads((evaluated / paths.EVALUATION).read_text())
    assert len(classes) == len(true_classes(counts))
    mean = np.mean([float(row["iou"]) for row in classes])
    assert mean == pytest.approx(evaluation["miou"], abs=1e-5)


def test_every_image_has_its_row(evaluated: Path) -> None:
    """Each figure against one that is computed from the table of counts and the page's JSON."""
    counts = pd.read_parquet(evaluated / paths.COUNTS)
    scores = image_scores(counts)
    with (evaluated / paths.IMAGE_TABLE).open() as file:
        rows = list(csv.DictReader(file))
    assert [row["image"] for row in rows] == rank(scores)
    page = (evaluated / paths.EVALUATION_PAGE).read_text()
    shown = json.loads(page.partition('id="gallery-data">')[2].partition("</script>")[0])
    errors = {one["id"]: one["errors"] for one in shown}
    for row in rows:
        own = counts[counts["image_id"] == row["image"]]
        assert float(row["score"]) == pytest.approx(scores[row["image"]], rel=1e-5)
        assert int(row["labelled_pixels"]) == own["truth"].sum()
        assert int(row["wrong_pixels"]) == (own["truth"] - own["intersection"]).sum()
        kinds = {kind: int(row[kind.replace(" ", "_")]) for kind in KINDS}
        assert sum(kinds.values()) == int(row["wrong_pixels"])
        for kind, pixels in kinds.items():
            assert pixels == sum(one[2] for one in errors[row["image"]] if one[1] == kind)
        true = own[own["truth"] > 0]
        union = true["truth"] + true["predicted"] - true["intersection"]
        values = dict(zip(true["class_id"], true["intersection"] / union, strict=True))
        assert float(row["worst_class_iou"]) == pytest.approx(min(values.values()), abs=1e-6)
        assert values[VOC_CLASSES.index(row["worst_class"])] == min(values.values())
        assert f'data-column="image" data-value="{row["image"]}"' in page


def test_the_page_shows_the_images_and_explains_the_worst(evaluated: Path) -> None:
    page = (evaluated / paths.EVALUATION_PAGE).read_text()
    scores = image_scores(pd.read_parquet(evaluated / paths.COUNTS))
    for image_id in rank(scores):
        assert f'"{image_id}"' in page
    assert page.count(PHOTOGRAPH) == len(scores)
    assert len(scores) <= EXPLAINED
    assert page.count('"explained": "') == len(scores)
    assert "champion, version" not in page
    weights = json.loads((evaluated / paths.EVALUATION).read_text())["weights_sha256"]
    head = page[page.index("<h1>") : page.index("<nav")]
    assert re.search(
        r"Model <strong>cracks</strong>; plain_cnn, made from \d+ images of train; "
        rf"weights <code>{weights[:12]}</code>; "
        r"evaluated \d{4}-\d\d-\d\d \d\d:\d\d UTC\.",
        head,
    )


def test_speed_and_memory_stand_beside_the_evaluation(evaluated: Path) -> None:
    found = json.loads((evaluated / paths.EXPORT_PARITY).read_text())
    assert list(found) == [TORCH]
    one = found[TORCH]
    assert 0 < one["milliseconds_p50"] <= one["milliseconds_p95"]
    assert one["images_per_second"] == pytest.approx(1000 / one["milliseconds_p50"], rel=0.9)
    assert one["peak_mib"] > 100
    assert (one["device"], one["threads"], one["device_peak_mib"]) == ("cpu", 1, None)
    kernels = {
        2: [(3, 8, 9), (8, 8, 9)],
        4: [(8, 16, 9), (16, 16, 9)],
        8: [(16, 32, 9), (32, 32, 9), (32, 21, 1)],
    }
    norms = 2 * 2 * (8 + 16 + 32)
    products = {stride: sum(map(math.prod, layers)) for stride, layers in kernels.items()}
    assert one["parameters"] == sum(products.values()) + norms + 21
    assert one["size"] == [80, 64]
    height, width = 96, 64  # the network pads to multiples of 32
    assert one["multiply_adds"] == sum(
        (height // stride) * (width // stride) * each for stride, each in products.items()
    )
    page = (evaluated / paths.EVALUATION_PAGE).read_text()
    section = page.partition('<section id="speed">')[2].partition("</section>")[0]
    assert f"{one['milliseconds_p50']:.1f}</td>" in section
    assert "cpu, 1 thread</td>" in section
    assert 'id="exports"' not in page
    evaluation = (evaluated / paths.EVALUATION).read_text()
    assert "milliseconds" not in evaluation  # the same evaluation has the same bytes


def test_the_same_inputs_give_the_same_bytes_and_private_photographs_stay_out(
    evaluated: Path, tmp_path: Path
) -> None:
    quiet = "report: {pictures: false}\nevaluate: {speed: false}\n"
    again = workspace(tmp_path, "hardware: {threads: 1}\n" + quiet)
    store = PackedStore(again / paths.PACKED)
    evaluation = json.loads((evaluated / paths.EVALUATION).read_text())
    counts = pd.read_parquet(evaluated / paths.COUNTS)
    champion = ChampionEvaluation(
        model="segops",
        version="7",
        bundle_digest="another",
        class_names=VOC_CLASSES,
        trained_on=frozenset(),
        val_hash=evaluation["val_hash"],
        evaluation=evaluation,
        counts=counts.assign(intersection=counts["intersection"] // 2),
    )
    kept_champion.write(again, champion)
    evaluate.run(again)
    for name in WRITTEN:
        same = (again / name).read_bytes() == (evaluated / name).read_bytes()
        assert same == (name != paths.EVALUATION_PAGE), name
    page = (again / paths.EVALUATION_PAGE).read_text()
    assert PHOTOGRAPH not in page
    assert 'id="speed"' not in page
    assert json.loads((again / paths.EXPORT_PARITY).read_text()) == {}
    assert not any(image_id in page for image_id in store.ids("val"))
    assert "champion, version 7" in page


@pytest.mark.parametrize("key", ["training_images", "training_pixels"])
def test_a_model_that_was_trained_on_val_is_not_evaluated(tmp_path: Path, key: str) -> None:
    root = workspace(tmp_path, "")
    store = PackedStore(root / paths.PACKED)
    seen = store.ids("val")[2]
    hashes = {"training_images": store.image_sha256, "training_pixels": store.pixel_sha256}
    path = root / paths.SEGMENTER / "model.json"
    changed = json.loads(path.read_text()) | {key: {"copy_under_another_name": hashes[key](seen)}}
    path.write_text(json.dumps(changed))
    with pytest.raises(SegopsError, match=rf"trained on 1 image\(s\) of val: {seen}"):
        evaluate.run(root)
    assert not (root / paths.EVALUATION).exists()


def test_a_missing_model_is_named(tmp_path: Path) -> None:
    root = workspace(tmp_path, "")
    (root / paths.SEGMENTER / "model.json").unlink()
    with pytest.raises(SegopsError, match=r"model\.json: no such file"):
        evaluate.run(root)


def test_an_image_score_is_the_mean_over_the_images_own_true_classes() -> None:
    rows = [
        ("a", "", 0, 8, 10, 10),  # 8 / 12
        ("a", "", 1, 0, 0, 2),  # 0
        ("a", "", 2, 0, 2, 0),  # not in the truth: no part of it
        ("b", "", 0, 5, 5, 5),
        ("c", "", 0, 0, 3, 0),  # all void
    ]
    found = image_scores(pd.DataFrame(rows, columns=list(COLUMNS)))
    assert found == {"a": pytest.approx(8 / 12 / 2), "b": 1.0}


@given(st.dictionaries(st.text("abcde", min_size=1, max_size=4), st.floats(0, 1)))
def test_the_rank_goes_from_the_worst_image_to_the_best(scores: dict[str, float]) -> None:
    ranked = rank(scores)
    assert sorted(ranked) == sorted(scores)
    assert [scores[one] for one in ranked] == sorted(scores.values())
