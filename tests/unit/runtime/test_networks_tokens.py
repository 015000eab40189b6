"""Networks of a vision transformer and a light head: features, sizes, and published weights."""

from __future__ import annotations

from pathlib import Path

import pytest
import timm
import torch
from safetensors.torch import save_file
from torch import Tensor

from segops.models.pretrained import build_pretrained
from segops.runtime.errors import SegopsError
from segops.runtime.networks.segmenter import Segmenter
from segops.runtime.networks.zoo import ModelSpec, build

TINY = "tu-vit_tiny_patch16_224"
DINOV2 = "tu-vit_small_patch14_reg4_dinov2"
SMALL = {"img_size": 98}
"""Position embeddings of 7 x 7 patches in place of 37 x 37."""


def network(architecture: str, encoder: str = TINY, **options: object) -> Segmenter:
    torch.manual_seed(0)
    return build(ModelSpec(architecture, encoder, 5, options)).eval()


@pytest.mark.parametrize("layers", [1, 4])
def test_the_features_are_the_tokens_behind_the_final_norm(layers: int) -> None:
    encoder = network("linear", TINY, layers=layers, img_size=64).encoder
    assert encoder is not None
    images = torch.rand(2, 3, 64, 96)
    with torch.no_grad():
        features = encoder(images)
        plain = encoder.model.get_intermediate_layers(images, layers, reshape=True, norm=True)
        last = encoder.model.forward_features(images)
    assert len(features) == layers
    assert features[0].shape == (2, 192, 4, 6)
    for ours, theirs in zip(features, plain, strict=True):
        assert torch.equal(ours, theirs)
    tokens = last[:, encoder.model.num_prefix_tokens :].transpose(1, 2).reshape(2, 192, 4, 6)
    assert torch.equal(features[-1], tokens)


def test_linear_is_batch_norm_and_one_convolution() -> None:
    head = network("linear", TINY, layers=4).network.get_submodule("head")
    shapes = {name: tuple(one.shape) for name, one in head.named_parameters()}
    assert shapes == {
        "norm.weight": (768,),
        "norm.bias": (768,),
        "score.weight": (5, 768, 1, 1),
        "score.bias": (5,),
    }


@pytest.mark.parametrize("architecture", ["linear", "mlp"])
@pytest.mark.parametrize("size", [(64, 96), (50, 33), (15, 120)])
@torch.no_grad()
def test_images_of_any_size_in_native_patches(architecture: str, size: tuple[int, int]) -> None:
    segmenter = network(architecture, DINOV2, **SMALL)
    assert segmenter.stride == 14
    assert segmenter(torch.zeros(1, 3, *size, dtype=torch.uint8)).shape == (1, 5, *size)


def test_no_parameter_is_without_use() -> None:
    segmenter = network("mlp", DINOV2, **SMALL)
    segmenter.train()
    segmenter(torch.randint(0, 256, (2, 3, 28, 28))).square().sum().backward()
    without = [name for name, one in segmenter.named_parameters() if one.grad is None]
    assert without == []


def test_an_encoder_without_patches_is_refused() -> None:
    with pytest.raises(SegopsError, match=r"linear does not work with encoder resnet18: .*no visi"):
        network("linear", "resnet18")


def dinov2_file(path: Path) -> dict[str, Tensor]:
    """A file as DINOv2 publishes its small transformer with registers, by its list of names."""
    generator = torch.Generator().manual_seed(1)

    def some(*shape: int) -> Tensor:
        return torch.randn(*shape, generator=generator)

    tensors = {
        "cls_token": some(1, 1, 384),
        "pos_embed": some(1, 50, 384),
        "register_tokens": some(1, 4, 384),
        "mask_token": some(1, 384),
        "patch_embed.proj.weight": some(384, 3, 14, 14),
        "patch_embed.proj.bias": some(384),
        "norm.weight": some(384),
        "norm.bias": some(384),
    }
    for block in range(12):
        for name, shape in {
            **dict.fromkeys(("norm1.weight", "norm1.bias", "norm2.weight", "norm2.bias"), (384,)),
            **dict.fromkeys(("ls1.gamma", "ls2.gamma", "attn.proj.bias", "mlp.fc2.bias"), (384,)),
            "attn.qkv.weight": (1152, 384),
            "attn.qkv.bias": (1152,),
            "attn.proj.weight": (384, 384),
            "mlp.fc1.weight": (1536, 384),
            "mlp.fc1.bias": (1536,),
            "mlp.fc2.weight": (384, 1536),
        }.items():
            tensors[f"blocks.{block}.{name}"] = some(*shape)
    torch.save(tensors, path)
    return tensors


def test_a_file_as_dinov2_publishes_it_fits_whole(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level("INFO", "segops")
    published = dinov2_file(tmp_path / "dinov2_vits14_reg4_pretrain.pth")
    spec = ModelSpec("linear", DINOV2, 5, SMALL)
    found = build_pretrained(spec, str(tmp_path / "dinov2_vits14_reg4_pretrain.pth")).encoder
    assert found is not None
    model = found.model
    assert torch.equal(model.blocks[3].mlp.fc1.weight, published["blocks.3.mlp.fc1.weight"])
    assert torch.equal(model.reg_token, published["register_tokens"])
    assert torch.equal(model.pos_embed, published["pos_embed"][:, 1:])
    assert torch.equal(model.cls_token, published["cls_token"] + published["pos_embed"][:, :1])
    assert "0 missing" in caplog.text
    assert "0 unexpected" in caplog.text


@pytest.mark.parametrize("encoder", ["tu-vit_small_patch14_dinov2", TINY])
def test_a_file_of_another_transformer_is_told(encoder: str, tmp_path: Path) -> None:
    """Timm itself raises errors about shapes where it meets tokens that a model does not have."""
    path = tmp_path / "dinov2_vits14_reg4_pretrain.pth"
    dinov2_file(path)
    spec = ModelSpec("linear", encoder, 5, SMALL | {"img_size": 112})
    with pytest.raises(SegopsError, match=r"does not fit this encoder: \w+: "):
        build_pretrained(spec, str(path))


def test_patches_of_16_are_resampled_as_timm_does_it(tmp_path: Path) -> None:
    path = tmp_path / "model.safetensors"
    name = DINOV2.removeprefix("tu-")
    torch.manual_seed(3)
    save_file(timm.create_model(name, num_classes=0, **SMALL).state_dict(), path)
    options = {**SMALL, "img_size": 112, "patch_size": 16}
    theirs = timm.create_model(
        name, True, pretrained_cfg_overlay={"file": str(path)}, num_classes=0, **options
    )
    segmenter = build_pretrained(ModelSpec("linear", DINOV2, 5, options), str(path))
    assert segmenter.stride == 16
    assert segmenter.encoder is not None
    ours = segmenter.encoder.model.state_dict()
    for key, expected in theirs.state_dict().items():
        assert torch.equal(ours[key], expected), key
