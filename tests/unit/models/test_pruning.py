"""What is removed from a network, and that what is left computes the same."""

from __future__ import annotations

import sys
from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import nn

from segops.models.pruning import prune
from segops.params.compatibility import NOT_PRUNED
from segops.runtime.errors import SegopsError
from segops.runtime.networks.options import WITHOUT_ENCODER
from segops.runtime.networks.segmenter import Segmenter
from segops.runtime.networks.zoo import ARCHITECTURES, ModelSpec, build
from tests.support.networks import CLASSES, random_images, small, wake

pytestmark = pytest.mark.usefixtures("one_thread")

QUICK = ("fcn8s", "fpn", "plain_cnn", "pspnet", "unet")


def trained(spec: ModelSpec) -> Segmenter:
    """A network with statistics and weights as after a training, each channel with its own."""
    torch.manual_seed(3)
    network = build(spec)
    wake(network)
    for module in network.modules():
        if isinstance(module, nn.BatchNorm2d):
            nn.init.uniform_(module.running_mean, -0.1, 0.1)  # type: ignore[arg-type]
            order = torch.randperm(module.num_features)
            module.running_var = 0.5 + order / module.num_features
            nn.init.normal_(module.weight, 0, 0.5)
            nn.init.normal_(module.bias, 0, 0.2)
    return network.eval()


def pruned(spec: ModelSpec, network: Segmenter, share: float = 0.3) -> tuple[ModelSpec, Segmenter]:
    shapes, weights = prune(spec, network.state_dict(), share)
    made = replace(spec, pruned_shapes=shapes)
    smaller = build(made)
    smaller.load_state_dict(weights)
    return made, smaller.eval()


def count(network: nn.Module) -> int:
    return sum(one.numel() for one in network.parameters())


@pytest.mark.parametrize(
    "architecture",
    [
        pytest.param(one, marks=[] if one in QUICK else pytest.mark.slow)
        for one in sorted(ARCHITECTURES.keys() - NOT_PRUNED.keys())
    ],
)
def test_every_architecture_of_the_table_is_pruned(architecture: str) -> None:
    spec = small(architecture)
    network = trained(spec)
    made, smaller = pruned(spec, network)
    assert count(smaller) < 0.8 * count(network)
    for height, width in ((64, 64), (75, 101)):
        logits = smaller(random_images(2, height, width))
        assert logits.shape == (2, CLASSES, height, width)
        assert logits.std() > 0
    if architecture not in WITHOUT_ENCODER:
        images = random_images(2, 64, 64)
        both = build(made, auxiliary=True)(images, with_auxiliary=True)
        assert [one.shape for one in both] == [(2, CLASSES, 64, 64)] * 2


@pytest.mark.parametrize(
    "spec",
    [
        small("plain_cnn"),
        small("unet"),
        small("deeplabv3"),
        pytest.param(small("dilated_pspnet"), marks=pytest.mark.slow),
        pytest.param(replace(small("linknet"), encoder="mobilenet_v2"), marks=pytest.mark.slow),
        pytest.param(replace(small("unet"), encoder="resnext50_32x4d"), marks=pytest.mark.slow),
    ],
    ids=lambda spec: f"{spec.architecture} {spec.encoder}",
)
def test_what_is_left_computes_what_the_whole_computes_without_the_removed(
    spec: ModelSpec,
) -> None:
    """The removed channels of the whole network are made zero, by the batch norm behind them.

    Every channel has a variance of its own, by which it is found again in the small network.
    """
    network = trained(spec)
    _, smaller = pruned(spec, network)
    left = dict(smaller.named_modules())
    removed = 0
    with torch.no_grad():
        for name, module in network.named_modules():
            if isinstance(module, nn.BatchNorm2d):
                kept = torch.isin(module.running_var, left[name].running_var)  # type: ignore
                assert kept.sum() == left[name].num_features
                module.weight[~kept] = 0
                module.bias[~kept] = 0
                removed += int((~kept).sum())
        images = random_images(1, 96, 64)
        assert removed > 20
        torch.testing.assert_close(smaller(images), network(images), atol=1e-4, rtol=1e-4)


def test_the_weakest_filters_go_and_the_class_scores_stay() -> None:
    spec = small("plain_cnn")
    network = trained(spec)
    convolutions = [name for name, one in network.named_modules() if isinstance(one, nn.Conv2d)]
    first = network.get_submodule(convolutions[0])
    assert isinstance(first, nn.Conv2d)
    with torch.no_grad():
        for module in network.modules():  # so that the first convolution alone decides
            if isinstance(module, nn.BatchNorm2d):
                nn.init.ones_(module.weight)
            if isinstance(module, nn.Conv2d):
                nn.init.ones_(module.weight)
        first.weight[[1, 4]] *= 0.01
    shapes, weights = prune(spec, network.state_dict(), 0.25)
    kept = [number for number in range(8) if number not in (1, 4)]
    assert torch.equal(weights[f"{convolutions[0]}.weight"], first.weight[kept])
    scores = convolutions[-1].removeprefix("network.")
    assert shapes[f"{scores}.weight"][0] is None
    assert f"{scores}.bias" not in shapes


def test_the_same_weights_lose_the_same_channels() -> None:
    spec = small("unet")
    given = trained(spec).state_dict()
    before = torch.random.get_rng_state()
    (shapes, first), (again, second) = (prune(spec, given, 0.3) for _ in range(2))
    assert torch.equal(torch.random.get_rng_state(), before)
    assert shapes == again
    assert first.keys() == given.keys()
    assert all(torch.equal(first[name], second[name]) for name in first)
    assert all(first[name].dtype == given[name].dtype for name in given)


def test_a_pruned_network_is_pruned_again() -> None:
    spec = small("unet")
    network = trained(spec)
    made, smaller = pruned(spec, network)
    _, smallest = pruned(made, smaller)
    assert count(smallest) < 0.8 * count(smaller)


def test_a_pruned_network_starts_with_other_classes() -> None:
    made, smaller = pruned(small("unet"), trained(small("unet")))
    other = build(replace(made, classes=3))
    assert count(other) < count(smaller)
    assert other.eval()(random_images(1, 64, 64)).shape == (1, 3, 64, 64)


@pytest.mark.parametrize("changed", [{"classes": 4}, {"encoder": "resnet18"}])
def test_weights_of_another_network_are_refused(changed: dict[str, Any]) -> None:
    given = trained(small("unet")).state_dict()
    with pytest.raises(SegopsError, match=r"train\.pruning: .*is another network.*: "):
        prune(replace(small("unet"), **changed), given, 0.3)


@pytest.mark.slow
def test_an_encoder_that_cannot_be_pruned_is_named() -> None:
    spec = ModelSpec("fpn", "mit_b0", CLASSES)
    with pytest.raises(SegopsError, match="fpn with encoder mit_b0 cannot be pruned: IndexError"):
        prune(spec, build(spec).state_dict(), 0.3)


def test_without_the_library_one_sentence_names_the_extra(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "torch_pruning", None)
    spec = small("plain_cnn")
    with pytest.raises(SegopsError, match=r"not installed\. `pip install 'segops\[pruning\]'`"):
        prune(spec, trained(spec).state_dict(), 0.3)
