"""What pretraining on images without masks gains where few masks are there.

The data are the shipped sample, generated anew. A tenth of the images of train keep their masks;
the encoder of the repository's ``params.yaml`` is pretrained on all images of train without masks.
Both trainings of a seed take the same steps on the same batches: they differ in the encoder's
weights alone. Printed are the mIoU on val of each seed's trainings in points, and the mean of the
differences. Settings are tried with ``--split train``: on the images of train without masks.
Run: ``python -m benchmarks.pretraining [--epochs 30] [--iterations 270] [--seeds 3] ...``.
"""

from __future__ import annotations

import argparse
import statistics
import tempfile
import time
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import yaml
from safetensors.torch import save_file

from benchmarks.common import job_of, settings_of
from benchmarks.distillation import store_of
from segops.data.store import PackedStore
from segops.models.pretrained import normalisation
from segops.params.file import Params
from segops.params.pretrain import PretrainParams
from segops.pretrain.images import of_train
from segops.pretrain.run import build_job
from segops.runtime.torch_predictor import TorchPredictor
from segops.train.hardware import build_fabric
from segops.train.loop import train
from segops.train.pretraining import pretrain
from segops.train.selection import selection_miou
from segops.voc.layout import TRAIN, VAL
from tools.sample import SHIPPED

SHARE = 10
"""Of so many images of train, one keeps its mask."""


class FewMasks(PackedStore):
    """A store whose train has every `SHARE`-th image alone."""

    def ids(self, split: str) -> tuple[str, ...]:
        """As of the base class."""
        found = super().ids(split)
        return found[::SHARE] if split == TRAIN else found


def pretrained(settings: Params, store: PackedStore, directory: Path) -> tuple[Path, float, float]:
    """Pretrain in `directory`; the file of weights, and the first and the last loss."""
    found = pretrain(build_job(directory, settings, of_train(store), store))
    path = directory / "encoder.safetensors"
    save_file(found.weights, path)
    return path, found.rows[0]["train_loss"], found.rows[-1]["train_loss"]


def trained(
    settings: Params, store: PackedStore, weights: Path | None, split: str, directory: Path
) -> float:
    """Train on few masks; the mIoU in points on val or on the images of train without masks."""
    few = FewMasks(store.path)
    job = job_of(settings, few, directory)
    mean, std = normalisation(job.spec.encoder, None if weights is None else str(weights))
    spec = replace(job.spec, mean=mean, std=std)
    job = replace(job, spec=spec, encoder_weights=None if weights is None else str(weights))
    network = train(job).network
    held = set(few.ids(TRAIN))
    ids = [one for one in store.ids(TRAIN) if one not in held] if split == TRAIN else store.ids(VAL)
    fabric = build_fabric(job.params)[0]
    predictor = TorchPredictor(network.eval(), store.class_names, fabric.device)
    return 100 * selection_miou(predictor, store, ids, fabric)


def arguments(given: Sequence[str] | None = None) -> argparse.Namespace:
    """What the command line says, or `given` in its place."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0] if __doc__ else None)
    parser.add_argument("--epochs", type=int, default=30, help="of pretraining")
    parser.add_argument("--iterations", type=int, default=270, help="of each training")
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--images", type=int, default=SHIPPED["train"])
    parser.add_argument("--set", nargs="*", default=[], metavar="KEY=VALUE", help="of `pretrain`")
    parser.add_argument("--split", choices=(TRAIN, VAL), default=VAL)
    return parser.parse_args(given)


def compare(given: argparse.Namespace, home: Path) -> list[float]:
    """Train in `home`, print what came of it, and return each seed's gain."""
    store = store_of(home, given.images)
    count = len(FewMasks(store.path).ids(TRAIN))
    print(f"{len(store.ids(TRAIN))} images of train, {count} of them with masks")
    gains = []
    for seed in range(given.seeds):
        place = home / f"seed {seed}"
        place.mkdir()
        settings = settings_of(
            seed=seed, iterations=given.iterations, selection_share=0.0, warmup_epochs=1
        )
        own = {"seed": seed, "epochs": given.epochs, "warmup_epochs": min(5, given.epochs // 6)}
        changes = {
            key: yaml.safe_load(value)
            for key, _, value in (one.partition("=") for one in given.set)
        }
        tree = settings.pretrain.model_dump() | own | changes
        settings = settings.model_copy(update={"pretrain": PretrainParams.model_validate(tree)})
        started = time.perf_counter()
        weights, first, last = pretrained(settings, store, place)
        seconds = time.perf_counter() - started
        without, with_it = (
            trained(settings, store, one, given.split, place / name)
            for one, name in ((None, "without"), (weights, "with"))
        )
        gains.append(with_it - without)
        print(
            f"seed {seed}: {without:.2f} from random weights, {with_it:.2f} pretrained "
            f"({given.epochs} epochs, {seconds:.0f} s, loss {first:.3f} to {last:.3f}), "
            f"{gains[-1]:+.2f}",
            flush=True,
        )
    spread = f", standard deviation {statistics.stdev(gains):.2f}" if len(gains) > 1 else ""
    print(f"mean gain {statistics.mean(gains):+.2f} points of mIoU{spread}")
    return gains


def main() -> None:
    """Pretrain, train the pairs, and print every seed and the mean."""
    given = arguments()
    with tempfile.TemporaryDirectory() as scratch:
        compare(given, Path(scratch))


if __name__ == "__main__":
    main()
