"""EoMT against transformers' on the same random weights, carried over by the names' mapping."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file

from segops.models.eomt_weights import from_transformers
from segops.models.pretrained import build_pretrained
from segops.runtime.networks.eomt import EoMT
from segops.runtime.networks.zoo import ModelSpec, build

pytestmark = pytest.mark.usefixtures("one_thread")

LIKE_DINOV2 = {"img_size": 64, "reg_tokens": 4, "no_embed_class": True, "init_values": 1.0}
"""What transformers' network is and timm's smallest transformer is not."""


@pytest.fixture(scope="module")
def theirs() -> Any:
    from transformers.models.eomt import EomtConfig
    from transformers.models.eomt.modeling_eomt import EomtForUniversalSegmentation

    torch.manual_seed(0)
    config = EomtConfig(
        hidden_size=64,
        num_hidden_layers=6,
        num_attention_heads=2,
        mlp_ratio=3,
        image_size=64,
        num_blocks=2,
        num_queries=10,
        num_labels=5,
    )
    network = EomtForUniversalSegmentation(config).eval()
    for weight in network.parameters():  # where they start, masks are the same everywhere
        torch.nn.init.normal_(weight, std=0.2)
    return network


def ours(theirs: Any) -> EoMT:
    options = LIKE_DINOV2 | {"queries": 10, "blocks": 2}
    network = build(ModelSpec("eomt", "tu-test_vit", 5, options)).eval().network
    assert isinstance(network, EoMT)
    network.load_state_dict(from_transformers(theirs.state_dict()), strict=True)
    return network


@pytest.mark.parametrize("share", [0.0, 1.0])
@torch.no_grad()
def test_masks_and_classes_equal_those_of_transformers(theirs: Any, share: float) -> None:
    """Without masking, as it is shipped, and with all queries masked, as a training begins."""
    network, images = ours(theirs), torch.randn(2, 3, 64, 64)
    theirs.attn_mask_probs.fill_(share)
    network.mask_shares.fill_(share)
    expected = theirs(images)
    found = network.mask_queries(images)
    assert expected.masks_queries_logits.std() > 0.01
    for one, other in (
        (found.masks[-1], expected.masks_queries_logits),
        (found.classes[-1], expected.class_queries_logits),
    ):
        torch.testing.assert_close(one, other, atol=1e-5, rtol=0)
    if not share:
        torch.testing.assert_close(
            network(images).softmax(dim=1), _semantic(expected), atol=1e-5, rtol=0
        )


def _semantic(output: Any) -> torch.Tensor:
    """The class scores of transformers' semantic post-processing, as shares."""
    masks = torch.nn.functional.interpolate(
        output.masks_queries_logits, size=(64, 64), mode="bilinear"
    )
    classes = output.class_queries_logits.softmax(dim=-1)[..., :-1]
    scores = torch.einsum("bqc, bqhw -> bchw", classes, masks.sigmoid())
    return scores / scores.sum(dim=1, keepdim=True)


def test_a_file_of_transformers_brings_queries_and_heads_too(
    theirs: Any, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level("INFO", "segops")
    path = tmp_path / "model.safetensors"
    save_file(theirs.state_dict(), path)
    options = LIKE_DINOV2 | {"queries": 10, "blocks": 2}
    network = build_pretrained(ModelSpec("eomt", "tu-test_vit", 3, options), str(path)).network
    found, expected = network.state_dict(), ours(theirs).state_dict()
    heads = {"class_head.weight", "class_head.bias"}  # of three classes in place of five
    assert all(torch.equal(found[name], expected[name]) for name in found.keys() - heads)
    assert "0 missing" in caplog.text
    assert (
        "17 tensors of queries and heads; anew: class_head.weight, class_head.bias" in caplog.text
    )


def test_its_encoder_fits_other_heads_at_another_size(theirs: Any, tmp_path: Path) -> None:
    path = tmp_path / "model.safetensors"
    save_file(theirs.state_dict(), path)
    spec = ModelSpec("linear", "tu-test_vit", 3, LIKE_DINOV2 | {"img_size": 96})
    encoder = build_pretrained(spec, str(path)).encoder
    assert encoder is not None
    own, expected = encoder.state_dict(), ours(theirs).encoder.state_dict()
    same = own.keys() - {"model.pos_embed"}
    assert all(torch.equal(own[name], expected[name]) for name in same)
    assert own["model.pos_embed"].shape == (1, 36, 64)  # resampled from 4 x 4 to 6 x 6
    assert own["model.pos_embed"].std() > 0.05


def test_the_mapping_leaves_no_name_of_a_published_file_behind(theirs: Any) -> None:
    """Every tensor of the network, and no other."""
    renamed = from_transformers(theirs.state_dict())
    assert renamed.keys() == ours(theirs).state_dict().keys()
