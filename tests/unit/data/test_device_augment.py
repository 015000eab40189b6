"""The device's executor makes what the CPU's makes, sample by sample, from the same draws."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import albumentations as A
import cv2
import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from scipy import stats
from torch import Tensor

from segops.augment.color import ColorJitter, GaussianBlur, GaussianNoise
from segops.augment.geometry import Warp
from segops.augment.policy import Policy, build_policy, sample_seed
from segops.data.datasets import TrainDataset, train_loader
from segops.data.device.augmentation import BatchAugmentation, device_batches
from segops.data.device.batch_color import apply, encode, hsv_to_rgb, rgb_to_hsv
from segops.data.packing import pack
from segops.data.samplers import BatchStream, EpochSampler
from segops.data.store import PackedStore
from segops.params.augment import AugmentParams
from segops.runtime.bands import IMAGENET_MEAN_COLOR
from segops.runtime.classes import VOC_CLASSES, VOID
from segops.voc.layout import open_layout

Pixels = NDArray[np.uint8]
CPU = torch.device("cpu")
STILL = {
    "scale": {"p": 0},
    "flip": {"p": 0.5},
    "rotate": {"p": 0},
    "shift": {"p": 0},
    "shear": {"p": 0},
    "color_jitter": {"p": 0},
    "blur": {"p": 0},
    "noise": {"p": 0},
}
STRONG_GEOMETRY = {
    "scale": {"range": [0.2, 3.0], "p": 1},
    "rotate": {"limit": 90, "p": 0.7},
    "shift": {"limit": 0.3, "p": 0.7},
    "shear": {"limit": 30, "p": 0.7},
}


@pytest.fixture(scope="module")
def store(generated_voc: Path, tmp_path_factory: pytest.TempPathFactory) -> PackedStore:
    target = tmp_path_factory.mktemp("device") / "packed"
    pack(open_layout(generated_voc), target, VOC_CLASSES)
    return PackedStore(target)


def policy_of(crop: tuple[int, int] = (40, 48), **changes: Any) -> Policy:
    return build_policy(AugmentParams.model_validate({**STILL, "crop": crop, **changes}))


def dataset_of(store: PackedStore, policy: Policy, seed: int = 5) -> TrainDataset:
    return TrainDataset(store, store.ids("train"), policy, seed)


def on_device(dataset: TrainDataset, keys: list[tuple[int, int]]) -> tuple[Tensor, Tensor]:
    augment = BatchAugmentation(dataset)
    return augment(augment.pack([augment[key] for key in keys]), CPU)


def both(dataset: TrainDataset, count: int = 60) -> tuple[tuple[Tensor, Tensor], ...]:
    """(images, masks) of the CPU's executor and of the device's; images as int32 (N, 3, h, w)."""
    keys = [(epoch, index) for epoch, index in zip(range(count), range(3, 99), strict=False)]
    expected = zip(*(dataset[key] for key in keys), strict=True)
    images, masks = (torch.stack(part) for part in expected)
    found = on_device(dataset, keys)
    return (images.int(), masks), (found[0].int(), found[1])


@pytest.mark.parametrize("crop", [(40, 48), (64, 80), (90, 100), (17, 200)])
def test_flips_and_crops_are_exact(store: PackedStore, crop: tuple[int, int]) -> None:
    """Also where the crop is larger than the image and the rest of it is padding."""
    (images, masks), found = both(dataset_of(store, policy_of(crop)))
    assert torch.equal(found[0], images)
    assert torch.equal(found[1], masks)


@pytest.mark.parametrize("crop", [(40, 48), (120, 33)])
def test_any_affine_map_agrees(store: PackedStore, crop: tuple[int, int]) -> None:
    (images, masks), found = both(dataset_of(store, policy_of(crop, **STRONG_GEOMETRY)))
    # OpenCV before version 5 rounds positions to a 1024th of a pixel.
    assert (found[1] != masks).float().mean() < 2e-3
    assert (found[0] - images).abs().float().mean() < 1
    assert len(torch.unique(masks)) > 3


def test_a_crop_of_padding_alone_is_void_and_of_the_fill_s_colour(store: PackedStore) -> None:
    policy = Policy(
        A.Compose([Warp((16, 16), shift=0.999, shift_p=1, scale=(0.01, 0.02), scale_p=1)])
    )
    (images, masks), found = both(dataset_of(store, policy), 30)
    assert torch.equal(found[1], masks)
    fill = torch.tensor(IMAGENET_MEAN_COLOR)[:, None, None]
    empty = (images == fill).flatten(1).all(1)
    assert empty.any()
    assert bool((masks[empty] == VOID).all())
    assert bool((found[0][empty] == fill).all())
    assert (found[0] - images).abs().max() <= 1


@pytest.mark.parametrize("crop", [(40, 48), (136, 24), (3, 2)])
def test_colour_jitter_is_the_cpu_s_to_one_level(store: PackedStore, crop: tuple[int, int]) -> None:
    """The contrast's mean grey, of labelled pixels alone and of every eighth row, included."""
    policy = policy_of(crop, color_jitter={"p": 0.8, "contrast": 0.9})
    (images, _), found = both(dataset_of(store, policy))
    assert (found[0] - images).abs().max() <= 1
    # OpenCV multiplies bytes in fixed point.
    assert (found[0] != images).float().mean() < 0.1
    assert (images != both(dataset_of(store, policy_of(crop)))[0][0]).any()


@pytest.mark.parametrize("hue", [0, 18, 180])
def test_photometric_distortion_is_the_cpu_s_to_one_level(store: PackedStore, hue: float) -> None:
    policy = policy_of(photometric={"p": 0.8, "hue": hue})
    (images, _), found = both(dataset_of(store, policy))
    # Contrast after saturation multiplies a difference of one level by up to 1.5.
    assert (found[0] - images).abs().max() <= 2
    assert (found[0] != images).float().mean() < 1e-3
    assert (images != both(dataset_of(store, policy_of()))[0][0]).any()


def test_hsv_is_opencv_s() -> None:
    rng = np.random.default_rng(0)
    colours = rng.integers(0, 256, (300, 200, 3), dtype=np.uint8)
    colours[:50] = rng.integers(0, 3, (50, 200, 3))
    found = torch.stack(rgb_to_hsv(torch.from_numpy(colours)[None]), dim=-1)[0].numpy()
    assert np.array_equal(found, cv2.cvtColor(colours, cv2.COLOR_RGB2HSV_FULL))
    back = hsv_to_rgb(*torch.from_numpy(colours)[None].unbind(-1))[0].numpy().astype(int)
    expected = cv2.cvtColor(colours, cv2.COLOR_HSV2RGB_FULL)
    assert np.abs(back - expected).max() <= 1
    assert (back != expected).mean() < 1e-4


@pytest.mark.parametrize("crop", [(40, 48), (5, 4), (1, 30)])
def test_blur_is_the_cpu_s_to_one_level(store: PackedStore, crop: tuple[int, int]) -> None:
    policy = policy_of(crop, blur={"p": 0.6, "sigma": [0.3, 3.0]})
    (images, _), found = both(dataset_of(store, policy))
    assert (found[0] - images).abs().max() <= 1
    assert (images != both(dataset_of(store, policy_of(crop)))[0][0]).any()


def drawn_noise(transform: GaussianNoise) -> dict[str, Any]:
    return transform.get_params_dependent_on_data({}, {"image": np.zeros((1, 1, 3), np.uint8)})


def test_noise_has_the_cpu_s_distribution(store: PackedStore) -> None:
    grey = np.full((64, 64, 3), 128, np.uint8)
    transform = GaussianNoise(std=(0.04, 0.04), p=1)
    policy = Policy(A.Compose([Warp((64, 64)), transform]))
    theirs = np.stack([policy(grey, grey[..., 0], seed)[0] for seed in range(8)]).astype(int) - 128
    images = torch.from_numpy(np.stack([grey] * 8))
    encoded = encode(GaussianNoise, [drawn_noise(transform)] * 8, list(range(8)))
    assert encoded is not None
    noisy = apply(GaussianNoise, images, images[..., 0], encoded)
    ours = noisy.numpy().astype(int) - 128
    assert abs(ours.mean() - theirs.mean()) < 0.1
    assert abs(ours.std() / theirs.std() - 1) < 0.01
    assert abs(ours.std() - 0.04 * 255) < 0.15
    assert ours.min() == theirs.min()
    assert ours.max() == theirs.max()
    assert stats.ks_2samp(ours.ravel(), theirs.ravel()).pvalue > 0.05
    # No pixel, channel or sample repeats another.
    flat = ours.reshape(8, -1)
    assert np.abs(np.corrcoef(flat) - np.eye(8)).max() < 0.05
    assert np.abs(np.corrcoef(ours.reshape(-1, 3).T) - np.eye(3)).max() < 0.05


def test_noise_is_clipped_and_leaves_other_samples_alone() -> None:
    white = torch.full((3, 8, 8, 3), 255, dtype=torch.uint8)
    drawn = drawn_noise(GaussianNoise(std=(0.2, 0.2)))
    encoded = encode(GaussianNoise, [None, drawn, None], [1, 2, 3])
    assert encoded is not None
    noisy = apply(GaussianNoise, white.clone(), white[..., 0], encoded)
    assert encode(GaussianNoise, [None] * 3, [1, 2, 3]) is None
    assert torch.equal(noisy[[0, 2]], white[[0, 2]])
    share = (noisy[1] == 255).float().mean()
    assert 0.35 < share < 0.65


def test_what_is_drawn_is_what_the_cpu_s_executor_draws(store: PackedStore) -> None:
    policy = policy_of(
        **{**STRONG_GEOMETRY, "scale": {"p": 0.8}},
        color_jitter={"p": 0.5},
        blur={"p": 0.4},
        noise={"p": 0.4},
    )
    image_id = store.ids("train")[0]
    image, mask = store.image(image_id), store.mask(image_id)
    names = {
        Warp: ("scale", "flip", "angle", "shift", "shear", "to_source", "window"),
        ColorJitter: ("brightness", "contrast", "saturation", "hue"),
        GaussianBlur: ("drawn_sigma",),
        GaussianNoise: ("drawn_std",),
    }
    acted = 0
    for seed in range(200):
        policy(image, mask, seed)
        done = [dict(transform.params) for transform in policy.compose.transforms]
        drawn = policy.draw(image, mask, seed)
        assert len(drawn) == len(done) == 4
        for transform, params, one in zip(policy.compose.transforms, done, drawn, strict=True):
            assert (one is None) == (params == {})
            for name in names[type(transform)] if one is not None else ():
                assert one[name] == params[name], (seed, name)
            acted += one is not None
    assert 350 < acted < 550


FULL = {**STRONG_GEOMETRY, "color_jitter": {"p": 0.5}, "blur": {"p": 0.4}, "noise": {"p": 0.4}}


def test_a_sample_does_not_depend_on_its_batch(store: PackedStore) -> None:
    dataset = dataset_of(store, policy_of((33, 41), **FULL))
    keys = [(epoch, index) for epoch in range(2) for index in range(10)]
    images, masks = on_device(dataset, keys)
    for place, key in enumerate(keys):
        image, mask = on_device(dataset, [key])
        assert torch.equal(image[0], images[place])
        assert torch.equal(mask[0], masks[place])
    other, _ = on_device(dataset_of(store, dataset.policy, seed=6), keys)
    again, _ = on_device(dataset, [(3, 0)])
    assert not torch.equal(other[0], images[0])
    assert not torch.equal(again[0], images[0])


@pytest.mark.parametrize("workers", [0, 2])
@pytest.mark.parametrize("done", [0, 3])
def test_order_and_resume_are_those_of_the_train_loader(
    store: PackedStore, done: int, workers: int
) -> None:
    dataset = dataset_of(store, policy_of(**FULL))
    sampler = EpochSampler(len(dataset), 5, seed=1)
    epoch, batch = divmod(done, len(sampler))
    expected = list(train_loader(dataset, BatchStream(sampler, 3, epoch, batch)))
    whole = list(device_batches(dataset, BatchStream(sampler, 3), device=CPU))
    found = list(
        device_batches(dataset, BatchStream(sampler, 3, epoch, batch), device=CPU, workers=workers)
    )
    assert len(found) == len(expected) == 6 - done
    for (images, masks), (_, masks_of_cpu), (again, _) in zip(
        found, expected, whole[done:], strict=True
    ):
        assert images.dtype == masks.dtype == torch.uint8
        assert images.shape == (5, 3, 40, 48)
        assert images.is_contiguous(memory_format=torch.channels_last)
        assert masks.is_contiguous()
        assert (masks != masks_of_cpu).float().mean() < 2e-3
        assert torch.equal(images, again)


def test_a_crop_drawn_again_is_the_cpu_s(store: PackedStore) -> None:
    changes: dict[str, Any] = {**STRONG_GEOMETRY, "scale": {"range": [1.0, 3.0], "p": 1}}
    again = dataset_of(store, policy_of((24, 24), **changes, cat_max_ratio=0.5))
    (images, masks), found = both(again)
    assert (found[1] != masks).float().mean() < 2e-3
    assert (found[0] - images).abs().float().mean() < 1
    once = both(dataset_of(store, policy_of((24, 24), **changes)))[0][1]
    assert not torch.equal(masks, once)


def test_torch_s_global_generator_is_left_alone(store: PackedStore) -> None:
    dataset = dataset_of(store, policy_of(**FULL))
    before = torch.get_rng_state()
    list(device_batches(dataset, BatchStream(EpochSampler(len(dataset), 4, seed=1), 1), device=CPU))
    assert torch.equal(torch.get_rng_state(), before)


def test_deterministic_mode_takes_every_operation(store: PackedStore) -> None:
    dataset = dataset_of(store, policy_of(**FULL))
    plain = on_device(dataset, [(0, 0), (0, 1)])
    torch.use_deterministic_algorithms(True)
    try:
        strict = on_device(dataset, [(0, 0), (0, 1)])
    finally:
        torch.use_deterministic_algorithms(False)
    assert all(torch.equal(*pair) for pair in zip(plain, strict, strict=True))


def test_only_what_the_crop_shows_is_sent(store: PackedStore) -> None:
    dataset = dataset_of(store, policy_of((16, 16)))
    height, width = store.size(store.ids("train")[0])
    augment = BatchAugmentation(dataset)
    batch = augment.pack([augment[0, 0]])
    assert batch.images.pixels.shape[0] <= (16 + 10) ** 2 < height * width


def test_the_seed_is_the_sample_s(store: PackedStore) -> None:
    assert BatchAugmentation(dataset_of(store, policy_of()))[3, 7].seed == sample_seed(5, 3, 7)
