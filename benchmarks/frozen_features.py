"""An epoch on a vision transformer that is frozen, with its features kept and without.

Both trainings see as many crops of the same size; the encoder is DINOv2's small one with random
weights, of whose values the time does not depend. They run in turns, one epoch each, on all cores.
Printed are the medians, their ratio, and what computing the features takes once.
Run: ``python -m benchmarks.frozen_features [--encoder NAME] [--images 64] ...``
"""

from __future__ import annotations

import argparse
import statistics
import tempfile
import time
from dataclasses import replace
from itertools import islice
from pathlib import Path

from benchmarks.common import job_of, settings_of
from benchmarks.distillation import store_of
from segops.params.file import Params
from segops.train.hardware import build_fabric, choose_threads, reproducible
from segops.train.loop import _Training, batches_of


def begun(settings: Params, given: argparse.Namespace, home: Path, views: int | None) -> _Training:
    """A training before its first epoch."""
    model = settings.model.model_copy(update={"architecture": "linear", "encoder": given.encoder})
    train = settings.train.model_copy(
        update={
            "frozen_views": views,
            "freeze_encoder_epochs": given.epochs,
            "epochs": given.epochs,
            "warmup_epochs": 0,
            "batch_size": 8,
            "selection_share": 0.1,
        }
    )
    changed = settings.model_copy(update={"model": model, "train": train})
    job = job_of(changed, store_of(home, given.images), home / f"state-{views}")
    return _Training(replace(job, on_epoch=None), build_fabric(job.params)[0], 0)


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0] if __doc__ else None)
    parser.add_argument("--encoder", default="tu-vit_small_patch14_reg4_dinov2")
    parser.add_argument("--images", type=int, default=64)
    parser.add_argument("--views", type=int, default=2)
    parser.add_argument("--epochs", type=int, default=3)
    given = parser.parse_args()
    settings = settings_of()
    with tempfile.TemporaryDirectory() as name:
        home = Path(name)
        with reproducible("cpu", choose_threads(settings.hardware), True):
            started = time.perf_counter()
            kept = begun(settings, given, home, given.views)
            once = time.perf_counter() - started
            trainings = {"without": begun(settings, given, home, None), "with": kept}
            seconds: dict[str, list[float]] = {name: [] for name in trainings}
            streams = {
                name: iter(
                    batches_of(
                        one.job, one.fabric, one.dataset, one.sampler, one.steps, (0, 0), 0,
                        one.features,
                    )
                )
                for name, one in trainings.items()
            }  # fmt: skip
            for _ in range(given.epochs):
                for name, one in trainings.items():
                    started = time.perf_counter()
                    one._run_epoch(islice(streams[name], len(one.sampler)))
                    seconds[name].append(time.perf_counter() - started)
    medians = {name: statistics.median(values) for name, values in seconds.items()}
    ratio = medians["without"] / medians["with"]
    print(
        f"{given.encoder}, {given.images} images, crops of {settings.augment.crop}, epoch with its "
        f"selection split: {medians['without']:.2f} s without, {medians['with']:.3f} s with kept "
        f"features: {ratio:.0f} times (10 or more is wanted); network and features of "
        f"{given.views + 1} views once: {once:.1f} s"
    )


if __name__ == "__main__":
    main()
