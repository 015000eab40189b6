"""A pruned network on generated images, against the same network trained from scratch."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from segops.runtime.classes import VOC_CLASSES
from segops.runtime.networks.zoo import ModelSpec
from segops.runtime.torch_predictor import TorchPredictor
from segops.train.hardware import build_fabric
from segops.train.job import TrainingResult
from segops.train.loop import Job, train
from segops.train.selection import selection_miou
from segops.train.start import Start
from tests.support.bundles import write_bundle
from tests.support.training import Jobs, job_maker
from tools.sample import generate

WIDTH, SHARE, EPOCHS = 16, 0.4, 4
GIVEN: dict[str, Any] = {
    "options": {"width": WIDTH}, "batch_size": 8, "selection_share": 0, "warmup_epochs": 0,
}  # fmt: skip


@pytest.fixture
def jobs(tmp_path: Path) -> Iterator[Jobs]:
    before = torch.get_num_threads()
    generate(tmp_path / "voc", train=64, val=32, seed=4, size=(96, 80))
    yield job_maker(tmp_path / "voc", tmp_path)
    torch.set_num_threads(before)


def miou(job: Job, outcome: TrainingResult) -> float:
    """MIoU on val, in points."""
    predictor = TorchPredictor(outcome.network.eval(), VOC_CLASSES)
    fabric = build_fabric(job.params)[0]
    return 100 * selection_miou(predictor, job.store, job.store.ids("val"), fabric)


@pytest.mark.slow
def test_what_pruning_leaves_is_a_better_start_than_random_weights(
    jobs: Jobs, tmp_path: Path
) -> None:
    """At equal steps over three seeds; and it comes near the whole network."""
    full = jobs("full", epochs=20, **GIVEN)
    outcome = train(full)
    whole = miou(full, outcome)
    spec = ModelSpec("plain_cnn", "resnet18", len(VOC_CLASSES), GIVEN["options"])
    write_bundle(tmp_path / "full", outcome.network, spec, VOC_CLASSES, {}, {})
    start = Start.of(tmp_path / "full", "there").pruned(spec, SHARE)
    small = replace(spec, pruned_shapes=start.pruned_shapes)
    rows = []
    for seed in range(3):
        found = []
        for name, first in (("pruned", start), ("scratch", None)):
            job = jobs(f"{name} {seed}", epochs=EPOCHS, seed=seed, **GIVEN)
            job = replace(job, spec=small, start=first)
            ended = train(job)
            assert ended.steps == EPOCHS * 8
            found.append(miou(job, ended))
        rows.append(found)
    assert all(pruned > scratch + 3 for pruned, scratch in rows), (whole, rows)
    assert min(pruned for pruned, _ in rows) > 0.75 * whole, (whole, rows)
