"""The zoo: every architecture, any image size, names and pairs that do not work."""

from __future__ import annotations

import socket
import threading
import time

import pytest
import timm
import torch
from torch import Tensor, nn

from segops.models import pretrained as downloads
from segops.models.pretrained import build_pretrained, normalisation
from segops.runtime.errors import SegopsError
from segops.runtime.networks.fcn import FCN
from segops.runtime.networks.segmenter import Segmenter
from segops.runtime.networks.zoo import (
    ARCHITECTURES,
    ModelSpec,
    build,
    encoder_names,
)
from tests.support.networks import CLASSES, random_images, small

pytestmark = pytest.mark.usefixtures("one_thread")

UNIT = ((0.0, 0.0, 0.0), (1 / 255,) * 3)
"""A normalisation that changes nothing."""


class Recorder(nn.Module):
    """Stands for a network: keeps what it is given and returns its first channel."""

    def __init__(self) -> None:
        super().__init__()
        self.seen = torch.empty(0)

    def forward(self, images: Tensor) -> Tensor:
        self.seen = images
        return images[:, :1]


def test_all_names_are_there() -> None:
    assert set(ARCHITECTURES) >= {
        *("unet", "unetplusplus", "manet", "linknet", "fpn", "pspnet", "pan", "deeplabv3"),
        *("deeplabv3plus", "upernet", "segformer", "dpt", "fcn8s", "fcn16s", "fcn32s", "plain_cnn"),
        *("dilated_fcn", "dilated_pspnet", "dilated_deeplabv3", "dilated_deeplabv3plus"),
    }


def test_batch_norm_on_one_value_uses_and_keeps_its_running_statistics() -> None:
    norm = nn.BatchNorm2d(4)
    norm.running_mean = torch.arange(4.0)
    norm.running_var = torch.full((4,), 4.0)
    wrapped = Segmenter(nn.Sequential(nn.AdaptiveAvgPool2d(1), nn.Conv2d(3, 4, 1), norm), *UNIT, 1)
    wrapped.train()
    wrapped(torch.zeros(1, 3, 8, 8))
    assert torch.equal(norm.running_mean, torch.arange(4.0))
    assert torch.equal(norm.running_var, torch.full((4,), 4.0))
    assert norm.training
    wrapped(torch.rand(2, 3, 8, 8) * 255)
    assert not torch.equal(norm.running_mean, torch.arange(4.0))


def test_padding_is_below_and_right_with_the_mean_colour() -> None:
    recorder = Recorder()
    wrapped = Segmenter(recorder, (0.4, 0.5, 0.6), (0.1, 0.2, 0.3), stride=8)
    images = torch.full((1, 3, 5, 11), 255, dtype=torch.uint8)
    logits = wrapped(images)
    assert recorder.seen.shape == (1, 3, 8, 16)
    inside = recorder.seen[..., :5, :11]
    expected = torch.tensor([0.6 / 0.1, 0.5 / 0.2, 0.4 / 0.3])
    assert torch.allclose(inside[0, :, 0, 0], expected)
    assert torch.equal(inside, inside[..., :1, :1].expand_as(inside))
    assert not recorder.seen[..., 5:, :].any()
    assert not recorder.seen[..., 11:].any()
    assert torch.equal(logits, inside[:, :1])


def test_a_shortest_side_is_kept() -> None:
    recorder = Recorder()
    Segmenter(recorder, *UNIT, stride=32, min_side=128)(torch.zeros(1, 3, 10, 200))
    assert recorder.seen.shape == (1, 3, 128, 224)


def test_wrong_shape_is_named() -> None:
    with pytest.raises(ValueError, match=r"\(N, 3, H, W\), found \(1, 4, 8, 8\)"):
        Segmenter(Recorder(), *UNIT, 1)(torch.zeros(1, 4, 8, 8))


def test_the_auxiliary_head_is_apart_and_goes() -> None:
    network = build(small("upernet"), auxiliary=True)
    names = {name.partition(".")[0] for name, _ in network.named_parameters()}
    assert names == {"network", "auxiliary"}
    images = random_images(2, 40, 32)
    logits, auxiliary = network(images, with_auxiliary=True)
    assert logits.shape == auxiliary.shape == (2, CLASSES, 40, 32)
    auxiliary.mean().backward()  # reaches the encoder up to the next-to-last stage, and no decoder
    taught = {name for name, p in network.named_parameters() if p.grad is not None and p.grad.any()}
    assert any("encoder.model.layer3" in name for name in taught)
    assert not any("decoder" in name or "layer4" in name for name in taught)
    network.auxiliary = None
    assert all(name.startswith("network.") for name in network.state_dict())
    with pytest.raises(ValueError, match="no auxiliary head"):
        network(images, with_auxiliary=True)
    with pytest.raises(SegopsError, match=r"auxiliary_weight: plain_cnn has no encoder"):
        build(small("plain_cnn"), auxiliary=True)


def test_the_encoder_and_its_parameters() -> None:
    network = build(small("unet"), auxiliary=True)
    own = {id(p) for name, p in network.named_parameters() if name.startswith("network.encoder.")}
    assert {id(p) for p in network.encoder_parameters()} == own
    assert network.encoder is network.get_submodule("network.encoder")
    plain = build(small("plain_cnn"))
    assert plain.encoder is None
    assert list(plain.encoder_parameters()) == []


def test_swin_takes_any_size() -> None:
    """Timm's windowed transformers take one size only, unless they are told."""
    network = build(ModelSpec("fpn", "tu-swin_tiny_patch4_window7_224", 3, {}))
    assert network.eval()(torch.zeros(1, 3, 40, 70)).shape == (1, 3, 40, 70)


@pytest.mark.parametrize(("name", "levels"), [("fcn32s", 1), ("fcn16s", 2), ("fcn8s", 3)])
def test_fcn_scores_start_at_zero_and_use_the_finer_levels(name: str, levels: int) -> None:
    network = build(ModelSpec(name, "resnet18", CLASSES)).eval()
    fcn = network.network
    assert isinstance(fcn, FCN)
    assert len(fcn.scores) == levels
    images = torch.randint(0, 256, (1, 3, 64, 64), dtype=torch.uint8)
    assert not network(images).any()
    finest = fcn.scores[-1]
    assert isinstance(finest, nn.Conv2d)
    nn.init.normal_(finest.weight)
    logits = network(images)[0, 0]
    # Between two neighbouring centres of the finest cells, bilinear logits are linear.
    stride = 32 // 2 ** (levels - 1)
    inside = logits[stride // 2 : stride // 2 + stride, stride // 2]
    assert logits.std() > 0
    assert inside.diff().diff().abs().max() < 1e-4 * logits.abs().max()


@pytest.mark.parametrize(
    ("spec", "message"),
    [
        (ModelSpec("u-net", "resnet18", 5), r"no architecture 'u-net'\. Did you mean unet.*fcn8s"),
        (ModelSpec("unet", "resnet19", 5), r"no encoder 'resnet19'\. Did you mean resnet1.*vgg16"),
        (ModelSpec("unet", "tu-resnet19", 5), r"no encoder 'tu-resnet19'\. Did you mean tu-resnet"),
        (ModelSpec("unet", "resnet18", 5, {"classes": 3}), r"has no option classes"),
        (
            ModelSpec("unet", "resnet18", 5, {"decoder_chanels": [8]}),
            r"has no option decoder_chanels; expected .*Did you mean decoder_channels",
        ),
        (
            ModelSpec("unetplusplus", "mit_b0", 5),
            r"architecture unetplusplus does not work with encoder mit_b0: ValueError",
        ),
        (ModelSpec("pan", "vgg11", 5), r"architecture pan does not work with encoder vgg11"),
        (ModelSpec("dpt", "resnet18", 5), r"dpt does not work with encoder resnet18.*tu-"),
        (
            ModelSpec("pspnet", "resnet18", 5, {"upsampling": 4}),
            r"\(64, 64\) gives logits \(1, 5, 32, 32\): check `upsampling`",
        ),
    ],
)
def test_what_does_not_work_is_told(spec: ModelSpec, message: str) -> None:
    with pytest.raises(SegopsError, match=message):
        build(spec)


def test_every_encoder_name_is_accepted_as_a_name() -> None:
    assert {"resnet18", "mobilenet_v2", "mit_b0", "efficientnet-b0"} <= set(encoder_names())
    build(ModelSpec("fpn", "timm-mobilenetv3_small_100", 3))  # an old name that SMP still maps


@pytest.mark.parametrize("encoder", ["resnet18", "tu-convnext_atto"])
def test_imagenet_without_network_fails_at_once_and_says_what_to_do(encoder: str) -> None:
    start = time.monotonic()
    with pytest.raises(SegopsError, match=r"HF_HUB_OFFLINE.*safetensors.*null"):
        build_pretrained(ModelSpec("unet", encoder, 5), "imagenet")
    assert time.monotonic() - start < 2


def test_imagenet_from_a_server_that_never_answers_fails_within_seconds(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    with socket.create_server(("127.0.0.1", 0)) as silent:
        monkeypatch.setattr(downloads.constants, "HF_HUB_OFFLINE", False)
        monkeypatch.setattr(
            downloads.constants, "ENDPOINT", f"http://127.0.0.1:{silent.getsockname()[1]}"
        )
        start = time.monotonic()
        with pytest.raises(SegopsError, match=r"model\.encoder_weights: imagenet weights.*null"):
            downloads.check_download("resnet18")
        assert time.monotonic() - start < 3


def test_a_server_that_answers_is_not_taken_for_none(monkeypatch: pytest.MonkeyPatch) -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:

        def answer() -> None:
            connection, _ = server.accept()
            connection.recv(4096)
            connection.sendall(b"HTTP/1.1 404 Not Found\r\nContent-Length: 0\r\n\r\n")
            connection.close()

        thread = threading.Thread(target=answer)
        thread.start()
        monkeypatch.setattr(downloads.constants, "HF_HUB_OFFLINE", False)
        monkeypatch.setattr(
            downloads.constants, "ENDPOINT", f"http://127.0.0.1:{server.getsockname()[1]}"
        )
        downloads.check_download("resnet18")
        thread.join()


def test_an_encoder_without_published_weights_is_told() -> None:
    bare = next(
        name for name in timm.list_models("resnet*") if not timm.models.is_model_pretrained(name)
    )
    with pytest.raises(SegopsError, match=rf"there are no imagenet weights for tu-{bare}"):
        build_pretrained(ModelSpec("fpn", f"tu-{bare}", 5), "imagenet")


def test_normalisation_follows_the_pretrained_weights() -> None:
    assert normalisation("resnet18", None)[0] == (0.485, 0.456, 0.406)
    assert normalisation("tu-vit_tiny_patch16_224", None)[0] == (0.485, 0.456, 0.406)
    assert normalisation("tu-vit_tiny_patch16_224", "some.safetensors")[0] == (0.5, 0.5, 0.5)
