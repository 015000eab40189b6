"""The zoo: every architecture, any image size, names and pairs that do not work."""

from __future__ import annotations

import json
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from dataclasses import asdict

import pytest
import timm
import torch
from torch import Tensor, nn

from segops.errors import SegopsError
from segops.models import encoder_weights as downloads
from segops.models.fcn import FCN
from segops.models.segmenter import Segmenter
from segops.models.zoo import ARCHITECTURES, ModelSpec, build, encoder_names, normalisation

CLASSES = 5
UNIT = ((0.0, 0.0, 0.0), (1 / 255,) * 3)
"""A normalisation that changes nothing."""


@pytest.fixture(autouse=True)
def one_thread() -> Iterator[None]:
    """Tiny networks on a busy machine: threads that wait for one another cost far more."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


def encoder_for(architecture: str) -> str:
    return "tu-vit_tiny_patch16_224" if architecture == "dpt" else "resnet18"


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
    }


@pytest.mark.parametrize("architecture", sorted(ARCHITECTURES))
def test_any_size_gives_logits_of_that_size(architecture: str) -> None:
    torch.manual_seed(0)
    network = build(ModelSpec(architecture, encoder_for(architecture), CLASSES))
    network.eval()
    with torch.no_grad():
        for height, width in [(1, 1), (37, 53), (64, 70)]:
            images = torch.randint(0, 256, (1, 3, height, width), dtype=torch.uint8)
            logits = network(images)
            assert logits.shape == (1, CLASSES, height, width)
            assert logits.dtype == torch.float32
        assert torch.equal(logits, network(images.float()))


@pytest.mark.parametrize("architecture", sorted(ARCHITECTURES))
def test_a_batch_of_one_trains(architecture: str) -> None:
    """The last batch of an epoch may hold one image, which pooled batch norm refuses."""
    torch.manual_seed(0)
    network = build(ModelSpec(architecture, encoder_for(architecture), CLASSES))
    before = {name: buffer.clone() for name, buffer in network.named_buffers()}
    logits = network(torch.randint(0, 256, (1, 3, 40, 32), dtype=torch.uint8))
    logits.square().mean().backward()
    assert all(module.training for module in network.modules())
    gradients = [p.grad for p in network.parameters() if p.grad is not None]
    assert gradients
    assert all(torch.isfinite(gradient).all() for gradient in gradients)
    assert all(torch.isfinite(buffer).all() for buffer in network.buffers())
    if architecture != "dpt":  # the layers that see more than one value do learn their statistics
        assert any(
            not torch.equal(buffer, before[name])
            for name, buffer in network.named_buffers()
            if name.endswith("running_mean")
        )


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


def test_weights_are_a_function_of_the_seed_and_the_state_dict_rebuilds_the_network() -> None:
    spec = ModelSpec("unet", "resnet18", CLASSES, {"decoder_channels": [32, 16, 16, 8, 8]})
    torch.manual_seed(7)
    first = build(spec)
    torch.manual_seed(7)
    second = build(spec)
    third = build(ModelSpec(**json.loads(json.dumps(asdict(spec)))))
    images = torch.randint(0, 256, (1, 3, 40, 50), dtype=torch.uint8)
    outputs = [network.eval()(images) for network in (first, second)]
    assert torch.equal(*outputs)
    assert not torch.equal(outputs[0], third.eval()(images))
    third.load_state_dict(first.state_dict(), strict=True)
    assert torch.equal(outputs[0], third.eval()(images))
    assert not any(name in {"mean", "std"} for name in first.state_dict())


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
        build(ModelSpec("unet", encoder, 5), "imagenet")
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
        build(ModelSpec("fpn", f"tu-{bare}", 5), "imagenet")


def test_normalisation_follows_the_pretrained_weights() -> None:
    assert normalisation("resnet18", None)[0] == (0.485, 0.456, 0.406)
    assert normalisation("tu-vit_tiny_patch16_224", None)[0] == (0.485, 0.456, 0.406)
    assert normalisation("tu-vit_tiny_patch16_224", "some.safetensors")[0] == (0.5, 0.5, 0.5)


def test_models_import_nothing_that_does_not_travel() -> None:
    code = (
        "import sys, segops.models.zoo, segops.models.losses;"
        "print([n for n in sys.modules if n.startswith('segops.')])"
    )
    found = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    loaded = set(json.loads(found.stdout.replace("'", '"')))
    assert all(
        name.startswith("segops.models")
        or name in {"segops.errors", "segops.voc", "segops.voc.classes"}
        for name in loaded
    )
