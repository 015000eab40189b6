"""Gathers what the gate looks at. What cannot be established is Unknown, with the reason."""

from __future__ import annotations

import math
import tempfile
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, TypeVar

import pandas as pd
from mlflow.exceptions import MlflowException

from segops import files, paths
from segops.evaluate.bootstrap import miou_from_counts, true_classes, without_images
from segops.params.file import Params
from segops.predict.bundle import bundle_digest
from segops.record import artifact, lineage, stage_outputs
from segops.record.tracking import Store
from segops.release import paired_counts, versions
from segops.release.evidence import (
    Challenger,
    Comparison,
    Evidence,
    Identical,
    NoRelease,
    Reference,
    Score,
    Unknown,
    Validation,
)
from segops.release.paired_counts import PairedCounts
from segops.release.releases import Releases
from segops.release.versions import Version
from segops.runtime import opener
from segops.runtime.errors import SegopsError

Found = TypeVar("Found")
SAME_MIOU = 1e-6
"""The mIoU of the evaluation and of its counts may differ by rounding, no more."""


@dataclass(frozen=True)
class _Case:
    """Everything that the parts of the evidence are gathered from."""

    root: Path
    settings: Params
    store: Store
    history: Releases

    @property
    def model(self) -> str:
        return self.settings.registry.model


def gather(root: Path, settings: Params, store: Store, history: Releases) -> Evidence:
    """Gather the evidence on the workspace's model.

    Args:
        root: The workspace.
        settings: Its parameters.
        store: The record.
        history: What the ledger tells of this model.
    """
    case = _Case(root, settings, store, history)
    aliases = _known(lambda: versions.aliases(store, case.model))
    version = _known(lambda: _version(case))
    challenger: Challenger | Unknown
    judged: PairedCounts | Unknown
    missing: tuple[str, ...] | Unknown
    if isinstance(version, Unknown):
        challenger, judged, missing = version, version, version
    else:
        known = version
        challenger = _known(lambda: _challenger(case, known))
        judged = _known(lambda: _judged(case, known))
        missing = lineage.gaps(known.tags)
    champion, champion_version = _champion(case, aliases, version, judged)
    return Evidence(
        challenger=challenger,
        score=judged if isinstance(judged, Unknown) else _known(lambda: _score(case, judged)),
        validation=_known(lambda: _validation(root)),
        lineage_missing=missing,
        champion=champion,
        best=_best(case, champion, version, judged),
        champion_version=champion_version,
    )


def unreachable(root: Path, reason: str) -> Evidence:
    """The evidence when the registry does not answer: only what lies in the workspace is known.

    Args:
        root: The workspace.
        reason: What happened.
    """
    unknown = Unknown(reason)
    return Evidence(
        challenger=unknown,
        score=unknown,
        validation=_known(lambda: _validation(root)),
        lineage_missing=unknown,
        champion=unknown,
        best=unknown,
    )


def _known(establish: Callable[[], Found]) -> Found | Unknown:
    """What `establish` returns; the errors of missing or broken evidence become Unknown."""
    try:
        return establish()
    except (SegopsError, MlflowException, OSError) as error:
        return Unknown(str(error))
    except (KeyError, TypeError, ValueError) as error:
        return Unknown(f"broken evidence: {type(error).__name__}: {error}")


def _version(case: _Case) -> Version:
    digest = stage_outputs.read(case.root).bundle_digest
    found = versions.find(case.store, case.model, digest)
    if found is None:
        raise SegopsError(
            f"{case.model} has no version with the artifact {digest[:12]} of this workspace. "
            "`segops promote` registers it."
        )
    return found


def _challenger(case: _Case, version: Version) -> Challenger:
    # Computed from the registered files, not read from a tag.
    with tempfile.TemporaryDirectory() as scratch:
        bundle = artifact.fetch_bundle(case.store, case.model, version.number, Path(scratch))
        digest = bundle_digest(bundle)
    withdrawn = version.withdrawn or case.history.withdrawn.get(version.number)
    return Challenger(case.model, version.number, version.run_id, digest, withdrawn)


def _evaluation(root: Path) -> dict[str, Any]:
    evaluation: dict[str, Any] = files.read_json(root / paths.EVALUATION)
    return evaluation


def _judged(case: _Case, version: Version) -> PairedCounts:
    """The challenger's counts, as the evaluate stage made them from the bundle."""
    described = files.read_json(case.root / paths.SEGMENTER / opener.MODEL)
    return PairedCounts(
        version.number,
        str(_evaluation(case.root)["bundle_digest"]),
        tuple(described["class_names"]),
        frozenset(described["training_images"].values()),
        pd.read_parquet(case.root / paths.COUNTS),
    )


def _score(case: _Case, judged: PairedCounts) -> Score:
    evaluation = _evaluation(case.root)
    whole = miou_from_counts(judged.counts, true_classes(judged.counts))
    written = evaluation["miou"]
    if written is None or not math.isclose(whole, written, rel_tol=0, abs_tol=SAME_MIOU):
        raise SegopsError(
            f"{paths.EVALUATION} says mIoU {written}, {paths.COUNTS} gives {whole}. "
            "`dvc repro --force --single-item evaluate` makes both anew."
        )
    unseen = without_images(judged.counts, judged.trained_on)
    classes = true_classes(unseen)
    iou: dict[str, float | None] = dict.fromkeys(judged.class_names)
    iou |= {judged.class_names[one]: miou_from_counts(unseen, (one,)) for one in classes}
    images = int(unseen["image_id"].nunique())
    return Score(
        miou=miou_from_counts(unseen, classes),
        class_iou=iou,
        images=images,
        seen_images=int(judged.counts["image_id"].nunique()) - images,
        bundle_digest=judged.bundle_digest,
        data_hash=str(evaluation["data_hash"]),
        val_hash=str(evaluation["val_hash"]),
    )


def _validation(root: Path) -> Validation:
    verdict = files.read_json(root / paths.VERDICT)
    return Validation(verdict["passed"] is True, str(verdict["data_hash"]))


def _champion(
    case: _Case,
    aliases: dict[str, str] | Unknown,
    version: Version | Unknown,
    judged: PairedCounts | Unknown,
) -> tuple[Reference, str | None]:
    """The challenger against the champion, and the champion's version."""
    if isinstance(aliases, Unknown):
        return aliases, None
    number = aliases.get(versions.CHAMPION)
    if number is None:
        if case.history.champion is None:
            return NoRelease(), None
        reason = (
            f"the ledger names version {case.history.champion} as champion, the registry has none. "
            f"Set the alias `champion` of {case.model} again, or, if the registry was begun anew "
            "on purpose, move ledger.jsonl away."
        )
        return Unknown(reason), None
    return _known(lambda: _against(case, number, version, judged)), number


def _against(
    case: _Case, number: str, version: Version | Unknown, judged: PairedCounts | Unknown
) -> Reference:
    if isinstance(version, Unknown):
        return version
    reference = versions.get(case.store, case.model, number)
    if number == version.number or reference.bundle_digest == version.bundle_digest:
        return Identical(number)
    if isinstance(judged, Unknown):
        return judged
    val_hash = str(_evaluation(case.root)["val_hash"])
    threads = case.settings.hardware.threads
    theirs = paired_counts.judge(case.root, case.store, case.model, reference, val_hash, threads)
    return paired_counts.compare(judged, theirs, val_hash, case.settings.gate)


def _best(
    case: _Case, champion: Reference, version: Version | Unknown, judged: PairedCounts | Unknown
) -> Reference:
    """The challenger against the best release: of several, the one it does worst against."""
    if isinstance(version, Unknown):
        return version
    if isinstance(champion, Unknown | Identical):
        return champion
    if not case.history.best:
        return NoRelease() if isinstance(champion, NoRelease) else champion
    found: list[Reference] = []
    for release in case.history.best:
        if isinstance(champion, Comparison) and release.version == champion.version:
            found.append(champion)
            continue
        found.append(_known(partial(_against, case, release.version, version, judged)))
    unknown = [one for one in found if isinstance(one, Unknown)]
    if unknown:
        return unknown[0]
    compared = [one for one in found if isinstance(one, Comparison)]
    if not compared:
        return found[0]
    return min(compared, key=lambda one: one.difference)
