"""What the scoring process does, here in this process: figures, order, errors, old bundles."""

from __future__ import annotations

import ast
import json
import math
import shutil
import threading
import time
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch
from numpy.typing import NDArray

from segops.data.packing import pack
from segops.data.store import PackedStore
from segops.evaluate import scoring
from segops.evaluate.pictures import image_scores
from segops.evaluate.score import ERRORS
from segops.metrics.catalogue import compute_metrics
from segops.metrics.counts import SplitCounts
from segops.metrics.iou import class_pixels
from segops.metrics.split_figures import SplitFigures, judge_image
from segops.predict import parallel
from segops.predict.bundle import BundledPredictor, bundle_digest, load_bundle
from segops.predict.explain import explain
from segops.predict.machine import describe
from segops.runtime.classes import VOC_CLASSES
from segops.runtime.errors import SegopsError
from segops.runtime.networks.zoo import build
from segops.voc.layout import open_layout
from tests.support.bundles import write_bundle
from tests.support.emulated_card import CARD, Card, on_emulated_card
from tests.unit.evaluate.test_score import SPEC, lively

EXPLAINED = 2


@pytest.fixture(scope="module")
def store(generated_voc: Path, tmp_path_factory: pytest.TempPathFactory) -> PackedStore:
    packed = tmp_path_factory.mktemp("data") / "packed"
    pack(open_layout(generated_voc), packed, VOC_CLASSES)
    return PackedStore(packed)


@pytest.fixture(scope="module")
def bundle(store: PackedStore, tmp_path_factory: pytest.TempPathFactory) -> Path:
    target = tmp_path_factory.mktemp("model") / "bundle"
    write_bundle(target, lively(store), SPEC, VOC_CLASSES, {}, {})
    return target


def run(bundle: Path, store: PackedStore, out: Path, **changes: Any) -> list[str]:
    """Have the worker score val; the ids in the order in which it says that they are done."""
    out.mkdir()
    request = {
        "bundle": str(bundle),
        "store": str(store.path),
        "images": store.ids("val"),
        "expected_digest": bundle_digest(bundle),
        "device": "cpu",
        "threads": 1,
        "masks": True,
        "details": True,
        "explain": EXPLAINED,
        "timed": False,
        "export_of": None,
        "variants": [{"predict": None, "out": str(out)}],
    } | changes
    request["variants"] = [{"corruption": None} | one for one in request["variants"]]
    return list(scoring.score_images(request))


def figures(out: Path) -> Any:
    return json.loads((out / "figures.json").read_text())


def pictures(out: Path) -> dict[str, NDArray[np.uint8]]:
    with np.load(out / "pictures.npz") as archive:
        return dict(archive)


@pytest.fixture(scope="module")
def scored(bundle: Path, store: PackedStore, tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("scored") / "out"
    assert run(bundle, store, out) == list(store.ids("val"))
    return out


def require_same_pictures(out: Path, other: Path, *kinds: str) -> None:
    """The pictures of these kinds are the same in both, and there are some."""
    ours, theirs = (
        {name: one for name, one in pictures(place).items() if name.startswith(kinds)}
        for place in (out, other)
    )
    assert ours.keys() == theirs.keys() != set()
    for name, picture in ours.items():
        np.testing.assert_array_equal(picture, theirs[name], err_msg=name)


def test_every_figure_is_that_of_the_masks(scored: Path, bundle: Path, store: PackedStore) -> None:
    predictor = load_bundle(bundle)
    split, errors, confidences = SplitFigures(VOC_CLASSES), [], {}
    kept = pictures(scored)
    for image_id in store.ids("val"):
        mask, top = predictor.predict_tensors(store.image(image_id))
        found = judge_image(store.mask(image_id), mask, len(VOC_CLASSES), top)
        split.add(found)
        errors += [(image_id, *one) for one in found.errors]
        confidences[image_id] = predictor.predict(store.image(image_id)).confidence
        np.testing.assert_array_equal(kept[f"masks/{image_id}"], mask)
        np.testing.assert_array_equal(kept[f"kinds/{image_id}"], found.kinds)
    assert figures(scored)["summary"] == split.summary()
    read = SplitCounts.from_json(class_pixels(split.confusion), figures(scored)["counts"])
    assert compute_metrics(read, VOC_CLASSES) == compute_metrics(split.counts, VOC_CLASSES)
    assert figures(scored)["confidences"] == pytest.approx(confidences, rel=1e-5)
    np.testing.assert_array_equal(np.load(scored / "confusion.npy"), split.confusion)
    expected = pd.DataFrame(errors, columns=list(ERRORS))
    pd.testing.assert_frame_equal(
        pd.read_parquet(scored / "errors.parquet"), expected, check_dtype=False
    )
    assert len(expected) > 20


def test_the_worst_images_are_explained(scored: Path, bundle: Path, store: PackedStore) -> None:
    scores = image_scores(pd.read_parquet(scored / "counts.parquet"))
    errors = pd.read_parquet(scored / "errors.parquet")
    explained, somewhere = figures(scored)["explained"], 0
    assert list(explained) == sorted(scores, key=lambda one: (scores[one], one))[:EXPLAINED]
    for image_id, class_id in explained.items():
        wrong = errors[errors["image_id"] == image_id].groupby("class_id")["pixels"].sum()
        assert wrong[class_id] == wrong.max()
        kept = pictures(scored)[f"activations/{image_id}"]
        found = explain(load_bundle(bundle), store.image(image_id), class_id)
        np.testing.assert_allclose(kept, 255 * found, atol=0.51)
        somewhere += int(kept.max() == 255)
    assert somewhere > 0  # for some class nothing may speak


@pytest.mark.parametrize(("cores", "threads"), [(1, 1), (8, 1), (2, 2), (4, 3)])
def test_the_same_request_gives_the_same_bytes_on_any_number_of_threads(
    cores: int,
    threads: int,
    scored: Path,
    bundle: Path,
    store: PackedStore,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(scoring, "cores", lambda: cores)
    run(bundle, store, tmp_path / "out", threads=threads)
    names = sorted(str(one.relative_to(scored)) for one in scored.rglob("*") if one.is_file())
    assert names == sorted(
        str(one.relative_to(tmp_path / "out"))
        for one in (tmp_path / "out").rglob("*")
        if one.is_file()
    )
    for name in names:
        if name != "timing.json":
            assert (tmp_path / "out" / name).read_bytes() == (scored / name).read_bytes(), name


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a real one")
def test_on_a_graphics_card_it_finds_the_same(
    scored: Path, bundle: Path, store: PackedStore, tmp_path: Path
) -> None:
    def act(card: Card) -> None:
        run(bundle, store, tmp_path / "out", device=str(CARD), explain=0)
        assert card.waits

    on_emulated_card(act)
    for name in ("counts.parquet", "confusion.npy", "errors.parquet"):
        assert (tmp_path / "out" / name).read_bytes() == (scored / name).read_bytes(), name
    require_same_pictures(tmp_path / "out", scored, "masks", "kinds")
    for part in ("counts", "summary"):
        assert figures(tmp_path / "out")[part] == figures(scored)[part]


@pytest.fixture
def watched(monkeypatch: pytest.MonkeyPatch) -> list[tuple[int, int]]:
    """Of every prediction: how many were under way, and on how many threads of torch it ran."""
    lock, under_way, seen = threading.Lock(), 0, []
    predict = BundledPredictor.predict_tensors

    def watch(self: BundledPredictor, image: NDArray[np.uint8]) -> tuple[Any, Any]:
        nonlocal under_way
        with lock:
            under_way += 1
        try:
            time.sleep(0.05)
            seen.append((under_way, torch.get_num_threads()))
            return predict(self, image)
        finally:
            with lock:
                under_way -= 1

    monkeypatch.setattr(BundledPredictor, "predict_tensors", watch)
    return seen


@pytest.mark.parametrize(
    ("threads", "room", "timed", "at_once", "each"),
    [
        (4, 1_000_000, False, 4, 1),
        (4, 2 * 80 * 64 + 1, False, 2, 2),
        (3, 2 * 80 * 64, False, 2, 1),
        (4, 80 * 64 - 1, False, 1, 4),
        (4, 1_000_000, True, 1, 4),
        (1, 1_000_000, False, 1, 1),
    ],
)
def test_as_many_images_at_a_time_as_there_are_threads_and_room(
    threads: int,
    room: int,
    timed: bool,
    at_once: int,
    each: int,
    bundle: Path,
    store: PackedStore,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    watched: list[tuple[int, int]],
) -> None:
    assert max(math.prod(store.size(one)) for one in store.ids("val")) == 80 * 64
    monkeypatch.setattr(parallel, "PIXELS_AT_ONCE", room)
    run(bundle, store, tmp_path / "out", threads=threads, timed=timed, explain=0)
    assert len(watched) == len(store.ids("val"))
    assert max(under_way for under_way, _ in watched) == at_once
    assert {found for _, found in watched} == {each}


def test_masks_are_kept_of_the_images_that_are_named(
    bundle: Path, store: PackedStore, tmp_path: Path
) -> None:
    one = store.ids("val")[1]
    run(bundle, store, tmp_path / "out", masks=[one], details=False, explain=0, threads=4)
    assert list(pictures(tmp_path / "out")) == [f"masks/{one}"]
    assert figures(tmp_path / "out")["machine"] == describe("cpu", 1), "four images at a time"


def test_two_images_share_all_threads(
    bundle: Path, store: PackedStore, tmp_path: Path, watched: list[tuple[int, int]]
) -> None:
    run(bundle, store, tmp_path / "out", threads=4, images=store.ids("val")[:2], explain=0)
    assert [threads for _, threads in watched] == [2, 2]


def test_what_an_image_takes_is_reckoned_at_its_largest_scale(
    bundle: Path,
    store: PackedStore,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    watched: list[tuple[int, int]],
) -> None:
    monkeypatch.setattr(parallel, "PIXELS_AT_ONCE", 8 * 80 * 64)
    ways = [{"predict": {"scales": [1.0, 2.0]}, "out": str(tmp_path / "out")}]
    run(bundle, store, tmp_path / "out", threads=4, variants=ways, explain=0)
    assert max(under_way for under_way, _ in watched) == 2


def test_counting_alone_counts_the_same_and_keeps_no_kinds(
    scored: Path, bundle: Path, store: PackedStore, tmp_path: Path
) -> None:
    run(bundle, store, tmp_path / "out", details=False, explain=0)
    for name in ("counts.parquet", "confusion.npy"):
        assert (tmp_path / "out" / name).read_bytes() == (scored / name).read_bytes(), name
    require_same_pictures(tmp_path / "out", scored, "masks")
    found = figures(tmp_path / "out")
    assert (found["summary"], found["explained"]) == ({}, {})
    assert not any(name.startswith("kinds") for name in pictures(tmp_path / "out"))


def test_other_ways_of_predicting_are_scored_apart(
    scored: Path, bundle: Path, store: PackedStore, tmp_path: Path
) -> None:
    plain, flipped = tmp_path / "plain", tmp_path / "flipped"
    flipped.mkdir()
    ways = [
        {"predict": {"flip": False}, "out": str(plain)},
        {"predict": {"flip": True}, "out": str(flipped)},
    ]
    done = run(bundle, store, plain, variants=ways, masks=False, timed=True, explain=0)
    assert done == [*store.ids("val"), *store.ids("val")]
    assert (plain / "counts.parquet").read_bytes() == (scored / "counts.parquet").read_bytes()
    assert (flipped / "counts.parquet").read_bytes() != (scored / "counts.parquet").read_bytes()
    for out in (plain, flipped):
        assert json.loads((out / "timing.json").read_text())["milliseconds"] > 0


def test_a_broken_network_is_told_with_its_image(store: PackedStore, tmp_path: Path) -> None:
    network = build(SPEC)
    with torch.no_grad():
        network.network.score.bias[3] = torch.nan
    write_bundle(tmp_path / "bundle", network, SPEC, VOC_CLASSES, {}, {})
    with pytest.raises(SegopsError, match=rf"^{store.ids('val')[0]}: .*not finite"):
        run(tmp_path / "bundle", store, tmp_path / "out")


def test_a_mask_with_an_unknown_id_ends_the_run_with_its_image(
    bundle: Path, generated_voc: Path, tmp_path: Path
) -> None:
    shutil.copytree(generated_voc, tmp_path / "voc")
    pack(open_layout(tmp_path / "voc"), tmp_path / "packed", VOC_CLASSES)
    broken = PackedStore(tmp_path / "packed").ids("val")[2]
    entry = json.loads((tmp_path / "packed" / "val" / "index.json").read_text())["images"][broken]
    with (tmp_path / "packed" / "val" / "masks.bin").open("r+b") as file:
        file.seek(entry["offset"] + 7)
        file.write(bytes([77]))
    with pytest.raises(SegopsError, match=rf"^{broken}: truth holds id 77"):
        run(bundle, PackedStore(tmp_path / "packed"), tmp_path / "out")


def test_a_crash_names_its_image(
    bundle: Path,
    store: PackedStore,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    def crash(*_: Any) -> None:
        raise MemoryError

    monkeypatch.setattr("segops.evaluate.scoring.judge_image", crash)
    with pytest.raises(MemoryError):
        run(bundle, store, tmp_path / "out")
    assert f"{store.ids('val')[0]}: the prediction cannot be judged" in caplog.text


def without_method(path: Path, name: str) -> None:
    """Remove a method from a source file."""
    text = path.read_text()
    (found,) = (
        one
        for one in ast.walk(ast.parse(text))
        if isinstance(one, ast.FunctionDef) and one.name == name
    )
    lines = text.splitlines(keepends=True)
    assert found.end_lineno is not None
    path.write_text("".join(lines[: found.lineno - 1] + lines[found.end_lineno :]))


def test_an_old_bundle_is_scored_without_confidence_and_in_its_only_way(
    scored: Path, bundle: Path, store: PackedStore, tmp_path: Path
) -> None:
    old = tmp_path / "old"
    shutil.copytree(bundle, old)
    without_method(old / "runtime" / "predictor.py", "predict_tensors")
    run(old, store, tmp_path / "out")
    for name in ("counts.parquet", "confusion.npy", "errors.parquet"):
        assert (tmp_path / "out" / name).read_bytes() == (scored / name).read_bytes(), name
    require_same_pictures(tmp_path / "out", scored, "masks", "kinds")
    new = figures(scored)
    expected = new | {
        "counts": new["counts"] | {"calibration": None},
        "confidences": dict.fromkeys(store.ids("val")),
    }
    assert figures(tmp_path / "out") == expected
    with pytest.raises(SegopsError, match=r"predicts in one way only.*package"):
        ways = [{"predict": {"flip": True}, "out": str(tmp_path / "flip")}]
        run(old, store, tmp_path / "flip", variants=ways)
