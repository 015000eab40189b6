"""Features of a frozen encoder, computed once before the first epoch.

Every epoch then costs the head alone. The features lie in files beside the checkpoints, so that a
resumed training reads the ones that it began with.
"""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterable, Iterator, Sequence
from contextlib import nullcontext
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.utils.data import Dataset, default_collate

from segops.augment.policy import sample_seed
from segops.data.datasets import TrainDataset, TrainSample
from segops.data.samplers import BatchStream, SampleKey
from segops.data.store import PackedStore
from segops.data.workers import stream_loader
from segops.files import read_json, sha256_lines, write_json
from segops.predict.parts import Part, parts
from segops.progress import track
from segops.runtime.errors import SegopsError
from segops.runtime.networks.segmenter import Segmenter
from segops.runtime.torch_predictor import TorchPredictor, evaluating
from segops.train.job import Job

DIRECTORY = "features"
"""In the directory of the checkpoints, which goes when the training has ended."""
VIEWS, VIEW_MASKS, PARTS, DONE = "views.f16", "masks.u8", "selection.f16", "done.json"
AT_ONCE = 8
"""Views that go through the encoder together."""
HALF = np.dtype(np.float16)


class Head(nn.Module):
    """A network's head on features that its encoder gave for crops of `size`, (H, W)."""

    def __init__(self, network: Segmenter, size: tuple[int, int]) -> None:
        super().__init__()
        self.network = network
        self.size = size

    def forward(self, features: Tensor) -> Tensor:
        """Logits (N, C, H, W) of features (N, D, h, w), the maps of all layers side by side."""
        return self.network.from_features(_apart(self.network, features), self.size)


class _Place(NamedTuple):
    """Where the features of a part of an image lie: their first number, height and width."""

    start: int
    height: int
    width: int


@dataclass(frozen=True)
class KeptParts:
    """The features of the selection split's images, each at its own size."""

    numbers: NDArray[np.float16]
    places: dict[tuple[str, int, int], _Place]

    def predict_ids(self, predictor: TorchPredictor, image_id: str, part: Part) -> Tensor:
        """The classes that the predictor's network gives for ``part.around``, uint8 (h, w)."""
        network: Any = predictor.network
        around = part.around
        place = self.places[_key(image_id, part)]
        count = sum(network.encoder.out_channels) * place.height * place.width
        held = np.array(self.numbers[place.start : place.start + count])
        shape = (1, -1, place.height, place.width)
        features = torch.from_numpy(held).reshape(shape).to(predictor.device)
        size = (around[0].stop - around[0].start, around[1].stop - around[1].start)
        with evaluating(network, predictor.device):
            logits: Tensor = network.from_features(_apart(network, features), size)
        return logits[0].argmax(dim=0).to(torch.uint8)


@dataclass(frozen=True)
class Features(Dataset[TrainSample]):
    """The features of a training.

    Attributes:
        views: float16 (images * views, D, h, w); those of an image follow each other.
        masks: uint8 (images * views, H, W).
        count: Views of an image: as it is, then augmented ones.
        length: Number of images.
        seed: The training's seed, which draws the view of a sample.
        selection: Those of the selection split.
    """

    views: NDArray[np.float16]
    masks: NDArray[np.uint8]
    count: int
    length: int
    seed: int
    selection: KeptParts

    @classmethod
    def of(
        cls,
        job: Job,
        fabric: Any,
        network: Segmenter,
        dataset: TrainDataset,
        selection: Sequence[str],
    ) -> Features | None:
        """Compute them, or read those of an interrupted training; None without a frozen encoder.

        Raises:
            SegopsError: The network has no head of its own to train, there are several devices, or
                the disk is too small.
        """
        directory = job.resume / DIRECTORY
        if job.params.frozen_views is None:
            if fabric.is_global_zero:
                shutil.rmtree(directory, ignore_errors=True)
            return None
        if fabric.world_size > 1:
            raise SegopsError(
                f"train.frozen_views: {fabric.world_size} devices. One trains a head alone; set "
                "train.devices and train.nodes to 1, or train.frozen_views to null."
            )
        if not hasattr(network.network, "decode") or network.encoder is None:
            raise SegopsError(
                f"train.frozen_views: {job.spec.architecture} takes no features that can be kept. "
                "Set model.architecture to linear or mlp, or train.frozen_views to null."
            )
        _compute(job, fabric, network, dataset, selection, directory)
        return cls._read(job, dataset, directory)

    @classmethod
    def _read(cls, job: Job, dataset: TrainDataset, directory: Path) -> Features:
        content = read_json(directory / DONE)
        views = tuple(content["views"])
        return cls(
            np.memmap(directory / VIEWS, HALF, "r", shape=views),
            np.memmap(directory / VIEW_MASKS, np.uint8, "r", shape=(views[0], *job.policy.crop)),
            count=views[0] // len(dataset),
            length=len(dataset),
            seed=job.params.seed,
            selection=KeptParts(
                np.memmap(directory / PARTS, HALF, "r") if content["parts"] else np.empty(0, HALF),
                {(name, top, left): _Place(*place) for name, top, left, *place in content["parts"]},
            ),
        )

    def __len__(self) -> int:
        """Number of images."""
        return self.length

    def __getitem__(self, key: SampleKey) -> TrainSample:
        """The features, float16 (D, h, w), and the mask, uint8 (H, W), of a view of an image.

        Which view it is, is a function of the seed and of `key`, (epoch, index), alone.
        """
        epoch, index = key
        view = sample_seed(self.seed, epoch, index) % self.count
        row = index % self.length * self.count + view
        return tuple(torch.from_numpy(np.array(one[row])) for one in (self.views, self.masks))  # type: ignore[return-value]

    def batches(self, batches: BatchStream, *, pin_memory: bool = False) -> Iterable[TrainSample]:
        """The batches of a training, in place of those of images."""
        return stream_loader(self, batches, default_collate, workers=0, pin_memory=pin_memory)


def _compute(
    job: Job,
    fabric: Any,
    network: Segmenter,
    dataset: TrainDataset,
    selection: Sequence[str],
    directory: Path,
) -> None:
    key = sha256_lines([f"{name} {value}" for name, value in sorted(job.parts.items())])
    done = directory / DONE
    if done.is_file() and read_json(done)["key"] == key:
        return
    shutil.rmtree(directory, ignore_errors=True)
    directory.mkdir(parents=True)
    assert job.params.frozen_views is not None
    count = job.params.frozen_views + 1
    encode = _Encoder(network, fabric)
    samples = _views(dataset, count)
    shape: tuple[int, ...] = ()
    number = len(dataset) * count
    try:
        with (
            (directory / VIEWS).open("wb") as features,
            (directory / VIEW_MASKS).open("wb") as masks,
            (directory / PARTS).open("wb") as kept,
        ):
            for images, own in track(_grouped(samples), "Encoding train", -(-number // AT_ONCE)):
                found = encode(images)
                if not shape:
                    shape = found.shape[1:]
                    _require_space(directory, number * (found[0].nbytes + own[0].nbytes))
                features.write(found.data)
                masks.write(own.data)
            places = list(_kept_parts(encode, job.store, selection, kept))
            for file in (features, masks, kept):
                file.flush()
                os.fsync(file.fileno())
    except BaseException as error:
        shutil.rmtree(directory, ignore_errors=True)
        if not isinstance(error, OSError):
            raise
        raise SegopsError(
            f"{directory}: cannot be written: {error.strerror or error}. Free space, or set "
            "train.frozen_views to a smaller number or to null."
        ) from error
    write_json(done, {"key": key, "views": [number, *shape], "parts": places})


def _views(dataset: TrainDataset, count: int) -> Iterator[TrainSample]:
    """Every image as it is, then augmented; the k-th augmented view is that of epoch k - 1."""
    plain = replace(dataset, policy=dataset.policy.plain(), copy_paste=None)
    for index in range(len(dataset)):
        yield plain[0, index]
        for view in range(count - 1):
            yield dataset[view, index]


def _grouped(samples: Iterator[TrainSample]) -> Iterator[tuple[Tensor, NDArray[np.uint8]]]:
    group: list[TrainSample] = []
    for sample in samples:
        group.append(sample)
        if len(group) == AT_ONCE:
            yield _stacked(group)
            group = []
    if group:
        yield _stacked(group)


def _stacked(group: list[TrainSample]) -> tuple[Tensor, NDArray[np.uint8]]:
    images, masks = (torch.stack(list(kind)) for kind in zip(*group, strict=True))
    return images, masks.numpy()


def _kept_parts(
    encode: _Encoder, store: PackedStore, ids: Sequence[str], file: Any
) -> Iterator[tuple[Any, ...]]:
    """Write the features of the selection split's images; yields where those of each part lie."""
    start = 0
    for image_id in track(ids, "Encoding the selection split", len(ids)):
        for part in parts(*store.size(image_id)):
            pixels = np.array(store.image(image_id)[part.around])
            # In float32, as the network is evaluated.
            found = encode(torch.from_numpy(pixels).permute(2, 0, 1)[None], exactly=True)
            file.write(found.data)
            yield *_key(image_id, part), start, *found.shape[2:]
            start += found.size


class _Encoder:
    """The encoder of a network, which it leaves as it found it."""

    def __init__(self, network: Segmenter, fabric: Any) -> None:
        self.network = network
        self.fabric = fabric

    def __call__(self, images: Tensor, *, exactly: bool = False) -> NDArray[np.float16]:
        """The features float16 (N, D, h, w) of images uint8 (N, B, H, W), all layers in one.

        They are computed in the training's precision, or `exactly`, in float32.
        """
        device = self.fabric.device
        precision = nullcontext() if exactly else self.fabric.autocast()
        with evaluating(self.network, device), precision:
            maps = self.network.features(images.to(device))
        found: NDArray[np.float16] = torch.cat(list(maps), dim=1).half().cpu().numpy()
        if not np.isfinite(found).all():
            raise SegopsError(
                "train.frozen_views: features of the encoder exceed float16, in which they are "
                "kept. Set train.frozen_views to null and train.freeze_encoder_epochs in its place."
            )
        return np.ascontiguousarray(found)


def _apart(network: Any, features: Tensor) -> tuple[Tensor, ...]:
    """The maps of the layers, float32, out of one."""
    return torch.split(features.float(), list(network.encoder.out_channels), dim=1)


def _key(image_id: str, part: Part) -> tuple[str, int, int]:
    return image_id, part.place[0].start, part.place[1].start


def _require_space(directory: Path, size: int) -> None:
    free = shutil.disk_usage(directory).free
    if size > free:
        raise SegopsError(
            f"train.frozen_views: the features take {size / 2**30:.1f} GiB and {directory} has "
            f"{free / 2**30:.1f} free. Free space, or set it to a smaller number or to null."
        )
