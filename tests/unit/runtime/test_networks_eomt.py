"""EoMT: its tokens, the masking in training and its withdrawal, and the logits of its queries."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from timm.layers import apply_rot_embed_cat
from torch import Tensor

from segops.runtime.errors import SegopsError
from segops.runtime.networks.eomt import EoMT, _without_rotation
from segops.runtime.networks.heads import resize
from segops.runtime.networks.mask_queries import class_logits
from segops.runtime.networks.segmenter import Segmenter
from segops.runtime.networks.zoo import ModelSpec, build

DINOV3 = "tu-vit_tiny_patch16_dinov3_qkvb"

pytestmark = pytest.mark.usefixtures("one_thread")


def built(encoder: str = "tu-test_vit", **options: Any) -> tuple[Segmenter, EoMT]:
    torch.manual_seed(0)
    segmenter = build(ModelSpec("eomt", encoder, 5, {"queries": 6, "blocks": 2} | options))
    network = segmenter.eval().network
    assert isinstance(network, EoMT)
    return segmenter, network


@pytest.mark.parametrize("encoder", ["tu-test_vit", DINOV3, "tu-vit_small_patch16_rope_mixed_224"])
@torch.no_grad()
def test_without_queries_its_tokens_are_those_of_timm(encoder: str) -> None:
    """Also where blocks get rotary position embeddings, shared or of their own."""
    _, network = built(encoder)
    images = torch.rand(2, 3, 32, 48)
    (patches,), prefix, rotations = network.encoder(images)
    assert patches.shape[-2:] == (2, 3)
    tokens = torch.cat([prefix, patches.flatten(2).transpose(1, 2)], dim=1)
    last = range(network.encoder.first, len(network.encoder.model.blocks))
    assert len(last) == 2
    found = network.encoder.model.norm(network.encoder.through(tokens, last, rotations))
    expected = network.encoder.model.forward_features(images)
    torch.testing.assert_close(found, expected, atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("half", [False, True])
def test_queries_are_not_rotated(half: bool) -> None:
    rotations = torch.randn(3, 8)
    longer = _without_rotation(rotations, 2)
    assert torch.equal(longer[:3], rotations)
    values = torch.randn(1, 1, 5, 4)
    turned = apply_rot_embed_cat(values, longer, half=half)
    assert torch.equal(turned[:, :, 3:], values[:, :, 3:])
    assert not torch.equal(turned[:, :, :3], values[:, :, :3])


def test_a_masked_query_attends_to_the_patches_in_its_mask() -> None:
    _, network = built()
    masks = torch.randn(2, 6, 8, 12)
    prefix = network.encoder.model.num_prefix_tokens
    length = prefix + 6 + 6
    (every,) = network._attention(masks, (2, 3), length, torch.tensor(1.0)).unbind(dim=1)
    inside = resize(masks, (2, 3)).flatten(2) > 0
    assert torch.equal(every[:, -6:, prefix:-6], inside)
    assert every[:, :-6].all()  # the image's tokens attend to all, as queries do to each other
    assert every[:, -6:, :prefix].all()
    assert every[:, -6:, -6:].all()
    assert network._attention(masks, (2, 3), length, torch.tensor(0.0)).all()
    many = torch.full((1, 6, 8, 12), -1.0).expand(400, -1, -1, -1)
    torch.manual_seed(1)
    some = network._attention(many, (2, 3), length, torch.tensor(0.3))[:, 0, -6:, prefix:-6]
    masked = ~some.any(dim=-1)
    assert torch.equal(masked, ~some.all(dim=-1))  # of a query all patches or none
    assert 0.25 < float(masked.float().mean()) < 0.35


def test_masking_is_withdrawn_block_by_block_and_ends_before_the_training() -> None:
    _, network = built(blocks=3)
    shares = []
    for progress in (0.0, 0.2, 0.3, 0.4, 0.5, 0.8, 1.0):
        network.anneal(progress)
        shares.append(network.mask_shares.tolist())
    half = pytest.approx(0.5**0.9)
    assert shares == [
        [1, 1, 1],
        [1, 1, 1],
        [half, 1, 1],
        [pytest.approx(0, abs=1e-6), 1, 1],
        [0, half, 1],
        [0, 0, pytest.approx(0, abs=1e-6)],
        [0, 0, 0],
    ]
    assert "network.mask_shares" not in dict(built()[0].state_dict())


@torch.no_grad()
def test_what_is_learned_is_what_is_shipped_once_masking_has_ended() -> None:
    segmenter, network = built()
    images = torch.randint(0, 256, (2, 3, 50, 70), dtype=torch.uint8)
    masked = segmenter(images, as_queries=True)
    assert [len(one) for one in masked[:2]] == [3, 3]
    network.anneal(1.0)
    free = segmenter(images, as_queries=True)
    assert free.masks[0].shape == (2, 6, 16, 20)
    assert free.classes[0].shape == (2, 6, 6)
    assert free.cell == 4
    logits = segmenter(images)
    expected = class_logits(free.masks[-1], free.classes[-1], (64, 80))[..., :50, :70]
    assert torch.equal(logits, expected)
    assert torch.equal(masked.masks[0], free.masks[0])  # no block has masked yet
    assert not torch.equal(masked.masks[-1], free.masks[-1])


def test_softmax_of_the_logits_gives_the_scores_as_shares() -> None:
    masks, classes = torch.randn(1, 3, 2, 2), torch.randn(1, 3, 5)
    logits = class_logits(masks, classes, (2, 2))
    inside = 1 / (1 + np.exp(-masks[0].numpy().astype(float)))
    said = np.exp(classes[0].numpy().astype(float))
    said = (said / said.sum(axis=1, keepdims=True))[:, :-1]
    scores = np.einsum("qc,qyx->cyx", said, inside)
    np.testing.assert_allclose(
        logits.softmax(dim=1)[0].numpy(), scores / scores.sum(axis=0), rtol=1e-5
    )
    nothing = class_logits(masks - 1e4, classes, (2, 2))
    assert torch.isfinite(nothing).all()


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_logits_are_those_of_float32_in_half_precision(dtype: torch.dtype) -> None:
    masks, classes = torch.randn(1, 3, 2, 2, dtype=dtype), torch.randn(1, 3, 5, dtype=dtype)
    for shift in (0, -20):  # with -20 every score is below the least number of float16
        expected = class_logits(masks.float() + shift, classes.float(), (2, 2))
        with torch.autocast("cpu", dtype):
            found = class_logits(masks + shift, classes, (2, 2))
        torch.testing.assert_close(found, expected, atol=0.1, rtol=0)


def test_every_parameter_learns_from_the_queries() -> None:
    segmenter, _ = built(DINOV3)
    segmenter.train()
    images = torch.randint(0, 256, (2, 3, 32, 32))
    found = segmenter(images, as_queries=True)
    losses: list[Tensor] = [one.square().mean() for one in (*found.masks, *found.classes)]
    torch.stack(losses).sum().backward()  # type: ignore[no-untyped-call]
    assert [name for name, one in segmenter.named_parameters() if one.grad is None] == []


@pytest.mark.parametrize(("patch", "cell", "upscales"), [(8, 4, 1), (14, 7, 1), (16, 4, 2)])
def test_masks_are_a_quarter_of_the_image_or_half_of_uneven_patches(
    patch: int, cell: int, upscales: int
) -> None:
    segmenter, network = built(patch_size=patch, img_size=8 * patch)
    assert network.cell == cell
    assert len(network.upscale) == upscales
    found = segmenter(torch.zeros(1, 3, patch, 3 * patch), as_queries=True)
    assert found.masks[0].shape[-2:] == (patch // cell, 3 * patch // cell)


@pytest.mark.parametrize(
    ("encoder", "options", "expected"),
    [
        ("resnet18", {}, "eomt does not work with encoder resnet18 .*: it is no vision"),
        ("tu-swin_tiny_patch4_window7_224", {}, "its layers have strides|further tokens"),
        ("tu-test_vit", {"queries": 0}, "model.options.queries: 0; expected a whole number"),
        ("tu-test_vit", {"blocks": "all"}, "model.options.blocks: 'all'; expected a whole number"),
        ("tu-test_vit", {"blocks": 7}, "blocks: 7, expected 1 to 6"),
        ("tu-test_vit", {"patch_size": 15, "img_size": 120}, "15 pixels are no multiple of 2"),
    ],
)
def test_what_does_not_work_is_told(encoder: str, options: dict[str, Any], expected: str) -> None:
    with pytest.raises(SegopsError, match=expected):
        built(encoder, **options)


def test_dropout_and_an_auxiliary_head_are_refused() -> None:
    with pytest.raises(SegopsError, match=r"model\.dropout: eomt has no dropout; set it to null"):
        build(ModelSpec("eomt", "tu-test_vit", 5, dropout=0.1))
    with pytest.raises(SegopsError, match=r"auxiliary_weight: eomt .* set it to 0"):
        build(ModelSpec("eomt", "tu-test_vit", 5), auxiliary=True)


def test_other_networks_have_no_queries() -> None:
    segmenter = build(ModelSpec("plain_cnn", "", 5, {"width": 4}))
    with pytest.raises(ValueError, match="this network has no queries"):
        segmenter(torch.zeros(1, 3, 8, 8), as_queries=True)


def test_logits_are_computed_on_the_device_that_has_shapes_alone() -> None:
    masks, classes = (torch.empty(size, device="meta") for size in ((1, 3, 4, 4), (1, 3, 6)))
    assert class_logits(masks, classes, (16, 12)).shape == (1, 5, 16, 12)
