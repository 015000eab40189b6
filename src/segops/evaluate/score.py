"""Scoring a bundle on a split, in a process of its own outside the checkout."""

from __future__ import annotations

import json
import logging
import os
import subprocess
import sys
import tempfile
from collections.abc import Collection, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

import segops
from segops import files
from segops.data.store import PackedStore
from segops.errors import SegopsError
from segops.predict import isolate
from segops.progress import track
from segops.voc.masks import read_mask

log = logging.getLogger("segops")

# The files that the worker writes. It imports torch; this module must not.
COUNTS = "counts.parquet"
CONFUSION = "confusion.npy"
MASKS = "masks"
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
        bundle_digest: Digest of the bundle that was run.
        weights_sha256: SHA-256 of its weights.
        directory: Where the files lie.
    """

    images: tuple[str, ...]
    excluded: tuple[str, ...]
    class_names: tuple[str, ...]
    counts: pd.DataFrame
    confusion: NDArray[np.int64]
    bundle_digest: str
    weights_sha256: str
    directory: Path

    def prediction(self, image_id: str) -> NDArray[np.uint8]:
        """The predicted mask of an image, uint8 (H, W).

        Raises:
            SegopsError: The masks were not kept, or the image did not count.
        """
        return read_mask(self.directory / MASKS / f"{image_id}.png")


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
) -> Scores:
    """Load a bundle in a child process and count its right and wrong pixels on a split.

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
        masks: Whether to keep the predicted masks.

    Returns:
        The scores.

    Raises:
        SegopsError: The bundle or the data is not usable, its digest is another one, its classes
            are not those of the data, or the child process died; its own words are in the message.
    """
    bundle = bundle.resolve()
    if not bundle.is_dir():
        raise SegopsError(f"{bundle}: no such directory. The stage `train` writes a bundle.")
    names = tuple(files.read_json(bundle / isolate.MODEL)["class_names"])
    if names != store.class_names:
        raise SegopsError(
            f"{bundle}: the model knows the classes {', '.join(names)}; the data has "
            f"{', '.join(store.class_names)}. They must be the same, in the same order."
        )
    digest = files.sha256_tree(bundle) if expected_digest is None else expected_digest
    unwanted = frozenset(exclude_sha256)
    ids = store.ids(split)
    images = tuple(one for one in ids if store.image_sha256(one) not in unwanted)
    excluded = tuple(one for one in ids if store.image_sha256(one) in unwanted)
    request = {
        "bundle": str(bundle),
        "store": str(store.path.resolve()),
        "images": images,
        "expected_digest": digest,
        "device": device,
        "threads": threads,
        "masks": masks,
    }
    with files.atomic_directory(out) as temporary:
        _run_worker(request | {"out": str(temporary.resolve())}, f"Scoring {split}", len(images))
    return Scores(
        images=images,
        excluded=excluded,
        class_names=store.class_names,
        counts=pd.read_parquet(out / COUNTS),
        confusion=np.load(out / CONFUSION, allow_pickle=False),
        bundle_digest=digest,
        weights_sha256=files.sha256_file(bundle / isolate.WEIGHTS),
        directory=out,
    )


def _run_worker(request: dict[str, Any], label: str, total: int) -> None:
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
                for _ in track(_done(process), label, total):
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
