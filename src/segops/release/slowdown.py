"""Measures a version's time of an image against the champion's, once for a pair on a machine."""

from __future__ import annotations

import socket
import tempfile
from dataclasses import asdict
from pathlib import Path

from segops import files, paths
from segops.record import artifact
from segops.record.tracking import Store
from segops.release import paired_counts
from segops.release.evidence import Speed
from segops.release.versions import Version
from segops.voc.layout import VAL


def against(
    root: Path,
    store: Store,
    model: str,
    challenger: Version,
    champion: Version,
    val_hash: str,
    threads: int | None,
) -> Speed:
    """Return the times of two versions on the first images of val.

    They are kept in the workspace, so that the same pair is measured once on a machine.

    Args:
        root: The workspace, whose packed store holds val.
        store: The record.
        model: Name of the registered model.
        challenger: The version to measure.
        champion: The version to measure it against.
        val_hash: Hash of val.
        threads: CPU threads of torch; None: its own choice.

    Raises:
        SegopsError: An artifact was changed after registration, or does not predict.
        MlflowException: MLflow does not answer.
    """
    from segops.evaluate.speed import measure

    pair, machine = [challenger, champion], socket.gethostname()
    key = {
        "bundles": [version.bundle_digest for version in pair],
        "val_hash": val_hash,
        "threads": threads,
        "machine": machine,
    }
    kept = kept_speed(root, challenger.bundle_digest, champion.bundle_digest)
    if kept.is_file():
        tree = files.read_json(kept)
        if tree["key"] == key:
            return Speed(**tree["speed"] | {"version": champion.number})
    packed = paired_counts.open_store(root, val_hash)
    with tempfile.TemporaryDirectory(prefix="segops-") as scratch:
        bundles = [
            (
                artifact.checked_bundle(
                    store, model, one.number, one.bundle_digest, Path(scratch) / str(place)
                ),
                one.bundle_digest,
            )
            for place, one in enumerate(pair)
        ]
        ours, theirs = measure(bundles, packed, VAL, threads=threads)
    speed = Speed(
        version=champion.number,
        milliseconds=ours.milliseconds,
        reference_milliseconds=theirs.milliseconds,
        images=ours.images,
        passes=ours.passes,
        device=ours.device,
        threads=ours.threads,
        machine=machine,
    )
    files.write_json(kept, {"key": key, "speed": asdict(speed)})
    return speed


def kept_speed(root: Path, challenger: str, champion: str) -> Path:
    """Return the file for the measured times of two artifacts, by their digests."""
    return root / paths.JUDGED / f"{challenger[:16]}-{champion[:16]}-speed.json"
