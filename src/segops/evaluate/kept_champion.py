"""A copy of the champion's evaluation, which the evaluation page shows beside the model.

:mod:`segops.release.champion_evaluation` writes the copy into the main checkout, and it is read
without MLflow. No metric and no decision uses it, so no stage depends on it.
"""

from __future__ import annotations

import io
import json
import logging
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pandas as pd

from segops import files, paths
from segops.evaluate.comparison import oppose
from segops.params.evaluate import EvaluateParams
from segops.report.page_inputs import Opponent
from segops.runtime.errors import SegopsError

DESCRIPTION = "reference.json"
EVALUATION, COUNTS = paths.EVALUATION.name, paths.COUNTS.name
log = logging.getLogger("segops")


@dataclass(frozen=True)
class ChampionEvaluation:
    """The champion's evaluation.

    Attributes:
        model: Name of the registered model.
        version: Its version.
        bundle_digest: SHA-256 of its artifact.
        class_names: Its classes in id order.
        trained_on: SHA-256 of the images that had a part in its training.
        val_hash: Hash of the val that it was scored on.
        evaluation: Its evaluation, of the form of ``metrics/evaluation.json``; one that was made
            from its counts alone lacks what counts do not tell.
        counts: Its table of counts; see :mod:`segops.evaluate.bootstrap`.
    """

    model: str
    version: str
    bundle_digest: str
    class_names: tuple[str, ...]
    trained_on: frozenset[str]
    val_hash: str
    evaluation: Mapping[str, Any]
    counts: pd.DataFrame

    @property
    def name(self) -> str:
        """What people call it."""
        return f"champion, version {self.version}"


def directory(root: Path) -> Path:
    """Where the champion's evaluation is kept: with the state of the main checkout of `root`."""
    return paths.state_home(root) / paths.KEPT_CHAMPION


def write(root: Path, reference: ChampionEvaluation) -> None:
    """Keep the champion's evaluation, whole or not at all."""
    with files.atomic_directory(directory(root)) as temporary:
        reference.counts.to_parquet(temporary / COUNTS, index=False)
        files.write_json(temporary / EVALUATION, dict(reference.evaluation))
        description = {
            "model": reference.model,
            "version": reference.version,
            "bundle_digest": reference.bundle_digest,
            "class_names": list(reference.class_names),
            "training_images": sorted(reference.trained_on),
            "val_hash": reference.val_hash,
            "files": {name: files.sha256_file(temporary / name) for name in (EVALUATION, COUNTS)},
        }
        files.write_json(temporary / DESCRIPTION, description)


def read(root: Path) -> ChampionEvaluation | None:
    """The champion's evaluation, or None where there is none or it is not whole."""
    kept = directory(root)
    if not (kept / DESCRIPTION).is_file():
        return None
    try:
        description = files.read_json(kept / DESCRIPTION)
        contents = {name: (kept / name).read_bytes() for name in (EVALUATION, COUNTS)}
    except (SegopsError, OSError) as error:
        log.warning("%s: it is not whole and is passed over: %s", kept, error)
        return None
    # Another process may have put another champion's files in place in between.
    found = {name: files.sha256_bytes(one) for name, one in contents.items()}
    if description.get("files") != found:
        log.warning("%s: its files do not belong together; it is passed over.", kept)
        return None
    return ChampionEvaluation(
        model=description["model"],
        version=description["version"],
        bundle_digest=description["bundle_digest"],
        class_names=tuple(description["class_names"]),
        trained_on=frozenset(description["training_images"]),
        val_hash=description["val_hash"],
        evaluation=json.loads(contents[EVALUATION]),
        counts=pd.read_parquet(io.BytesIO(contents[COUNTS])),
    )


def opponent(
    root: Path,
    counts: pd.DataFrame,
    val_hash: str,
    class_names: Sequence[str],
    bundle_digest: str,
    trained_on: Collection[str],
    settings: EvaluateParams,
) -> Opponent | None:
    """The champion as the opponent of a model that was just scored, if it can be one.

    `counts`, `class_names` in id order, `bundle_digest` and `trained_on` (SHA-256 of images) are
    the model's. None where no champion is kept, the model is the champion itself, or the champion
    was scored on another val, knows other classes or has no image left. The log says which.
    """
    champion = read(root)
    if champion is None:
        log.info("No champion of this val is known here: the page shows this model alone.")
        return None
    if champion.bundle_digest == bundle_digest:
        return None
    if champion.val_hash != val_hash or champion.class_names != tuple(class_names):
        what = "on other val data" if champion.val_hash != val_hash else "with other classes"
        log.info("The %s was scored %s; the page shows no comparison.", champion.name, what)
        return None
    try:
        return oppose(
            champion.name,
            counts,
            champion.counts,
            champion.evaluation,
            champion.trained_on | frozenset(trained_on),
            settings,
            class_names,
        )
    except SegopsError as error:
        log.warning("The %s cannot be compared with: %s", champion.name, error)
        return None
