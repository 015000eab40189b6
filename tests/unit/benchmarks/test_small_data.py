"""The comparison of recipe `small-data` with a plain loop: its data, its budget, its score."""

from __future__ import annotations

import random
from dataclasses import replace
from itertools import islice
from pathlib import Path

import numpy as np
import pytest
import safetensors.torch
import segmentation_models_pytorch as smp
import torch

from benchmarks import small_data as benchmark
from segops.data.packing import pack
from segops.data.store import PackedStore
from segops.runtime.classes import VOC_CLASSES, VOID
from segops.voc.layout import open_layout
from tools.sample import generate


@pytest.fixture
def task(tmp_path: Path) -> benchmark.Task:
    """A few generated images, and random weights."""
    generate(tmp_path / "voc", train=12, val=3, seed=0, size=(48, 40))
    pack(open_layout(tmp_path / "voc"), tmp_path / "packed", VOC_CLASSES)
    encoder = smp.encoders.get_encoder(benchmark.ENCODER, weights=None)
    weights = tmp_path / "encoder.safetensors"
    safetensors.torch.save_file(encoder.state_dict(), weights)
    return benchmark.Task(
        data=tmp_path / "voc",
        packed=tmp_path / "packed",
        weights=weights,
        seconds=12,
        seed=0,
        plain_lr=1e-3,
        plain_batch=2,
        plain_scale=(0.5, 2.0),
        crop=64,
        changes={},
    )


def test_exploring_never_sees_val(task: benchmark.Task, tmp_path: Path) -> None:
    layout = open_layout(task.data)
    held = open_layout(benchmark.held_out(task.data, 0.3, tmp_path / "held"))
    train, scored = held.ids("train"), held.ids("val")
    assert scored
    assert sorted([*train, *scored]) == sorted(layout.ids("train"))
    assert not set(scored) & set(layout.ids("val"))


def test_the_plain_loop_sees_scaled_crops_of_train(task: benchmark.Task) -> None:
    small = replace(task, plain_scale=(0.5, 0.5))
    for image, mask in islice(benchmark.crops(small, random.Random(1)), 12):
        assert image.shape == (3, 64, 64)
        # Images are half as large, upright ones too; the rest is void, in the mean colour.
        assert torch.all(mask[24:] == VOID)
        assert torch.all(image[:, 24:] == 0)
        assert torch.all((mask < len(VOC_CLASSES)) | (mask == VOID))
        assert torch.any(mask[:24] != VOID)


def test_a_class_counts_where_enough_images_hold_it(task: benchmark.Task) -> None:
    store = PackedStore(task.packed)
    held = {
        number: sum(bool((store.mask(one) == number).any()) for one in store.ids("val"))
        for number in range(len(VOC_CLASSES))
    }
    for least in (1, 2, 3):
        wanted = [number for number, images in held.items() if images >= least]
        assert benchmark.common_classes(store, least) == wanted


def test_points_are_the_mean_of_the_counted_classes() -> None:
    counts = np.zeros((21, 21), np.int64)
    counts[0, 0], counts[0, 1], counts[1, 1], counts[2, 0] = 50, 25, 25, 25
    assert benchmark.points_of(counts, [0, 1]) == pytest.approx(100 * (50 / 100 + 25 / 50) / 2)


@pytest.mark.slow
@pytest.mark.parametrize("side", benchmark.SIDES)
def test_a_side_trains_within_its_budget(task: benchmark.Task, side: str) -> None:
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        train = benchmark.by_recipe if side == "segops" else benchmark.by_plain_loop
        outcome = train(task)
    finally:
        torch.set_num_threads(threads)
    assert outcome.steps > 1
    assert 0.5 * task.seconds < outcome.processor < 1.3 * task.seconds
    store = PackedStore(task.packed)
    labelled = sum(int((store.mask(one) != VOID).sum()) for one in store.ids("val"))
    sums = {way: one.sum() for way, one in outcome.counts.items()}
    assert sums == dict.fromkeys(benchmark.WAYS, labelled)
