"""Gathers the gate's evidence. What cannot be established is Unknown, with the reason."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import asdict, dataclass, field
from functools import partial
from pathlib import Path
from typing import Any, TypeVar

import pandas as pd
from mlflow.exceptions import MlflowException

from segops import files, paths
from segops.evaluate.bootstrap import miou_from_counts, true_classes
from segops.metrics.catalogue import SPLIT_METRICS
from segops.models.licences import UNKNOWN
from segops.params.file import Params
from segops.predict.bundle import read_bundle, size
from segops.record import artifact, lineage, stage_outputs, weights
from segops.record.tracking import Store
from segops.release import paired_counts, pairing, slowdown, versions
from segops.release.evidence import (
    Challenger,
    Comparison,
    Evidence,
    Identical,
    Licence,
    NoRelease,
    Reference,
    Score,
    Speed,
    Unknown,
    ValidationVerdict,
)
from segops.release.pairing import PairedCounts
from segops.release.releases import Releases
from segops.release.versions import Version
from segops.runtime.errors import SegopsError

Value = TypeVar("Value")
METRICS = {metric.name: metric for metric in SPLIT_METRICS}
SAME_MIOU = 1e-6
"""Largest difference by rounding between the evaluation's mIoU and that of its counts."""


@dataclass(frozen=True)
class _Inputs:
    """The inputs of all parts of the evidence, and the counts that were compared so far."""

    root: Path
    settings: Params
    store: Store
    history: Releases
    compared: list[PairedCounts] = field(default_factory=list)

    @property
    def model(self) -> str:
        return self.settings.registry.model


@dataclass(frozen=True)
class Gathered:
    """Evidence, and the counts that it was computed from.

    Attributes:
        evidence: The evidence.
        counts: The counts of the challenger, of the champion and of the best releases, each model
            once; empty where the challenger's could not be established.
    """

    evidence: Evidence
    counts: tuple[PairedCounts, ...]


def gather(root: Path, settings: Params, store: Store, history: Releases) -> Gathered:
    """Gather the evidence on the workspace's model.

    Args:
        root: The workspace.
        settings: Its parameters.
        store: The record.
        history: The releases of this model by the ledger.
    """
    case = _Inputs(root, settings, store, history)
    aliases = _known(lambda: versions.aliases(store, case.model))
    version = _known(lambda: _version(case))
    challenger: Challenger | Unknown
    paired: PairedCounts | Unknown
    missing: tuple[str, ...] | Unknown
    if isinstance(version, Unknown):
        challenger, paired, missing = version, version, version
    else:
        registered = version
        challenger = _known(lambda: _challenger(case, registered))
        paired = _known(lambda: _challenger_counts(case, registered))
        missing = lineage.gaps(registered.tags)
    champion, champion_version = _champion(case, aliases, version, paired)
    if isinstance(champion, Identical):
        champion = _intact(champion, challenger, version)
    score = paired if isinstance(paired, Unknown) else _known(lambda: _score(case, paired))
    evidence = Evidence(
        challenger=challenger,
        score=score,
        validation=_known(lambda: _validation(root, settings)),
        lineage_missing=missing,
        champion=champion,
        best=_best(case, champion, version, paired),
        champion_version=champion_version,
        looks=_looks(case, challenger, score),
        licence=_known(lambda: _licence(case)),
        speed=_known(lambda: _speed(case, version, champion)),
    )
    ours = () if isinstance(paired, Unknown) else (paired,)
    counts = {one.bundle_digest: one for one in (*ours, *case.compared)}
    return Gathered(evidence, tuple(counts.values()))


def unreachable(root: Path, settings: Params, reason: str) -> Evidence:
    """Return the evidence when the registry does not answer: only the validation is known.

    Args:
        root: The workspace.
        settings: Its parameters.
        reason: Why the registry does not answer.
    """
    unknown = Unknown(reason)
    return Evidence(
        challenger=unknown,
        score=unknown,
        validation=_known(lambda: _validation(root, settings)),
        lineage_missing=unknown,
        champion=unknown,
        best=unknown,
        looks=unknown,
        licence=unknown,
        speed=unknown,
    )


def _known(establish: Callable[[], Value]) -> Value | Unknown:
    """Call `establish`; an error from missing or broken evidence becomes Unknown."""
    try:
        return establish()
    except (SegopsError, MlflowException, OSError) as error:
        return Unknown(str(error))
    except (KeyError, TypeError, ValueError) as error:
        return Unknown(f"broken evidence: {type(error).__name__}: {error}")


def _version(case: _Inputs) -> Version:
    digest = stage_outputs.read(case.root).bundle_digest
    version = versions.find(case.store, case.model, digest)
    if version is None:
        raise SegopsError(
            f"{case.model} has no version with the artifact {digest[:12]} of this workspace. "
            "`segops promote` registers it."
        )
    return version


def _challenger(case: _Inputs, version: Version) -> Challenger:
    # Computed from the registered files; a tag may be wrong.
    with files.scratch() as scratch:
        held = read_bundle(artifact.fetch_bundle(case.store, case.model, version.number, scratch))
    withdrawn = version.withdrawn or case.history.withdrawn.get(version.number)
    return Challenger(
        case.model, version.number, version.run_id, held.digest, withdrawn, size(held)
    )


def _evaluation(root: Path) -> dict[str, Any]:
    evaluation: dict[str, Any] = files.read_json(root / paths.EVALUATION)
    return evaluation


def _challenger_counts(case: _Inputs, version: Version) -> PairedCounts:
    """Return the challenger's counts, as the evaluate stage made them from the bundle."""
    counts, evaluation = pd.read_parquet(case.root / paths.COUNTS), _evaluation(case.root)
    digest = str(evaluation["bundle_digest"])
    described = read_bundle(case.root / paths.SEGMENTER, digest).model
    return PairedCounts(
        version.number,
        digest,
        tuple(described["class_names"]),
        paired_counts.trained_on(case.root, described, str(evaluation["val_hash"])),
        counts,
    )


def _score(case: _Inputs, paired: PairedCounts) -> Score:
    evaluation = _evaluation(case.root)
    whole = miou_from_counts(paired.counts, true_classes(paired.counts))
    written = evaluation["miou"]
    if written is None or not math.isclose(whole, written, rel_tol=0, abs_tol=SAME_MIOU):
        raise SegopsError(
            f"{paths.EVALUATION} says mIoU {written}, {paths.COUNTS} gives {whole}. "
            "`dvc repro --force --single-item evaluate` makes both again."
        )
    return Score(
        **asdict(pairing.unseen(paired)),
        bundle_digest=paired.bundle_digest,
        data_hash=str(evaluation["data_hash"]),
        val_hash=str(evaluation["val_hash"]),
        boundary_iou=METRICS["boundary_iou"].read(evaluation),
        calibration_error=METRICS["expected_calibration_error"].read(evaluation),
    )


def _looks(
    case: _Inputs, challenger: Challenger | Unknown, score: Score | Unknown
) -> int | Unknown:
    if isinstance(score, Unknown):
        return score
    if isinstance(challenger, Unknown):
        return challenger
    return len(case.history.gated.get(score.val_hash, frozenset()) | {challenger.bundle_digest})


def _licence(case: _Inputs) -> Licence:
    training = files.read_json(case.root / paths.TRAINING)
    source, name = weights.licence(
        case.store, case.root, training, case.settings, case.history.licences
    )
    stated = case.settings.gate.stated_weight_licences.get(source)
    if name == UNKNOWN and stated is not None:
        return Licence(source, stated.strip().lower(), stated=True)
    return Licence(source, name)


def _speed(
    case: _Inputs, version: Version | Unknown, champion: Reference
) -> Speed | NoRelease | Identical | Unknown:
    if case.settings.gate.max_slowdown is None:
        return Unknown("gate.max_slowdown is not set, so it was not measured")
    if isinstance(version, Unknown):
        return version
    if not isinstance(champion, Comparison):
        return champion
    return slowdown.against(
        case.root,
        case.store,
        case.model,
        version,
        versions.get(case.store, case.model, champion.version),
        champion.val_hash,
        case.settings.hardware.threads,
    )


def _validation(root: Path, settings: Params) -> ValidationVerdict:
    verdict = files.read_json(root / paths.VERDICT)
    required = settings.validate_.required(settings.data.class_names)
    return ValidationVerdict(verdict["passed"] is True, str(verdict["data_hash"]), required)


def _champion(
    case: _Inputs,
    aliases: dict[str, str] | Unknown,
    version: Version | Unknown,
    paired: PairedCounts | Unknown,
) -> tuple[Reference, str | None]:
    """Return the challenger's comparison with the champion, and the champion's version."""
    if isinstance(aliases, Unknown):
        return aliases, None
    number = aliases.get(versions.CHAMPION)
    if number is None:
        if case.history.champion is None:
            return NoRelease(), None
        reason = (
            f"the ledger names version {case.history.champion} as champion, the registry has "
            "none. `segops rollback --reason WHY` restores it; if it is not usable, the command "
            "withdraws it and restores the release before it, if there is one."
        )
        return Unknown(reason), None
    if number != case.history.champion:
        reason = (
            f"version {number} has the alias champion, and the ledger names "
            f"{case.history.champion or 'none'}: it is not trusted, and its code is not run. "
            f"`segops adopt {number} --reason WHY` takes it in; `segops rollback --reason WHY` "
            "takes it back."
        )
        return Unknown(reason), number
    return _known(lambda: _against(case, number, version, paired)), number


def _intact(
    champion: Identical, challenger: Challenger | Unknown, version: Version | Unknown
) -> Reference:
    """Return `champion` if its files have the digest that was registered, else why not."""
    if isinstance(challenger, Unknown):
        return challenger
    if isinstance(version, Version) and challenger.bundle_digest != version.bundle_digest:
        return Unknown(
            f"version {champion.version} is champion, and its artifact was changed: its files have "
            f"the digest {challenger.bundle_digest[:12]}, {version.bundle_digest[:12]} was "
            "registered. Restore it from a backup, or roll back."
        )
    return champion


def _against(
    case: _Inputs, number: str, version: Version | Unknown, paired: PairedCounts | Unknown
) -> Reference:
    if isinstance(version, Unknown):
        return version
    reference = versions.get(case.store, case.model, number)
    released_as = case.history.digests.get(number)
    if released_as is not None and released_as != reference.bundle_digest:
        return Unknown(
            f"version {number}: its tag says that its artifact is {reference.bundle_digest[:12]}, "
            f"the ledger released {released_as[:12]}. The tag was changed; set it back."
        )
    if number == version.number or reference.bundle_digest == version.bundle_digest:
        return Identical(number)
    if isinstance(paired, Unknown):
        return paired
    val_hash = str(_evaluation(case.root)["val_hash"])
    threads = case.settings.hardware.threads
    known = case.history.counts.get((reference.bundle_digest, val_hash), frozenset())
    released = paired_counts.of_version(
        case.root, case.store, case.model, reference, val_hash, threads, known
    )
    comparison = pairing.compare(paired, released, val_hash, case.settings.gate)
    case.compared.append(released)
    return comparison


def _best(
    case: _Inputs, champion: Reference, version: Version | Unknown, paired: PairedCounts | Unknown
) -> Reference:
    """Return the comparison with the best release; of several, that with the lowest difference."""
    if isinstance(version, Unknown):
        return version
    if isinstance(champion, Unknown | Identical):
        return champion
    if not case.history.best:
        return NoRelease() if isinstance(champion, NoRelease) else champion
    references: list[Reference] = []
    for release in case.history.best:
        if isinstance(champion, Comparison) and release.version == champion.version:
            references.append(champion)
            continue
        references.append(_known(partial(_against, case, release.version, version, paired)))
    unknown = [reference for reference in references if isinstance(reference, Unknown)]
    if unknown:
        return unknown[0]
    compared = [reference for reference in references if isinstance(reference, Comparison)]
    if not compared:
        return references[0]
    return min(compared, key=lambda comparison: comparison.difference)
