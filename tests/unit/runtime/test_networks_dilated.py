"""Dilated encoders and the networks of the published recipes; output stride and dropout."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import nn

from segops.runtime.errors import SegopsError
from segops.runtime.networks.heads import auxiliary_head
from segops.runtime.networks.options import MASKS
from segops.runtime.networks.zoo import ARCHITECTURES, ModelSpec, build
from tests.support.networks import random_images, small, wake

pytestmark = pytest.mark.usefixtures("one_thread")

CLASSES = 21
RESNET_V1C = "tu-resnet50c"


def published(architecture: str) -> Any:
    """The network of a recipe, without memory for its weights."""
    with torch.device("meta"):
        return ARCHITECTURES[architecture](
            encoder_name=RESNET_V1C, encoder_weights=None, classes=CLASSES
        )


def parameters(module: nn.Module) -> int:
    return sum(parameter.numel() for parameter in module.parameters())


# Of MMSegmentation's configurations `configs/_base_/models/*_r50-d8.py` with 21 classes, layer by
# layer; a convolution without bias and its batch norm is kernel area x in x out + 2 x out.
# ResNetV1c-50: torchvision's ResNet-50 without classifier, 23,508,032, its 7x7 stem (9,408 + 128)
# replaced by three 3x3 ones (864 + 64, 9,216 + 64, 18,432 + 128).
ENCODER = 23_508_032 - 9_536 + 928 + 9_280 + 18_560
CLASSIFIER = 512 * CLASSES + CLASSES


def block(kernel: int, before: int, after: int) -> int:
    return kernel * kernel * before * after + 2 * after


def separable(before: int, after: int) -> int:
    return 9 * before + 2 * before + block(1, before, after)


HEADS = {
    # FCNHead: num_convs 2, concat_input
    "dilated_fcn": block(3, 2048, 512) + block(3, 512, 512) + block(3, 2560, 512),
    # PSPHead: four pooled branches, bottleneck on 2048 + 4 x 512
    "dilated_pspnet": 4 * block(1, 2048, 512) + block(3, 4096, 512),
    # ASPPHead: image pool, 1x1, three dilated 3x3, bottleneck on 5 x 512
    "dilated_deeplabv3": 2 * block(1, 2048, 512) + 3 * block(3, 2048, 512) + block(3, 2560, 512),
    # DepthwiseSeparableASPPHead: the same with separable branches; c1 reduced to 48; two separable
    "dilated_deeplabv3plus": 2 * block(1, 2048, 512)
    + 3 * separable(2048, 512)
    + block(3, 2560, 512)
    + block(1, 256, 48)
    + separable(560, 512)
    + separable(512, 512),
}


@pytest.mark.parametrize("architecture", sorted(HEADS))
def test_parameters_are_those_of_the_published_configuration(architecture: str) -> None:
    network = published(architecture)
    assert parameters(network.encoder) == ENCODER
    assert parameters(network) == ENCODER + HEADS[architecture] + CLASSIFIER


def test_pspnet_agrees_with_a_published_count() -> None:
    """OpenVINO's Open Model Zoo gives 46.5827 M for MMSegmentation's `pspnet_r50-d8` of VOC.

    There every batch norm is folded into its convolution, which leaves one value a channel of two.
    """
    network = published("dilated_pspnet")
    norms = [one for one in network.modules() if isinstance(one, nn.BatchNorm2d)]
    folded = parameters(network) - sum(norm.num_features for norm in norms)
    assert folded / 1e6 == pytest.approx(46.5827, abs=1e-4)


def test_the_auxiliary_head_is_the_published_one() -> None:
    head = auxiliary_head(1024, CLASSES)  # FCNHead: num_convs 1, channels 256, no concat_input
    assert parameters(head) == block(3, 1024, 256) + 256 * CLASSES + CLASSES
    assert head.dropout.p == 0.1


def test_strides_and_dilations_are_those_of_resnet_v1c_d8() -> None:
    encoder = published("dilated_fcn").encoder
    found = [
        (name, conv.stride[0], conv.dilation[0])
        for name, conv in encoder.model.named_modules()
        if name.endswith("conv2")
    ]
    # Strides (1, 2, 1, 1), dilations (1, 1, 2, 4), contract_dilation: half in the first block.
    expected = [*(1, 1, 1), *(1, 1, 1, 1), *(1, 2, 2, 2, 2, 2), *(2, 4, 4)]
    assert [dilation for _, _, dilation in found] == expected
    assert [stride for _, stride, _ in found] == [1, 1, 1, 2, 1, 1, 1] + [1] * 9
    with torch.device("meta"):
        sides = [one.shape[-1] for one in encoder(torch.zeros(1, 3, 512, 512))]
    assert sides == [512, 256, 128, 64, 64, 64]


@pytest.mark.parametrize("architecture", sorted(HEADS))
@pytest.mark.parametrize("encoder", ["resnet18", "tu-test_resnet", "mobilenet_v2"])
def test_any_encoder_that_can_be_dilated_serves(architecture: str, encoder: str) -> None:
    network = build(ModelSpec(architecture, encoder, 3, {"channels": 8}))
    assert network.stride == 8
    assert network.encoder is not None
    assert network.encoder(torch.zeros(1, 3, 64, 64))[-1].shape[-2:] == (8, 8)


@pytest.mark.parametrize(
    ("architecture", "encoder", "stride"),
    [
        *(("unet", "resnet18", stride) for stride in (8, 16, 32)),
        *(("pspnet", "tu-test_resnet", stride) for stride in (8, 16, 32)),
        ("upernet", "tu-test_resnet", 8),
        ("segformer", "tu-test_resnet", 8),
        ("fcn32s", "resnet18", 8),
        ("fcn8s", "tu-test_resnet", 16),
        ("deeplabv3", "tu-test_resnet", 16),
        ("deeplabv3plus", "tu-test_resnet", 8),
        ("pan", "tu-test_resnet", 32),
        ("dilated_fcn", "tu-test_resnet", 16),
    ],
)
def test_an_output_stride_holds(architecture: str, encoder: str, stride: int) -> None:
    options = {"psp_out_channels": 8} if architecture == "pspnet" else {}
    network = build(ModelSpec(architecture, encoder, 3, options, output_stride=stride)).eval()
    assert network.encoder is not None
    features = network.encoder(torch.zeros(1, 3, 64, 64))
    assert features[-1].shape[-1] == 64 // stride
    assert len(features) == 6  # PSPNet's own encoder ends at depth 3
    assert network(torch.zeros(1, 3, 40, 70)).shape == (1, 3, 40, 70)


@pytest.mark.parametrize(
    ("architecture", "encoder", "stride", "message"),
    [
        ("unetplusplus", "resnet18", 8, r"unetplusplus cannot have output stride 8, only 32"),
        ("pan", "resnet18", 8, r"pan cannot have output stride 8, only 16 or 32"),
        ("deeplabv3", "resnet18", 32, r"deeplabv3 cannot have output stride 32, only 8 or 16"),
        ("plain_cnn", "", 16, r"plain_cnn cannot have output stride 16, only 8"),
        ("dpt", "tu-test_vit", 8, r"dpt cannot have output stride 8: a transformer's"),
        ("unet", "densenet121", 8, r"encoder densenet121 and output stride 8: ValueError: Dense"),
        ("unet", "tu-dla46_c", 8, r"encoder tu-dla46_c and output stride 8: AssertionError"),
        ("dilated_fcn", "tu-test_vit", None, r"dilated_fcn does not work with encoder tu-test_vit"),
    ],
)
def test_what_cannot_be_dilated_is_refused_by_name(
    architecture: str, encoder: str, stride: int | None, message: str
) -> None:
    with pytest.raises(SegopsError, match=message):
        build(ModelSpec(architecture, encoder, 3, output_stride=stride))


def test_the_same_thing_said_twice_is_refused() -> None:
    spec = ModelSpec("deeplabv3", "resnet18", 3, {"encoder_output_stride": 16}, output_stride=8)
    with pytest.raises(SegopsError, match=r"output_stride and model\.options\.encoder_output_str"):
        build(spec)
    with pytest.raises(SegopsError, match=r"dropout and model\.options\.psp_dropout"):
        build(ModelSpec("pspnet", "resnet18", 3, {"psp_dropout": 0.1}, dropout=0.2))


def drops(network: nn.Module) -> list[nn.Module]:
    """All dropout in a network's decoder and head."""
    return [
        module
        for name, module in network.named_modules()
        if not name.startswith("network.encoder")
        and (
            isinstance(module, nn.Dropout | nn.Dropout2d)
            or (isinstance(module, nn.Conv2d) and module._forward_pre_hooks)
        )
    ]


@pytest.mark.parametrize("architecture", sorted(ARCHITECTURES.keys() - {MASKS}))
def test_dropout_before_the_classifier(architecture: str) -> None:
    torch.manual_seed(0)
    plain = build(small(architecture)).eval()
    torch.manual_seed(0)
    network = build(small(architecture, dropout=0.75)).eval()
    assert set(network.state_dict()) == set(plain.state_dict())
    wake(network)
    plain.load_state_dict(network.state_dict())
    (dropout,) = drops(network)
    images = random_images(2, 64, 64)
    with torch.no_grad():
        logits = network(images)
        assert torch.equal(plain(images), logits)
        dropout.train()
        dropped = network(images)
        assert not torch.equal(dropped, logits)
        assert not torch.equal(network(images), dropped)
        if isinstance(dropout, nn.Dropout | nn.Dropout2d):
            assert dropout.p == 0.75
        else:
            (hook,) = dropout._forward_pre_hooks.values()
            assert hook.args == (0.75,)  # type: ignore[attr-defined]
