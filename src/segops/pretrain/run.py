"""Pretrains the encoder of ``params.yaml`` and writes its weights, a page and a record."""

from __future__ import annotations

import logging
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import safetensors.torch

from segops import files, paths
from segops.augment.policy import build_policy
from segops.code import module_code
from segops.data.datasets import CropDataset
from segops.data.packed_from import require_packed_from
from segops.data.store import PackedStore
from segops.models.pretrained import normalisation
from segops.params.augment import (
    AugmentParams,
    BlurParams,
    ColorJitterParams,
    NoiseParams,
    RotateParams,
    ShearParams,
    ShiftParams,
)
from segops.params.file import Params, load_params
from segops.record import started
from segops.report.pretraining_page import write_pretraining_page
from segops.runtime.errors import SegopsError
from segops.runtime.networks.zoo import ModelSpec
from segops.train import checkpoint
from segops.train.devices import choose_device
from segops.train.fingerprint import content_hash, encoder_file, fingerprint
from segops.train.hardware import choose_precision
from segops.train.pretraining import Pretrained, PretrainJob, loop_params, pretrain
from segops.voc.layout import open_layout

from .images import Images, of_folder, of_train

WEIGHTS, RESULT = paths.PRETRAINED_WEIGHTS.name, paths.PRETRAINING.name
PAGE = "pretraining.html"
LOOP = "segops.train.pretraining"
_HARDWARE = ("channels_last", "deterministic")
log = logging.getLogger("segops")


@dataclass(frozen=True)
class Outcome:
    """What a pretraining left.

    Attributes:
        weights: The file for ``model.encoder_weights``.
        page: The page of restored images.
        result: Content of ``pretraining.json``.
        is_new: Whether it was trained now; false where nothing had changed.
    """

    weights: Path
    page: Path
    result: dict[str, Any]
    is_new: bool


def run(root: Path, fresh: bool = False) -> Outcome:
    """Pretrain, or continue an interrupted pretraining, and write ``models/pretrained``.

    Where images, parameters, code and libraries are those of the last pretraining, nothing is done.

    Args:
        root: The workspace.
        fresh: Start from the beginning in any case.

    Raises:
        SegopsError: Parameters, images and machine do not allow it, the packed data are not those
            of the data set, or it diverged.
    """
    settings = load_params(root)
    with files.exclusive(root / paths.STATE / "pretrain.lock", "a pretraining"):
        store = PackedStore(root / paths.PACKED)
        store.require_params(settings.data)
        images = _images(root, settings, store)
        job = build_job(root, settings, images, store)
        if fresh:
            checkpoint.remove(job.resume)
        elif (kept := _kept(root / paths.PRETRAINED, fingerprint(job.parts))) is not None:
            return kept
        started.keep(root, fingerprint(job.parts), goes_on=job.resume.exists())
        found = pretrain(job)
        outcome = _write(root / paths.PRETRAINED, job, images, found, settings.report.pictures)
        checkpoint.remove(job.resume)
        return outcome


def build_job(root: Path, settings: Params, images: Images, store: PackedStore) -> PretrainJob:
    """The pretraining of a workspace's parameters on some images."""
    own, model = settings.pretrain, settings.model
    file = encoder_file(root, own.encoder_weights)
    if file is not None and not file.is_file():
        raise SegopsError(
            f"pretrain.encoder_weights: {own.encoder_weights}: no such file. Expected a published "
            "name such as imagenet, null, or the path of a local safetensors file."
        )
    train = loop_params(settings.train, own)
    device = choose_device(train.device)
    train = train.model_copy(update={"precision": choose_precision(train.precision, device)})
    statistics = store.statistics
    # The normalisation of a training that starts from the file which is to be written.
    mean, std = (
        (statistics.mean, statistics.std)
        if statistics.mean
        else normalisation(model.encoder, f"./{WEIGHTS}")
    )
    spec = ModelSpec(
        model.architecture,
        model.encoder,
        len(store.class_names),
        model.options,
        mean,
        std,
        output_stride=model.output_stride,
    )
    crops = AugmentParams(
        crop=own.crop,
        scale=own.scale,
        flip=own.flip,
        rotate=RotateParams(p=0),
        shift=ShiftParams(p=0),
        shear=ShearParams(p=0),
        color_jitter=ColorJitterParams(p=0),
        blur=BlurParams(p=0),
        noise=NoiseParams(p=0),
    )
    policy = build_policy(crops, statistics.fill)
    code = module_code(LOOP)
    numbers = own.model_dump(mode="json", exclude={"images", "encoder_weights"})
    parts = {
        "parameters": content_hash(
            {
                "pretrain": numbers,
                "model": [model.architecture, model.encoder, model.options, model.output_stride],
                "hardware": [getattr(train, name) for name in _HARDWARE],
                "normalisation": [mean, std],
            }
        ),
        "policy": content_hash(policy.to_json()),
        "start": str(own.encoder_weights) if file is None else files.sha256_file(file),
        "data": images.digest,
        "code": code.code_hash,
        "libraries": code.libraries_hash,
        "device": device,
        "precision": train.precision,
    }
    return PretrainJob(
        params=own,
        train=train,
        hardware=settings.hardware,
        spec=spec,
        encoder_weights=own.encoder_weights if file is None else str(file),
        dataset=CropDataset(images.source, images.ids, policy, own.seed),
        parts=parts,
        resume=root / paths.PRETRAIN_RESUME,
    )


def _images(root: Path, settings: Params, store: PackedStore) -> Images:
    layout = open_layout(root / settings.data.path, settings.data.reading)
    # Of a store of earlier data it would be another train, and another val that is left out.
    require_packed_from(store, layout)
    directory = settings.pretrain.images
    if directory is None:
        return of_train(store)
    return of_folder(root / Path(directory).expanduser(), settings.data, store, layout)


def _kept(directory: Path, wanted: str) -> Outcome | None:
    """The outcome that lies in a directory, if it is whole and has this fingerprint."""
    weights, result = directory / WEIGHTS, directory / RESULT
    if not (weights.is_file() and result.is_file() and (directory / PAGE).is_file()):
        return None
    content = files.read_json(result)
    known = content.get("fingerprint"), content.get("weights_sha256")
    if known != (wanted, files.sha256_file(weights)):
        return None
    return Outcome(weights, directory / PAGE, content, False)


def _write(
    directory: Path, job: PretrainJob, images: Images, found: Pretrained, pictures: bool
) -> Outcome:
    content = safetensors.torch.save(found.weights)
    result = {
        "fingerprint": fingerprint(job.parts),
        "parts": job.parts,
        "weights_sha256": files.sha256_bytes(content),
        "method": found.method,
        "encoder": job.spec.encoder,
        "images": len(images.ids),
        "held_out": images.held_out,
        "repeated": images.repeated,
        "images_sha256": images.digest,
        "precision": found.precision,
        "nondeterministic": list(found.nondeterministic),
        "epochs": found.rows,
    }
    with files.atomic_directory(directory) as place:
        (place / WEIGHTS).write_bytes(content)
        files.write_json(place / RESULT, result)
        write_pretraining_page(place / PAGE, result, job.params, found.restored if pictures else ())
    return Outcome(directory / WEIGHTS, directory / PAGE, result, True)
