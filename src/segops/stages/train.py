"""Stage train: train the network, write the bundle, the last weights and the learning curves."""

from __future__ import annotations

import csv
import io
import logging
import os
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import safetensors.torch

from segops import files, params
from segops.augment.policy import Policy
from segops.data.store import PackedStore
from segops.errors import SegopsError
from segops.models.zoo import ModelSpec, normalisation
from segops.params import Params
from segops.predict.bundle import bundle_digest, weights_sha256, write_bundle
from segops.train import checkpoint
from segops.train.fingerprint import encoder_file, fingerprint, training_parts
from segops.train.fresh import wants_fresh
from segops.train.hardware import choose_device, choose_precision, choose_threads
from segops.train.history import History
from segops.train.loop import Job, Outcome, train

HISTORY = files.STATE / "history.jsonl"
FOLLOW_LOG = files.STATE / "follow.log"
CURVES = ("epoch", "step", "lr", "train_loss", "selection_miou")
log = logging.getLogger("segops")


def run(root: Path, fresh: bool = False) -> None:
    """Train, or continue a training that was killed, and write what it gives.

    Args:
        root: The workspace.
        fresh: Start from the beginning; so do ``SEGOPS_FRESH=1`` and a DVC that was told `--force`.

    Raises:
        SegopsError: The parameters, the data and the machine do not allow it, or it diverged.
    """
    settings = params.load(root)
    store = PackedStore(root / files.PACKED)
    if fresh or wants_fresh():
        checkpoint.remove(root / files.RESUME)
    job = _job(root, settings, store)
    _start_live_logging(root)
    outcome = train(job)
    _write(root, settings, job, outcome)
    job.history.end()
    checkpoint.remove(root / files.RESUME)
    log.info(
        "Trained %d steps; weights of epoch %d%s.",
        outcome.steps,
        outcome.best_epoch,
        "" if outcome.selection_miou is None else f", selection mIoU {outcome.selection_miou:.3f}",
    )


def _job(root: Path, settings: Params, store: PackedStore) -> Job:
    names = settings.data.class_names
    if store.class_names != names:
        raise SegopsError(
            f"{files.PACKED}: packed with other classes than data.classes in params.yaml. "
            "`dvc repro prepare` packs anew."
        )
    serialised = files.read_json(root / files.POLICY)
    weights = settings.model.encoder_weights
    local = encoder_file(root, weights)
    if local is not None and not local.is_file():
        raise SegopsError(
            f"model.encoder_weights: {weights}: no such file. Expected `imagenet`, null, or the "
            "path of a local safetensors file."
        )
    device = choose_device(settings.train.device)
    precision = choose_precision(settings.train.precision, device)
    parts = training_parts(settings, store, serialised, local, device, precision)
    encoder = settings.model.encoder
    mean, std = normalisation(encoder, weights)
    return Job(
        params=settings.train,
        hardware=settings.hardware,
        spec=ModelSpec(
            settings.model.architecture, encoder, len(names), settings.model.options, mean, std
        ),
        encoder_weights=weights if local is None else str(local),
        store=store,
        policy=Policy.from_json(serialised),
        parts=parts,
        resume=root / files.RESUME,
        history=History(root / HISTORY, fingerprint(parts), settings.flat()),
    )


def _write(root: Path, settings: Params, job: Job, outcome: Outcome) -> None:
    store, seed = job.store, job.params.seed
    write_bundle(
        root / files.SEGMENTER,
        outcome.network,
        job.spec,
        store.class_names,
        # Those of the selection split too: they chose the checkpoint.
        {image_id: store.image_sha256(image_id) for image_id in store.ids("train")},
        {"train_hash": store.split_hash("train"), "seed": seed},
    )
    last = {name: tensor.contiguous() for name, tensor in outcome.last.items()}
    files.write_bytes(root / files.LAST_WEIGHTS, safetensors.torch.save(last))
    files.write_text(root / files.LEARNING_CURVES, _table(outcome.rows))
    device = choose_device(job.params.device)
    training = {
        "fingerprint": job.history.fingerprint,
        "weights_sha256": weights_sha256(root / files.SEGMENTER),
        "bundle_digest": bundle_digest(root / files.SEGMENTER),
        "train_hash": store.split_hash("train"),
        "code_hash": job.parts["code"],
        "epochs_run": len(outcome.rows),
        "best_epoch": outcome.best_epoch,
        "selection_miou": outcome.selection_miou,
        "final_train_loss": outcome.rows[-1]["train_loss"],
        "optimizer_steps": outcome.steps,
        "seed": seed,
        "device": device,
        "precision": choose_precision(job.params.precision, device),
        "threads": choose_threads(settings.hardware),
    }
    files.write_json(root / files.TRAINING, training)


def _table(rows: Sequence[dict[str, Any]]) -> str:
    text = io.StringIO()
    writer = csv.DictWriter(text, CURVES, lineterminator="\n")
    writer.writeheader()
    writer.writerows(rows)  # what is None is left empty
    return text.getvalue()


def _start_live_logging(root: Path) -> None:
    """Start the process that tells MLflow, and forget it: training depends on nothing it does."""
    if os.environ.get("SEGOPS_LIVE") == "0":
        return
    command = [sys.executable, "-m", "segops", "record", "--follow", str(os.getpid())]
    path = root / FOLLOW_LOG
    path.parent.mkdir(parents=True, exist_ok=True)
    try:
        with path.open("ab") as output:
            subprocess.Popen(
                command,
                cwd=root,
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=output,
                start_new_session=True,
            )
    except OSError as error:
        log.warning("Live logging did not start: %s. `segops record` delivers it later.", error)
