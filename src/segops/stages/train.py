"""Stage train: trains the network and writes it, the last weights and the learning curves."""

from __future__ import annotations

import logging
import os
import subprocess
import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import pandas as pd
import safetensors.torch

from segops import files, paths
from segops.augment.policy import BACKGROUND, Policy
from segops.data.channel_statistics import ChannelStatistics
from segops.data.device.augmentation import choose_executor
from segops.data.imbalance import class_weights
from segops.data.selection_split import selection_split
from segops.data.store import PackedStore
from segops.models.pretrained import normalisation, weights_file
from segops.params import semi_supervised
from segops.params.compatibility import pruning_refusal
from segops.predict.trained import write_trained
from segops.record import started
from segops.runtime import opener
from segops.runtime.bands import RGB
from segops.runtime.errors import SegopsError
from segops.runtime.networks.zoo import ModelSpec
from segops.train import checkpoint, launch
from segops.train.devices import Device, choose_device, choose_world
from segops.train.fingerprint import (
    OF_FIRST_RANK,
    PRECISION,
    encoder_file,
    fingerprint,
    training_parts,
)
from segops.train.fresh import VARIABLE, wants_fresh
from segops.train.hardware import can_compute, choose_precision, choose_threads
from segops.train.history import TrainingLog
from segops.train.job import Job, TrainingResult, TrainingSettings
from segops.train.loop import train
from segops.train.start import Start, all_images
from segops.train.teacher import Teacher
from segops.train.unlabelled import unlabelled_ids
from segops.voc.layout import UNLABELLED

FOLLOW_LOG = paths.STATE / "follow.log"
CURVES = ["epoch", "step", "lr", "train_loss", "selection_miou"]
log = logging.getLogger("segops")


def run(root: Path, fresh: bool = False) -> None:
    """Train, or continue an interrupted training, and write the outputs.

    In a distributed training this process is a rank; rank zero writes. `fresh` starts from the
    beginning, as ``SEGOPS_FRESH=1`` or DVC's `--force` does.

    Raises:
        SegopsError: Parameters, data and machine do not allow the training, or it diverged.
    """
    settings = TrainingSettings.read(root)
    if fresh:
        os.environ[VARIABLE] = "1"
    with launch.as_rank():
        _train(root, settings)


def _train(root: Path, settings: TrainingSettings) -> None:
    is_first = launch.rank() == 0
    store = PackedStore(root / paths.PACKED)
    if is_first and wants_fresh():
        checkpoint.remove(root / paths.RESUME)
    job = build_job(root, settings, store)
    if is_first:
        goes_on = (root / paths.RESUME).exists()
        started.keep(root, job.history.fingerprint, goes_on=goes_on)
        _start_live_logging(root)
    outcome = train(job)
    if not is_first:
        return
    _write(root, settings, job, outcome)
    job.history.end()
    if TrainingSettings.read(root) == settings:  # else the result is not taken
        checkpoint.remove(root / paths.RESUME)
    log.info(
        "Trained %d steps; weights of epoch %d%s.",
        outcome.steps,
        outcome.best_epoch,
        "" if outcome.selection_miou is None else f", selection mIoU {outcome.selection_miou:.3f}",
    )


def build_job(
    root: Path,
    settings: TrainingSettings,
    store: PackedStore,
    serialised: Mapping[str, Any] | None = None,
) -> Job:
    """Build the training job from a workspace's parameters and data.

    `serialised` is the augmentation policy as stage augment writes it; None: the one it wrote.

    Raises:
        SegopsError: Parameters and data do not fit together, or a file is missing.
    """
    store.require_params(settings.data)
    serialised = files.read_json(root / paths.POLICY) if serialised is None else serialised
    weights = settings.model.encoder_weights
    local = encoder_file(root, weights)
    if local is not None and not local.is_file():
        raise SegopsError(
            f"model.encoder_weights: {weights}: no such file. Expected `imagenet`, null, or the "
            "path of a local safetensors file."
        )
    device = choose_device(settings.train.device)
    precision = choose_precision(settings.train.precision, device)
    devices, nodes = choose_world(settings.train, device)
    policy = Policy.from_json(serialised)
    start = _start(root, settings)
    if start is not None and len(start.mean) not in (RGB, store.channels):
        raise SegopsError(
            f"model.start_from: {start.model}: a model of images of {len(start.mean)} channels; "
            f"the data has {store.channels}. Start from a model of RGB images"
            f"{'' if store.channels == RGB else f' or of {store.channels} channels'}, or set it "
            "to null."
        )
    spec = _spec(settings, start, store.statistics)
    if settings.train.pruning is not None:
        spec, start = _pruned(settings, settings.train.pruning, spec, start)
    teacher = _teacher(root, settings, store)
    executor = choose_executor(settings.augment.device, device, policy)
    if settings.train.frozen_views is not None:  # the views are made once, before the training
        executor = "cpu"
    parts = training_parts(
        settings, store, serialised, local, device, precision,
        ranks=devices * nodes, executor=executor, start=start, teacher=teacher,
    )  # fmt: skip
    if settings.train.precision == "auto":
        parts = _with_begun_precision(root / paths.RESUME, parts, device)
    ids, _ = selection_split(store.ids("train"), settings.train.selection_share)
    return Job(
        params=settings.train.model_copy(update={"precision": parts[PRECISION]}),
        hardware=settings.hardware,
        spec=spec,
        encoder_weights=weights if local is None else str(local),
        store=store,
        policy=policy,
        parts=parts,
        resume=root / paths.RESUME,
        history=TrainingLog(root / paths.HISTORY, fingerprint(parts), settings.flat()),
        auxiliary_weight=settings.model.auxiliary_weight,
        class_weights=class_weights(store, ids, settings.train.class_weights),
        start=start,
        teacher=teacher,
        copy_paste=settings.augment.copy_paste if settings.augment.copy_paste.p else None,
        background=serialised.get(BACKGROUND),
        augment_device=executor,
    )


def _with_begun_precision(directory: Path, parts: dict[str, str], device: Device) -> dict[str, str]:
    """Take the precision from an interrupted training if the parts differ in nothing else.

    Thus a training that continues on another device, where `auto` would choose another precision,
    keeps its own. The models that only rank zero knows are not compared.
    """
    begun = None if wants_fresh() else checkpoint.parts_of_interrupted(directory)
    if begun is None or not can_compute(begun.get(PRECISION, ""), device):
        return parts
    if {*checkpoint.differing(parts, begun)} - OF_FIRST_RANK != {PRECISION}:
        return parts
    return {**parts, PRECISION: begun[PRECISION]}


def _spec(
    settings: TrainingSettings, start: Start | None, statistics: ChannelStatistics
) -> ModelSpec:
    """Return the network's specification.

    Start weights of as many channels keep their own normalisation; other than RGB images have that
    of train.
    """
    model = settings.model
    if statistics.mean and (start is None or len(start.mean) != statistics.channels):
        mean, std = statistics.mean, statistics.std
    elif start is None:
        mean, std = normalisation(model.encoder, model.encoder_weights)
    else:
        mean, std = start.mean, start.std
    return ModelSpec(
        model.architecture,
        model.encoder,
        len(settings.data.class_names),
        model.options,
        mean,
        std,
        output_stride=model.output_stride,
        dropout=model.dropout,
        pruned_shapes={} if start is None else start.pruned_shapes,
    )


def _start(root: Path, settings: TrainingSettings) -> Start | None:
    """Return the model to start from, on rank zero only.

    The other ranks get its weights and its normalisation, a buffer, when Fabric wraps the network.
    """
    if settings.model.start_from is None or launch.rank():
        return None
    with _found(root, settings, settings.model.start_from) as (bundle, model):
        return Start.of(bundle, model)


def _pruned(
    settings: TrainingSettings, share: float, spec: ModelSpec, start: Start | None
) -> tuple[ModelSpec, Start | None]:
    """Return network and model to start from without a share of the channels, on rank zero."""
    reason = pruning_refusal(settings.model.architecture, settings.model.start_from)
    if reason is not None:
        raise SegopsError(f"train.pruning: {reason}, or set train.pruning to null.")
    if start is None:
        return spec, None
    start = start.pruned(spec, share)
    return replace(spec, pruned_shapes=start.pruned_shapes), start


def _teacher(root: Path, settings: TrainingSettings, store: PackedStore) -> Teacher | None:
    """Return the teacher, on rank zero only; the other ranks get it from rank zero."""
    if settings.train.teacher is None or launch.rank():
        return None
    with _found(root, settings, settings.train.teacher) as (bundle, model):
        return Teacher.of(bundle, model, store.class_names, store.channels)


@contextmanager
def _found(root: Path, settings: TrainingSettings, model: str) -> Iterator[tuple[Path, str]]:
    """Yield the bundle of a model that a parameter names, and the model's permanent address."""
    # Not part of the hashed code: the model enters the fingerprint by its content.
    from segops.record import tracking
    from segops.release import resolve

    if model.startswith("models:"):
        resolve.parsed(model)
        with tracking.session(root, settings.registry, create=False) as store:
            name, version = resolve.find_version(store, model)
        # Pin the version, because the alias may move before the bundle is fetched.
        place = model = f"models:/{name}/{version.number}"
    else:
        place = str(root / Path(model).expanduser())
    with resolve.resolved(place, root) as bundle:
        yield bundle, model


def _write(root: Path, settings: TrainingSettings, job: Job, outcome: TrainingResult) -> None:
    store, seed, unlabelled = job.store, job.params.seed, unlabelled_ids(job)
    ids = *store.ids("train"), *unlabelled
    learned = {semi_supervised.UNLABELLED_IMAGES: len(unlabelled)} if unlabelled else {}
    made_from = {"start_from": job.start, "teacher": job.teacher}
    earlier = {role: one for role, one in made_from.items() if one is not None}
    images = {role: one.training_images for role, one in earlier.items()}
    pixels = {role: one.training_pixels for role, one in earlier.items()}
    write_trained(
        root / paths.TRAINED,
        outcome.network,
        job.spec,
        store.class_names,
        # With the selection split, which chose the checkpoint.
        all_images({name: store.image_sha256(name) for name in ids}, **images),
        {"train_hash": store.split_hash("train"), "seed": seed, **learned},
        all_images(store.pixel_hashes(ids), **pixels),
    )
    last = {name: tensor.contiguous() for name, tensor in outcome.last.items()}
    files.write_bytes(root / paths.LAST_WEIGHTS, safetensors.torch.save(last))
    further = [name for name in semi_supervised.CURVES if name in outcome.rows[0]]
    table = pd.DataFrame(outcome.rows, columns=[*CURVES, *further])
    files.write_text(root / paths.LEARNING_CURVES, table.to_csv(index=False, lineterminator="\n"))
    device = choose_device(job.params.device)
    devices, nodes = choose_world(job.params, device)
    training = {
        "fingerprint": job.history.fingerprint,
        "weights_sha256": files.sha256_file(root / paths.TRAINED / opener.WEIGHTS),
        "train_hash": store.split_hash("train"),
        "code_hash": job.parts["code"],
        "epochs_run": len(outcome.rows),
        "best_epoch": outcome.best_epoch,
        "selection_miou": outcome.selection_miou,
        "final_train_loss": outcome.rows[-1]["train_loss"],
        "optimizer_steps": outcome.steps,
        "seed": seed,
        "device": device,
        "precision": job.params.precision,
        "threads": choose_threads(settings.hardware),
        "devices": devices,
        "nodes": nodes,
        "augment_device": job.augment_device,
        "start_model": None if job.start is None else job.start.model,
        "start_sha256": _start_sha256(job),
        "teacher_model": None if job.teacher is None else job.teacher.model,
        semi_supervised.UNLABELLED_IMAGES: len(unlabelled),
        "unlabelled_hash": store.split_hash(UNLABELLED) if unlabelled else None,
        "teacher_digest": None if job.teacher is None else job.teacher.digest,
        "nondeterministic": list(outcome.nondeterministic),
    }
    files.write_json(root / paths.TRAINING, training)


def _start_sha256(job: Job) -> str | None:
    """Return the SHA-256 of the weights that the training started from, if it is known."""
    if job.start is not None:
        return job.start.sha256
    path = weights_file(job.spec.encoder, job.encoder_weights)
    return None if path is None else files.sha256_file(path)


def _start_live_logging(root: Path) -> None:
    """Start the process that logs to MLflow; training does not depend on it."""
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
