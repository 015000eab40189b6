"""Scoring a bundle on a split, in a process of its own outside the checkout."""

from __future__ import annotations

import json
import logging
import subprocess
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from segops import files
from segops.children import apart, last_words
from segops.data.store import PackedStore
from segops.metrics.counts import SplitCounts
from segops.metrics.iou import class_pixels
from segops.predict.bundle import read_bundle, weights_sha256
from segops.progress import track
from segops.runtime.bands import RGB
from segops.runtime.classes import Classes
from segops.runtime.errors import SegopsError

if TYPE_CHECKING:
    import pandas as pd

log = logging.getLogger("segops")

ABOUT = "about.json"
# The files that the worker writes. It imports torch; this module must not.
COUNTS = "counts.parquet"
CONFUSION = "confusion.npy"
ERROR_TABLE = "errors.parquet"
FIGURES = "figures.json"
PLACES = "places.parquet"
TIMING = "timing.json"
PICTURES = "pictures.npz"
# What the pictures are of, the first part of their names in the file.
MASKS = "masks"
KINDS = "kinds"
ACTIVATIONS = "activations"
ERRORS = ("image_id", "class_id", "kind", "pixels")
"""Columns of the table of errors."""
LONGEST_CORRUPTED = 2**15 - 2
"""Most pixels of a side of an image that is corrupted: OpenCV moves no more (``cv2.remap``)."""
EXPLAINED = 6
"""How many of the worst images a page explains."""


@dataclass(frozen=True)
class Scores:
    """The results of scoring a bundle on a split.

    Attributes:
        images: Ids of the images that count, in order.
        excluded: Ids of the images that do not.
        classes: The classes with their colours and their background.
        counts: One row per image and class that occurs in it; see
            :mod:`segops.evaluate.bootstrap`.
        confusion: int64 (C, C) over the whole split: rows are truth, columns prediction.
        split_counts: What the metrics are computed from.
        summary: What :meth:`segops.metrics.split_figures.SplitFigures.summary` says of the split;
            empty where only pixels were counted.
        errors: One row per image, class and kind of error that occurs in it, with the columns
            :data:`ERRORS`; `kind` is one of :data:`segops.metrics.wrong_pixels.KINDS`.
        places: In which images each figure lies; see :mod:`segops.evaluate.places`. Scores that an
            earlier segops kept have none.
        confidences: Mean top probability by image id, 0..1; None where the model does not say.
        explained: By image id, the id of the class whose activation map was made.
        milliseconds: Median time of predicting one image, the first left out; None for one image.
            Only under :func:`score_variants` does nothing else run meanwhile.
        predict: Settings of prediction, as `predict` in ``params.yaml``; empty: the defaults.
        machine: What predicted; see :func:`segops.predict.machine.describe`. Scores that an earlier
            segops kept do not say.
        bundle_digest: Digest of the bundle that was run.
        weights_sha256: SHA-256 of its weights.
        directory: Where the files lie.
    """

    images: tuple[str, ...]
    excluded: tuple[str, ...]
    classes: Classes
    counts: pd.DataFrame
    confusion: NDArray[np.int64]
    split_counts: SplitCounts
    summary: dict[str, Any]
    errors: pd.DataFrame
    places: pd.DataFrame | None
    confidences: dict[str, float | None]
    explained: dict[str, int]
    milliseconds: float | None
    predict: dict[str, Any]
    machine: dict[str, Any]
    bundle_digest: str
    weights_sha256: str
    directory: Path

    @property
    def class_names(self) -> tuple[str, ...]:
        """The names in id order."""
        return self.classes.names

    def prediction(self, image_id: str) -> NDArray[np.uint8]:
        """The predicted mask of an image, uint8 (H, W); an error where it was not kept."""
        return self._picture(MASKS, image_id)

    def kinds(self, image_id: str) -> NDArray[np.uint8]:
        """The kind of error of each pixel of an image, uint8 (H, W).

        0 where right or void, else 1 + the place in :data:`segops.metrics.wrong_pixels.KINDS`.
        """
        return self._picture(KINDS, image_id)

    def activation(self, image_id: str) -> NDArray[np.uint8] | None:
        """The activation map of the class in `explained`, uint8 (H, W), 0..255, if there is one."""
        return self._picture(ACTIVATIONS, image_id) if image_id in self.explained else None

    def _picture(self, what: str, image_id: str) -> NDArray[np.uint8]:
        try:
            return self._pictures[f"{what}/{image_id}"]
        except KeyError:
            raise SegopsError(f"{self.directory}: holds no {what} of {image_id}.") from None

    @cached_property
    def _pictures(self) -> Mapping[str, NDArray[np.uint8]]:
        # NumPy unpacks a picture when it is asked for.
        pictures: Mapping[str, NDArray[np.uint8]] = np.load(self.directory / PICTURES)
        return pictures


def score(
    bundle: Path,
    store: PackedStore,
    split: str,
    out: Path,
    expected_digest: str | None = None,
    device: str = "auto",
    *,
    threads: int | None = None,
    exclude_sha256: Collection[str] = (),
    masks: bool | Sequence[str] = False,
    predict: Mapping[str, Any] | None = None,
    details: bool = True,
    explain: int = 0,
    limit: int | None = None,
    export_of: tuple[Path, str] | None = None,
) -> Scores:
    """Load a bundle in a child process and judge its predictions on a split.

    Masks are compared at the size of the ground truth; void pixels count nowhere.

    Args:
        bundle: The bundle.
        store: The packed data.
        split: `train` or `val`.
        out: Directory for the results, written whole or not at all; what lies there is replaced.
        expected_digest: Digest that the bundle must have, checked before its code is run.
        device: A torch device, or `auto`: the GPU if there is one, else the CPU.
        threads: CPU threads of torch; None: its own choice.
        exclude_sha256: SHA-256 of images that do not count, as those the model was trained on.
        masks: Whether to keep the predicted masks and, with `details`, the kinds of errors; or the
            ids of the images to keep them of.
        predict: How to predict instead of the bundle's own way, as `predict` in ``params.yaml``.
        details: Whether to judge contours, objects, calibration and kinds of errors too, or only
            count pixels.
        explain: How many of the worst images to explain; takes `details`.
        limit: Only the first so many images of the split; None: all.
        export_of: The bundle that an export was made of, with its digest: the process also checks
            :func:`segops.evaluate.batches.require_any_batch`.

    Returns:
        The scores.

    Raises:
        SegopsError: The bundle or the data is not usable, its digest is another one, its classes
            are not those of the data, an export fails the check, or the child process died.
    """
    source = None if export_of is None else (str(export_of[0].resolve()), export_of[1])
    (scores,) = _score(
        bundle, store, split, out, {".": predict}, exclude_sha256, limit,
        device=device, threads=threads, expected_digest=expected_digest,
        masks=masks, details=details, explain=explain, timed=False, export_of=source,
    )  # fmt: skip
    return scores


def score_variants(
    bundle: Path,
    store: PackedStore,
    split: str,
    out: Path,
    variants: Sequence[Mapping[str, Any]],
    device: str = "auto",
    *,
    threads: int | None = None,
    exclude_sha256: Collection[str] = (),
    limit: int | None = None,
) -> list[Scores]:
    """As :func:`score`, for several ways of predicting one after another in one child process.

    Each image is judged before the next is predicted, so that the time of a prediction is its own.

    `variants` are ways of predicting, each as `predict` in ``params.yaml``; each gets a directory
    in `out`. Returns the scores of each, in their order.

    Raises:
        SegopsError: As :func:`score`; or the bundle is too old to predict in more than one way.
    """
    named = {f"{number:02d}": one for number, one in enumerate(variants)}
    return _score(
        bundle, store, split, out, named, exclude_sha256, limit,
        device=device, threads=threads, expected_digest=None,
        masks=False, details=True, explain=0, timed=True, export_of=None,
    )  # fmt: skip


def score_corrupted(
    bundle: Path,
    store: PackedStore,
    split: str,
    out: Path,
    corruptions: Sequence[tuple[str, int]],
    device: str = "auto",
    *,
    threads: int | None = None,
    exclude_sha256: Collection[str] = (),
    limit: int | None = None,
) -> list[Scores]:
    """As :func:`score`, on the images as they are and corrupted; only pixels are counted.

    `corruptions` are names and strengths of :mod:`segops.evaluate.corruptions`. Returns the scores
    of the images as they are, then those of each corruption, in their order.

    Raises:
        SegopsError: As :func:`score`, or as :func:`require_corruptible`.
    """
    require_corruptible(store, store.ids(split)[:limit])
    named = {"plain": None} | {f"{name}, {strength}": (name, strength)
                                     for name, strength in corruptions}  # fmt: skip
    return _score(
        bundle, store, split, out, dict.fromkeys(named), exclude_sha256, limit, named,
        device=device, threads=threads, expected_digest=None,
        masks=False, details=False, explain=0, timed=False, export_of=None,
    )  # fmt: skip


def require_corruptible(store: PackedStore, images: Sequence[str]) -> None:
    """Raise a SegopsError where images cannot be corrupted: they are not RGB, or too large."""
    if store.channels != RGB:
        raise SegopsError(
            f"{store.path}: images of {store.channels} channels. The corruptions are made for "
            "photographs in RGB: set evaluate.robustness to false."
        )
    sizes = {one: store.size(one) for one in images}
    large = {one: size for one, size in sizes.items() if max(size) > LONGEST_CORRUPTED}
    if large:
        raise SegopsError(
            f"{store.path}: images that cannot be corrupted, which takes sides of at most "
            f"{LONGEST_CORRUPTED} pixels. Cut them into parts, or set evaluate.robustness to false:"
            + "".join(f"\n  {one}: {w} x {h} pixels" for one, (h, w) in large.items())
        )


def _score(
    bundle: Path,
    store: PackedStore,
    split: str,
    out: Path,
    variants: Mapping[str, Mapping[str, Any] | None],
    exclude_sha256: Collection[str],
    limit: int | None,
    corruptions: Mapping[str, tuple[str, int] | None] | None = None,
    **request: Any,
) -> list[Scores]:
    """Score in several ways of predicting, given by the directories that their results go to.

    `corruptions` are of the images, by the same directories.
    """
    bundle = bundle.resolve()
    if not bundle.is_dir():
        raise SegopsError(f"{bundle}: no such directory. `dvc repro package` makes a bundle.")
    held = read_bundle(bundle, request["expected_digest"])
    model = held.model
    names = tuple(model["class_names"])
    if names != store.class_names:
        raise SegopsError(
            f"{bundle}: the model knows the classes {', '.join(names)}; the data has "
            f"{', '.join(store.class_names)}. They must be the same, in the same order: "
            "`segops run` trains a model of these classes."
        )
    unwanted, ids = frozenset(exclude_sha256), store.ids(split)[:limit]
    about = {
        "images": [one for one in ids if store.image_sha256(one) not in unwanted],
        "excluded": [one for one in ids if store.image_sha256(one) in unwanted],
        "class_names": names,
        **Classes.of_model(model).to_model(),
        "bundle_digest": held.digest,
        "weights_sha256": weights_sha256(held),
    }
    del held  # its weights would lie in memory as long as the worker runs
    with files.atomic_directory(out) as temporary:
        described = []
        for name, predict in variants.items():
            place = temporary / name
            place.mkdir(exist_ok=True)
            settings = None if predict is None else dict(predict)
            corruption = (corruptions or {}).get(name)
            described.append({"predict": settings, "out": str(place), "corruption": corruption})
            used = model.get("predict", {}) if settings is None else settings
            files.write_json(place / ABOUT, about | {"predict": used})
        request |= {
            "bundle": str(bundle),
            "store": str(store.path.resolve()),
            "images": about["images"],
            "expected_digest": about["bundle_digest"],
            "variants": described,
        }
        _run_worker(request, split)
    return [read_scores(out / name) for name in variants]


def read_scores(out: Path) -> Scores:
    """Read what :func:`score` left in a directory that was kept.

    Raises:
        SegopsError: The directory is not whole.
    """
    import pandas as pd  # takes a while, for which the worker would wait to be started

    about, figures = files.read_json(out / ABOUT), files.read_json(out / FIGURES)
    confusion = np.load(out / CONFUSION, allow_pickle=False)
    return Scores(
        images=tuple(about["images"]),
        excluded=tuple(about["excluded"]),
        classes=Classes.of_model(about),
        counts=pd.read_parquet(out / COUNTS),
        confusion=confusion,
        split_counts=SplitCounts.from_json(class_pixels(confusion), figures["counts"]),
        summary=figures["summary"],
        errors=pd.read_parquet(out / ERROR_TABLE),
        places=pd.read_parquet(out / PLACES) if (out / PLACES).exists() else None,
        confidences=figures["confidences"],
        explained=figures["explained"],
        milliseconds=files.read_json(out / TIMING)["milliseconds"],
        predict=about["predict"],
        machine=figures.get("machine", {}),
        bundle_digest=about["bundle_digest"],
        weights_sha256=about["weights_sha256"],
        directory=out,
    )


def _run_worker(request: dict[str, Any], split: str) -> None:
    ways = len(request["variants"])
    total = ways * len(request["images"])
    in_ways = f" in {ways} ways" if ways > 1 else ""
    with apart("segops.evaluate.scoring", request) as (process, words):
        for _ in track(_done(process), f"Scoring {split}{in_ways}", total):
            pass
        status, said = process.wait(), last_words(words)
    if status != 0:
        raise SegopsError(
            f"{request['bundle']}: scoring ended with status {status}. Its last words:\n{said}"
        )
    if said:
        log.debug("The scoring process said:\n%s", said)


def _done(process: subprocess.Popen[str]) -> Iterator[str]:
    """Ids of the images as the worker finishes them."""
    assert process.stdout is not None
    for line in process.stdout:
        try:
            message = json.loads(line)
        except json.JSONDecodeError:  # torn: the worker was killed, as its status will tell
            continue
        if "error" in message:
            raise SegopsError(message["error"])
        yield message["done"]
