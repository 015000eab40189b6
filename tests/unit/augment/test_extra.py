"""``augment.extra``: transforms of Albumentations by name, from params.yaml to training batches."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import yaml

from segops.augment.policy import Policy, build_policy
from segops.data.datasets import TrainDataset, train_loader
from segops.data.packing import pack
from segops.data.samplers import BatchStream, EpochSampler
from segops.data.store import PackedStore
from segops.files import read_json
from segops.params.augment import AugmentParams
from segops.params.file import load_params
from segops.paths import PACKED, POLICY
from segops.runtime.classes import VOC_CLASSES
from segops.runtime.errors import SegopsError
from segops.stages import augment
from segops.voc.layout import open_layout

FOG = {"name": "RandomFog", "alpha_coef": 0.1, "p": 0.6}
HOLES = {"name": "CoarseDropout", "num_holes_range": [1, 2], "fill_mask": 255, "p": 0.5}


@pytest.fixture(scope="module")
def packed(generated_voc: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    target = tmp_path_factory.mktemp("extra") / "packed"
    pack(open_layout(generated_voc), target, VOC_CLASSES)
    return target


@pytest.fixture
def workspace(tmp_path: Path, packed: Path) -> Path:
    (tmp_path / PACKED).parent.mkdir(parents=True)
    (tmp_path / PACKED).symlink_to(packed)
    return tmp_path


def run(workspace: Path, *extra: dict[str, Any], crop: tuple[int, int] = (48, 64)) -> None:
    settings = {"augment": {"crop": list(crop), "extra": list(extra)}}
    (workspace / "params.yaml").write_text(yaml.safe_dump(settings))
    load_params(workspace)  # typed as name and arguments; what they mean is not asked yet
    augment.run(workspace)


@pytest.mark.slow
def test_transforms_reach_training_batches_and_resume_exactly(workspace: Path) -> None:
    run(workspace, FOG, HOLES)
    policy = Policy.from_json(read_json(workspace / POLICY))
    fog, holes = policy.compose.transforms[-2:]
    assert (type(fog).__name__, fog.alpha_coef, fog.p) == ("RandomFog", 0.1, 0.6)
    assert (type(holes).__name__, holes.num_holes_range, holes.p) == ("CoarseDropout", (1, 2), 0.5)
    store = PackedStore(workspace / PACKED)
    dataset = TrainDataset(store, store.ids("train"), policy, seed=5)
    plain = TrainDataset(
        store, store.ids("train"), build_policy(AugmentParams(crop=(48, 64))), seed=5
    )
    sampler = EpochSampler(len(dataset), 4, seed=1)
    whole = list(train_loader(dataset, BatchStream(sampler, 2)))
    resumed = list(train_loader(dataset, BatchStream(sampler, 2, 0, 2), workers=1))
    for batch, again in zip(whole[2:], resumed, strict=True):
        assert all(torch.equal(*pair) for pair in zip(batch, again, strict=True))
    changed = []
    for (images, masks), (before, labels) in zip(
        whole, train_loader(plain, BatchStream(sampler, 2)), strict=True
    ):
        changed += (images != before).flatten(1).any(1).tolist()
        # The transforms before it draw what they drew, so that only holes differ.
        assert bool(((masks == labels) | (masks == 255)).all())
    assert 0 < np.mean(changed) < 1


@pytest.mark.parametrize(
    ("extra", "words"),
    [
        ({"name": "RandomFoq"}, r"entry 1: .*no transform 'RandomFoq'; did you mean RandomFog"),
        ({"name": "OneOf"}, r"no transform 'OneOf'.*not of a composition"),
        ({"name": "RandomFog", "alpha_coeff": 0.1}, r"no argument 'alpha_coeff'; .* alpha_coef"),
        ({"name": "RandomFog", "alpha_coef": 7}, r"alpha_coef: .* less than .* \(found 7\)"),
        ({"name": "Blur", "blur_limit": -1}, r"Blur: blur_limit: Invalid kernel size range"),
        (
            {"name": "HistogramMatching", "reference_images": ["a.jpg"]},
            r"HistogramMatching: 'reference_images' .* deprecated",
        ),
        ({"name": "RandomCrop"}, r"RandomCrop: height: Field required.*; width: "),
        ({"name": "HistogramMatching"}, r"needs hm_metadata; training gives .* an image and its"),
        ({"name": "CoarseDropout3D"}, r"needs .*volume"),
        ({"name": "CoarseDropout"}, r"CoarseDropout: where .* nothing of the image, the mask has"),
        ({"name": "Rotate", "limit": [30, 30]}, r"(?s)Rotate: .* expected 255.*fill_mask: 255"),
        ({"name": "Transpose"}, r"Transpose: expected a crop of \(48, 64\), got \(64, 48, 3\)"),
        ({"name": "RandomCrop", "height": 9, "width": 9}, r"RandomCrop: expected a crop of"),
        ({"name": "Normalize"}, r"Normalize: expected uint8, got float32"),
        ({"name": "Crop", "x_max": 999, "y_max": 999}, r"Crop: ValueError: Values for crop"),
        (
            {"name": "RandomResizedCrop", "size": [48, 64], "mask_interpolation": 1},
            r"RandomResizedCrop: ids .* appear",
        ),
        ({"name": "Morphological", "scale": [9, 9]}, r"Morphological: .* are not the image's"),
    ],
)
def test_what_cannot_be_trained_with_is_refused_before_anything_is_written(
    workspace: Path, extra: dict[str, Any], words: str
) -> None:
    # Rarely drawn: the proof applies it all the same.
    with pytest.raises(SegopsError, match=words):
        run(workspace, {"p": 0.001, **extra})
    assert not (workspace / POLICY).exists()


def test_all_entries_that_cannot_be_built_are_named() -> None:
    params = AugmentParams.model_validate({"extra": [{"name": "X"}, FOG, {"name": "Y"}]})
    with pytest.raises(SegopsError) as caught:
        build_policy(params)
    assert "entry 1: " in str(caught.value)
    assert "entry 2: " not in str(caught.value)
    assert "entry 3: " in str(caught.value)


@pytest.mark.parametrize(
    ("extra", "words"),
    [
        ([{"p": 0.5}], r"augment\.extra: entry 1: name: missing"),
        ([{"name": "RandomFog", "p": 2}], r"augment\.extra: entry 1: p: expected a number from 0"),
        (["RandomFog"], r"augment\.extra: entry 1: expected a mapping"),
    ],
)
def test_an_entry_that_is_no_transform_is_refused_when_params_are_read(
    tmp_path: Path, extra: list[Any], words: str
) -> None:
    (tmp_path / "params.yaml").write_text(yaml.safe_dump({"augment": {"extra": extra}}))
    with pytest.raises(SegopsError, match=words):
        load_params(tmp_path)


@pytest.mark.parametrize(
    "extra",
    [
        {"name": "VerticalFlip"},
        {"name": "ElasticTransform"},
        # Albumentations advises to use Affine instead.
        {"name": "ShiftScaleRotate", "shift_limit": 0.1, "fill_mask": 255},
    ],
)
def test_transforms_that_move_image_and_mask_alike_pass(
    workspace: Path, extra: dict[str, Any]
) -> None:
    run(workspace, extra)
    assert (workspace / POLICY).exists()
