"""A statement made from small counts, without MLflow."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path
from typing import Any

import pandas as pd
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat

from segops import __version__
from segops.evaluate.bootstrap import COLUMNS
from segops.params.gate import GateParams
from segops.release import pairing, statement
from segops.release.evidence import (
    Challenger,
    Evidence,
    NoRelease,
    Score,
    ValidationVerdict,
)
from segops.release.gate import decide
from segops.release.pairing import PairedCounts

CLASSES = ("background", "bird", "boat")
POLICY = GateParams(min_miou=0.3, bootstrap_samples=100)
OURS, THEIRS, BEST = ("a" * 64, "b" * 64, "c" * 64)


def counts(right: int, version: str, digest: str, **changes: Any) -> PairedCounts:
    """Counts of a model that gets `right` of 100 pixels of each class right, give or take."""
    rows = [
        (f"image-{i}", f"{i:064d}", label, right - i % 3, 90 + i, 100)
        for i in range(5)
        for label in (0, 1)
    ]
    table = pd.DataFrame(rows, columns=list(COLUMNS))
    seen = changes.pop("trained_on", frozenset())
    return PairedCounts(version, digest, CLASSES, seen, table)


def predicate(
    models: tuple[PairedCounts, ...] | None = None, **changes: Any
) -> tuple[statement.Predicate, tuple[PairedCounts, ...]]:
    """What is stated about version 3, compared with champion 2 and with the best release, 1."""
    if models is None:
        models = (counts(80, "3", OURS), counts(70, "2", THEIRS), counts(75, "1", BEST))
    score = changes.pop("score", None)
    comparisons = [pairing.compare(models[0], one, "val", POLICY) for one in models[1:]]
    found = Evidence(
        challenger=Challenger("segops", "3", "run", OURS),
        score=score
        or Score(
            **asdict(pairing.unseen(models[0])),
            bundle_digest=OURS,
            data_hash="data",
            val_hash="val",
        ),
        validation=ValidationVerdict(True, "data", ("background",)),
        lineage_missing=(),
        champion=comparisons[0] if comparisons else NoRelease(),
        best=comparisons[-1] if comparisons else NoRelease(),
        champion_version="2" if comparisons else None,
    )
    decision = decide(found, POLICY)
    stated: dict[str, Any] = {
        "segops": __version__,
        "registry": "local",
        "model": "segops",
        "version": "3",
        "bundle_digest": OURS,
        "run_id": "run",
        "by": "test",
        "ledger": {"name": "segops-ledger", "entry": 7, "previous": "0" * 64},
        "materials": statement.materials({"data_hash": "data"}, ""),
        "policy": POLICY.model_dump(mode="json"),
        "class_names": CLASSES,
        "models": statement.described(models),
        "best": [one.version for one in models[2:]],
        "evidence": statement.shown(found),
        "checks": [statement.StatedCheck.of(check) for check in decision.checks],
        "verdict": decision.verdict,
    }
    return statement.Predicate(**{**stated, **changes}), models


def private_pem(key: Any, path: Path) -> Path:
    """Write a private key of `cryptography` into a file."""
    path.write_bytes(key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()))
    return path
