"""Trains in folds, so that every image is judged by a model that did not see it."""

from __future__ import annotations

import hashlib
import logging
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from segops import files
from segops.data.store import PackedStore
from segops.edit import put
from segops.params.file import Params
from segops.predict.package import package
from segops.predict.trained import write_trained
from segops.runtime.errors import SegopsError
from segops.train import checkpoint
from segops.train.loop import train
from segops.tune.setup import build_trial, on_one_device
from segops.voc.hashes import dataset_hash
from segops.voc.layout import TRAIN, VAL

BUNDLE = "bundle"
STATE = "fold.json"
"""What the bundle beside it was trained with."""
log = logging.getLogger("segops")


@dataclass(frozen=True)
class Fold:
    """A training, and the images that its model judges; no image is in both.

    Attributes:
        name: As "fold 1 of 3".
        trained: Ids of the images to train on, sorted.
        judged: Ids of the images to judge, sorted.
    """

    name: str
    trained: tuple[str, ...]
    judged: tuple[str, ...]


class FoldStore(PackedStore):
    """A packed store whose train split are the given images of train and val."""

    def __init__(self, path: Path, trained: tuple[str, ...]) -> None:
        self._trained = trained
        super().__init__(path)

    def __reduce__(self) -> tuple[Any, ...]:
        return FoldStore, (self.path, self._trained)

    def ids(self, split: str) -> tuple[str, ...]:
        """As in the whole store, but for train."""
        return self._trained if split == TRAIN else super().ids(split)

    def split_hash(self, split: str) -> str:
        """As in the whole store, but for train."""
        if split != TRAIN:
            return super().split_hash(split)
        rows = ((TRAIN, one, self._find(one)[1]) for one in self._trained)
        hashes = ((part, name, it.image_sha256, it.mask_sha256) for part, name, it in rows)
        return dataset_hash(hashes, self.class_names, self.mapping)


def divide(store: PackedStore, splits: Sequence[str], count: int) -> list[Fold]:
    """Divide the images of the splits into folds of the same size, by a hash of each id.

    A model of all of train judges val, if val alone is asked for. Else the folds divide the images
    of all `splits`, and each model is trained on those of the other folds.

    Raises:
        SegopsError: There are too few images for as many folds.
    """
    if tuple(splits) == (VAL,):
        return [Fold("one training", store.ids(TRAIN), store.ids(VAL))]
    ids = [image_id for split in splits for image_id in store.ids(split)]
    if len(ids) < 2 * count:
        raise SegopsError(
            f"--folds {count}: there are {len(ids)} images; expected two a fold at least. Take "
            "fewer folds."
        )
    shuffled = sorted(ids, key=_hash)
    return [
        Fold(
            f"fold {number + 1} of {count}",
            tuple(sorted(one for place, one in enumerate(shuffled) if place % count != number)),
            tuple(sorted(shuffled[number::count])),
        )
        for number in range(count)
    ]


def _hash(image_id: str) -> str:
    """Another one than that of the selection split."""
    return hashlib.sha256(f"label fold\t{image_id}".encode()).hexdigest()


def for_folds(settings: Params, epochs: int | None) -> Params:
    """The workspace's parameters on one device, from no trained model, of a given length.

    A model to start from, and a teacher, may have seen the images.
    """
    changes: dict[str, Any] = {}
    start, teacher = settings.model.start_from, settings.train.teacher
    for key, model in (("model.start_from", start), ("train.teacher", teacher)):
        if model is not None:
            log.info("%s is left out: that model may have seen the images.", key)
            changes |= {key: None, "train.pruning": None}
    if epochs is not None:
        changes |= {"train.epochs": epochs, "train.iterations": None}
        if settings.train.warmup_epochs >= epochs:
            changes["train.warmup_epochs"] = 0
    return put(on_one_device(settings), changes, "params.yaml with --epochs")


def fold_bundle(root: Path, settings: Params, store: PackedStore, fold: Fold, home: Path) -> Path:
    """Train the model of a fold, or take the one that was trained with the same.

    Args:
        root: The workspace.
        settings: As :func:`for_folds` gives them.
        store: The workspace's images.
        fold: The fold.
        home: Its directory, which keeps the model and, while it is trained, the checkpoint.

    Returns:
        The model's bundle.

    Raises:
        SegopsError: Parameters and data do not fit together, or the training diverged.
    """
    home.mkdir(parents=True, exist_ok=True)
    own = FoldStore(store.path, fold.trained)
    job = build_trial(root, settings, own, home)
    bundle, state = home / BUNDLE, {"fingerprint": job.history.fingerprint}
    if (home / STATE).is_file() and files.read_json(home / STATE) == state:
        log.info("%s: trained before.", fold.name)
    else:
        log.info("%s: training on %d images.", fold.name, len(fold.trained))
        outcome = train(job)
        images = {one: store.image_sha256(one) for one in fold.trained}
        pixels = store.pixel_hashes(fold.trained)
        (home / STATE).unlink(missing_ok=True)  # else it could name the weights of a next training
        write_trained(bundle, outcome.network, job.spec, store.class_names, images, {}, pixels)
        files.write_json(home / STATE, state)
        job.history.end()
        checkpoint.remove(job.resume)
    # Again each time: the settings of prediction train nothing.
    package(bundle, bundle, settings.predict.model_dump(mode="json"))
    return bundle
