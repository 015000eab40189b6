"""Scoring a bundle on a split, in a process of its own outside the checkout."""

from __future__ import annotations

import json
import logging
import os
import subprocess
import sys
import tempfile
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

import segops
from segops import files
from segops.data.store import PackedStore
from segops.evaluate.picture_file import Album
from segops.progress import track
from segops.runtime import opener
from segops.runtime.errors import SegopsError
from segops.runtime.masks import decode_mask, read_mask

if TYPE_CHECKING:
    import pandas as pd

log = logging.getLogger("segops")

# The files that the worker writes. It imports torch; this module must not.
COUNTS = "counts.parquet"
CONFUSION = "confusion.npy"
ERROR_TABLE = "errors.parquet"
FIGURES = "figures.json"
TIMING = "timing.json"
MASKS = "masks"
KINDS = "kinds"
ACTIVATIONS = "activations"
ERRORS = ("image_id", "class_id", "kind", "pixels")
"""Columns of the table of errors."""
LAST_WORDS = 15
"""Lines of a crashed worker's standard error that the message of the error repeats."""


@dataclass(frozen=True)
class Scores:
    """What came of scoring.

    Attributes:
        images: Ids of the images that count, in order.
        excluded: Ids of the images that do not.
        class_names: The names in id order.
        counts: One row per image and class that occurs in it; see
            :mod:`segops.evaluate.bootstrap`.
        confusion: int64 (C, C) over the whole split: rows are truth, columns prediction.
        summary: What :meth:`segops.metrics.split.SplitFigures.summary` says of the split; empty
            where only pixels were counted.
        errors: One row per image, class and kind of error that occurs in it, with the columns
            :data:`ERRORS`; `kind` is one of :data:`segops.metrics.errors.KINDS`.
        confidences: Mean top probability by image id, 0..1; None where the model does not say.
        explained: Id of the class that was explained, by the ids of the images that were.
        milliseconds: Median time of predicting one image, the first left out; None for one image.
            Only :func:`score_ways` gives the network the machine for itself.
        predict: How it was predicted, as `predict` in ``params.yaml``; empty: plainly.
        bundle_digest: Digest of the bundle that was run.
        weights_sha256: SHA-256 of its weights.
        directory: Where the files lie.
    """

    images: tuple[str, ...]
    excluded: tuple[str, ...]
    class_names: tuple[str, ...]
    counts: pd.DataFrame
    confusion: NDArray[np.int64]
    summary: dict[str, Any]
    errors: pd.DataFrame
    confidences: dict[str, float | None]
    explained: dict[str, int]
    milliseconds: float | None
    predict: dict[str, Any]
    bundle_digest: str
    weights_sha256: str
    directory: Path

    def prediction(self, image_id: str) -> NDArray[np.uint8]:
        """The predicted mask of an image, uint8 (H, W).

        Raises:
            SegopsError: The masks were not kept, or the image did not count.
        """
        return decode_mask(self._masks.read(image_id), image_id)

    def kinds(self, image_id: str) -> NDArray[np.uint8]:
        """The kind of error of each pixel of an image, uint8 (H, W).

        0 where right or void, else 1 + the place in :data:`segops.metrics.errors.KINDS`.

        Raises:
            SegopsError: The masks were not kept, the image did not count, or only pixels were
                counted.
        """
        return decode_mask(self._kinds.read(image_id), image_id)

    def activation(self, image_id: str) -> NDArray[np.uint8] | None:
        """Where the network looked for the class in `explained`, uint8 (H, W), 0..255.

        None where the image was not explained.
        """
        if image_id not in self.explained:
            return None
        return read_mask(self.directory / ACTIVATIONS / f"{image_id}.png")

    @cached_property
    def _masks(self) -> Album:
        return Album(self.directory / MASKS)

    @cached_property
    def _kinds(self) -> Album:
        return Album(self.directory / KINDS)


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
    masks: bool = False,
    predict: Mapping[str, Any] | None = None,
    details: bool = True,
    explain: int = 0,
    limit: int | None = None,
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
        masks: Whether to keep the predicted masks and, with `details`, the kinds of errors.
        predict: How to predict instead of the bundle's own way, as `predict` in ``params.yaml``.
        details: Whether to judge contours, objects, calibration and kinds of errors too, or only
            count pixels.
        explain: How many of the worst images to explain; takes `details`.
        limit: Only the first so many images of the split; None: all.

    Returns:
        The scores.

    Raises:
        SegopsError: The bundle or the data is not usable, its digest is another one, its classes
            are not those of the data, or the child process died; its own words are in the message.
    """
    bundle, digest = _checked(bundle, store, expected_digest)
    images, excluded = _divided(store, split, exclude_sha256, limit)
    request = _request(bundle, digest, store, images, device, threads) | {
        "masks": masks,
        "details": details,
        "explain": explain,
        "apart": False,
    }
    with files.atomic_directory(out) as temporary:
        way = {"predict": None if predict is None else dict(predict), "out": str(temporary)}
        _run_worker(request | {"ways": [way]}, split)
    return _read(out, store, images, excluded, bundle, digest, predict)


def score_ways(
    bundle: Path,
    store: PackedStore,
    split: str,
    out: Path,
    ways: Sequence[Mapping[str, Any]],
    device: str = "auto",
    *,
    threads: int | None = None,
    exclude_sha256: Collection[str] = (),
    limit: int | None = None,
) -> list[Scores]:
    """As :func:`score`, for several ways of predicting one after another in one child process.

    Each image is judged before the next is predicted, so that the time of a prediction is its own.

    Args:
        bundle: As for :func:`score`, and so all but `ways`.
        store: The packed data.
        split: `train` or `val`.
        out: Directory for the results, one in it for each way.
        ways: Ways of predicting, each as `predict` in ``params.yaml``.
        device: A torch device, or `auto`.
        threads: CPU threads of torch.
        exclude_sha256: SHA-256 of images that do not count.
        limit: Only the first so many images of the split.

    Returns:
        The scores of each way, in their order.

    Raises:
        SegopsError: As :func:`score`; or the bundle is too old to predict in more than one way.
    """
    bundle, digest = _checked(bundle, store, None)
    images, excluded = _divided(store, split, exclude_sha256, limit)
    request = _request(bundle, digest, store, images, device, threads) | {
        "masks": False,
        "details": True,
        "explain": 0,
        "apart": True,
    }
    names = [f"{number:02d}" for number in range(len(ways))]
    with files.atomic_directory(out) as temporary:
        described = []
        for name, way in zip(names, ways, strict=True):
            (temporary / name).mkdir()
            described.append({"predict": dict(way), "out": str(temporary / name)})
        _run_worker(request | {"ways": described}, split)
    return [
        _read(out / name, store, images, excluded, bundle, digest, way)
        for name, way in zip(names, ways, strict=True)
    ]


def read_scores(
    out: Path,
    bundle: Path,
    store: PackedStore,
    split: str,
    digest: str,
    exclude_sha256: Collection[str] = (),
) -> Scores:
    """Read what :func:`score` left in a directory that was kept, given the same things.

    Args:
        out: The directory.
        bundle: The bundle.
        store: The packed data.
        split: `train` or `val`.
        digest: Digest of the bundle.
        exclude_sha256: SHA-256 of images that do not count.

    Raises:
        SegopsError: The directory is not whole.
    """
    images, excluded = _divided(store, split, exclude_sha256, None)
    return _read(out, store, images, excluded, bundle, digest, None)


def _checked(bundle: Path, store: PackedStore, expected_digest: str | None) -> tuple[Path, str]:
    """The bundle's absolute path and the digest it must have; its classes are the data's."""
    bundle = bundle.resolve()
    if not bundle.is_dir():
        raise SegopsError(f"{bundle}: no such directory. `dvc repro package` makes a bundle.")
    names = tuple(files.read_json(bundle / opener.MODEL)["class_names"])
    if names != store.class_names:
        raise SegopsError(
            f"{bundle}: the model knows the classes {', '.join(names)}; the data has "
            f"{', '.join(store.class_names)}. They must be the same, in the same order: "
            "`segops run` trains a model of these classes."
        )
    return bundle, files.sha256_tree(bundle) if expected_digest is None else expected_digest


def _request(
    bundle: Path,
    digest: str,
    store: PackedStore,
    images: Sequence[str],
    device: str,
    threads: int | None,
) -> dict[str, Any]:
    """What the worker is to do, as far as every kind of scoring has it in common."""
    return {
        "bundle": str(bundle),
        "store": str(store.path.resolve()),
        "images": list(images),
        "expected_digest": digest,
        "device": device,
        "threads": threads,
    }


def _divided(
    store: PackedStore, split: str, exclude_sha256: Collection[str], limit: int | None
) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """Ids of the images that count, and of those that do not."""
    unwanted = frozenset(exclude_sha256)
    ids = store.ids(split)[:limit]
    images = tuple(one for one in ids if store.image_sha256(one) not in unwanted)
    return images, tuple(one for one in ids if store.image_sha256(one) in unwanted)


def _read(
    out: Path,
    store: PackedStore,
    images: tuple[str, ...],
    excluded: tuple[str, ...],
    bundle: Path,
    digest: str,
    predict: Mapping[str, Any] | None,
) -> Scores:
    import pandas as pd  # takes a second, for which the worker would wait to be started

    figures = files.read_json(out / FIGURES)
    own = files.read_json(bundle / opener.MODEL).get("predict", {})
    return Scores(
        images=images,
        excluded=excluded,
        class_names=store.class_names,
        counts=pd.read_parquet(out / COUNTS),
        confusion=np.load(out / CONFUSION, allow_pickle=False),
        summary=figures["summary"],
        errors=pd.read_parquet(out / ERROR_TABLE),
        confidences=figures["confidences"],
        explained=figures["explained"],
        milliseconds=files.read_json(out / TIMING)["milliseconds"],
        predict=dict(own if predict is None else predict),
        bundle_digest=digest,
        weights_sha256=files.sha256_file(bundle / opener.WEIGHTS),
        directory=out,
    )


def _run_worker(request: dict[str, Any], split: str) -> None:
    ways = len(request["ways"])
    total = ways * len(request["images"])
    # The directory is empty and outside any checkout: nothing in it is importable.
    with (
        tempfile.TemporaryDirectory(prefix="segops-") as scratch,
        tempfile.TemporaryFile() as words,
    ):
        path = Path(scratch) / "request.json"
        path.write_text(json.dumps(request), encoding="utf-8")
        command = [sys.executable, "-m", "segops.evaluate.worker", str(path)]
        with subprocess.Popen(
            command,
            cwd=scratch,
            env=_environment(),
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=words,
            text=True,
            encoding="utf-8",
        ) as process:
            try:
                in_ways = f" in {ways} ways" if ways > 1 else ""
                for _ in track(_done(process), f"Scoring {split}{in_ways}", total):
                    pass
                status = process.wait()
            finally:
                process.kill()
        said = _last_words(words)
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
        message = json.loads(line)
        if "error" in message:
            raise SegopsError(message["error"])
        yield message["done"]


def _environment() -> dict[str, str]:
    """The environment of the child: it imports the very segops that this process runs."""
    here = str(Path(segops.__file__).resolve().parents[1])
    paths = [here, *filter(None, os.environ.get("PYTHONPATH", "").split(os.pathsep))]
    return {**os.environ, "PYTHONPATH": os.pathsep.join(paths)}


def _last_words(stream: IO[bytes]) -> str:
    stream.seek(0)
    lines = stream.read().decode("utf-8", errors="replace").strip().splitlines()
    return "\n".join(f"  {line}" for line in lines[-LAST_WORDS:])
