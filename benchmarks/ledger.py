"""Time of the ledger and of `segops status` as a registry grows, on an MLflow server over HTTP.

A server on SQLite gets 100 versions of a model and 300 entries of its ledger, then 1,000 and 3,000.
At both sizes this prints the median time of an append, of reading the history with this checkout's
copy and without it (champions, best release and looks at val, as the gate does), of the whole
check, and of `status` and `audit` after the imports; and how each grew.
Run: ``python -m benchmarks.ledger``; filling takes minutes.
"""

from __future__ import annotations

import os
import shutil
import statistics
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from segops.params.registry import RegistryParams
from segops.record.lineage import tag
from segops.record.tracking import Store, session
from segops.release import releases, versions
from segops.release.audit import audit
from segops.release.ledger import Ledger
from segops.release.status import status
from tests.support import mlflow_server, registry_workspace

SIZES = (100, 1000)
ENTRIES = 3
"""Entries of the ledger for each version: decision, intent, done."""
ROUNDS = 5
VAL = "v" * 64
TEXT = "x" * 5000
"""About as long as the checks and the evidence of a decision."""


def fill(store: Store, ledger: Ledger, start: int, stop: int) -> None:
    """Add versions, each promoted."""
    for number in range(start + 1, stop + 1):
        store.client.create_model_version(
            "segops", "segops-benchmark:/x", tags={tag("miou"): "0.5"}, await_creation_for=0
        )
        facts: dict[str, Any] = {"reason": "why", "by": "benchmark", "version": str(number)}
        decided = {
            "checks": TEXT,
            "bundle_digest": str(number),
            "counts": {str(number): str(number)},
            "evidence": {"score": {"val_hash": VAL}, "licence": {"name": "none needed"}},
        }
        ledger.append("decision", verdict="promoted", details=decided, **facts)
        intent = ledger.append(
            "intent", verdict="promote", details={"bundle_digest": str(number)}, **facts
        )
        ledger.append("done", verdict="promote", details={"intent": intent.sequence}, **facts)
    versions.set_alias(store, "segops", versions.CHAMPION, str(stop))


def measured(work: Callable[[], object]) -> float:
    """Return the median seconds of a call."""
    seconds = []
    for _ in range(ROUNDS):
        start = time.perf_counter()
        work()
        seconds.append(time.perf_counter() - start)
    return statistics.median(seconds)


def figures(root: Path, store: Store, audited: str) -> dict[str, float]:
    """Return the seconds of each kind of access; `audited` is a version with a real run."""
    writer = Ledger(store, root, "segops")

    def read() -> None:
        history = releases.read(Ledger(store, root, "segops").entries())
        assert history.gated[VAL]  # the looks are counted

    def read_without_copy() -> None:
        shutil.rmtree(writer.copy.parent)
        read()

    def append() -> None:
        writer.append("decision", verdict="rejected", reason="why", by="me", again=True)

    writer.entries()
    return {
        "append": measured(append),
        "history": measured(read),
        "history without a copy": measured(read_without_copy),
        "verify": measured(Ledger(store, root, "segops").verify),
        "status": measured(lambda: status(root)),
        "audit": measured(lambda: audit(root, audited)),
    }


def main() -> None:
    """Print the figures at both sizes, and their growth."""
    with tempfile.TemporaryDirectory() as scratch:
        root = registry_workspace.make(Path(scratch) / "checkout", database=False)
        with mlflow_server.serving(Path(scratch) / "server") as (address, _):
            os.environ["MLFLOW_TRACKING_URI"] = address
            real = registry_workspace.release(root, seed=1, quality=0.8).version
            with session(root, RegistryParams()) as store:
                rows, filled = [], 1
                for size in SIZES:
                    fill(store, Ledger(store, root, "segops"), filled, size)
                    filled = size
                    rows.append(figures(root, store, real))
    print(f"{'seconds':<24}" + "".join(f"{f'{size} versions':>16}" for size in SIZES) + "  growth")
    for name in rows[0]:
        small, large = (row[name] for row in rows)
        print(f"{name:<24}{small:>16.3f}{large:>16.3f}{large / small:>8.1f}x")


if __name__ == "__main__":
    main()
