"""The licences of published encoder weights."""

from __future__ import annotations

import pytest
import segmentation_models_pytorch as smp
import timm

from segops.models.licences import SMP, UNKNOWN, published

SAME_WEIGHTS = {
    "resnet18/imagenet": "resnet18.tv_in1k",
    "resnext101_32x8d/imagenet": "resnext101_32x8d.tv_in1k",
    "vgg19_bn/imagenet": "vgg19_bn.tv_in1k",
    "resnet50/ssl": "resnet50.fb_ssl_yfcc100m_ft_in1k",
    "resnet18/swsl": "resnet18.fb_swsl_ig1b_ft_in1k",
    "resnext101_32x8d/instagram": "resnext101_32x8d.fb_wsl_ig1b_ft_in1k",
    "dpn68/imagenet": "dpn68.mx_in1k",
    "se_resnet50/imagenet": "legacy_seresnet50.in1k",
    "inceptionv4/imagenet": "inception_v4.tf_in1k",
    "xception/imagenet": "legacy_xception.tf_in1k",
    "efficientnet-b0/advprop": "tf_efficientnet_b0.ap_in1k",
    "timm-efficientnet-b0/noisy-student": "tf_efficientnet_b0.ns_jft_in1k",
    "timm-skresnet18/imagenet": "skresnet18.ra_in1k",
    "mobileone_s0/imagenet": "mobileone_s0.apple_in1k",
}
"""Weights of SMP -> the same in timm, which states their licence."""


def test_every_published_weight_of_smp_has_a_licence() -> None:
    lacking = [
        f"{encoder}/{weights}"
        for encoder, settings in smp.encoders.encoders.items()
        for weights in settings.get("pretrained_settings", {})
        if published(encoder, weights) == UNKNOWN
    ]
    assert not lacking
    assert UNKNOWN not in SMP.values()


@pytest.mark.parametrize(("ours", "theirs"), SAME_WEIGHTS.items())
def test_the_table_says_what_timm_says_of_the_same_weights(ours: str, theirs: str) -> None:
    assert published(*ours.split("/")) == timm.models.get_pretrained_cfg(theirs).license


@pytest.mark.parametrize(
    ("encoder", "weights", "licence"),
    [
        ("tu-resnet50.a1_in1k", "imagenet", "apache-2.0"),
        ("tu-vit_small_patch16_dinov3", "imagenet", "dinov3-license"),
        ("tu-resnet50.fb_ssl_yfcc100m_ft_in1k", "imagenet", "cc-by-nc-4.0"),
        ("tu-resnet50", "other", UNKNOWN),
        ("resnet18", "weights/ssl", UNKNOWN),
        ("resnet18", "mine.safetensors", UNKNOWN),
        ("no_such_encoder", "imagenet", UNKNOWN),
    ],
)
def test_timm_states_its_own_and_what_is_not_published_is_unknown(
    encoder: str, weights: str, licence: str
) -> None:
    assert published(encoder, weights) == licence
