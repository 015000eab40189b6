"""PIDNet: the size and the cost that its publication names, and what its parts do."""

from __future__ import annotations

import pytest
import torch
from torch.utils.flop_counter import FlopCounterMode

from segops.report import model_facts
from segops.runtime.networks import options
from segops.runtime.networks.pidnet import Fusion, Guidance, PIDNet, PyramidPooling
from segops.runtime.networks.zoo import ModelSpec, build

pytestmark = pytest.mark.usefixtures("one_thread")


def test_parameters_and_operations_are_the_published_ones() -> None:
    """PIDNet-S: 7.6 million parameters, 47.6 GFLOPs at 2048 x 1024 (multiply-adds; table 5).

    Resizing and activations, which are counted there, are not counted here.
    """
    with torch.device("meta"):
        network = PIDNet(19).eval()
        with FlopCounterMode(display=False) as counter:
            network(torch.zeros(1, 3, 1024, 2048))
    assert round(sum(one.numel() for one in network.parameters()) / 1e6, 1) == 7.6
    assert 47 < counter.get_total_flops() / 2e9 < 47.6


def test_every_parameter_learns() -> None:
    network = PIDNet(3, width=8, pyramid=8, channels=16)
    network(torch.randn(2, 3, 64, 96)).square().mean().backward()
    assert [name for name, one in network.named_parameters() if one.grad is None] == []


def test_details_take_up_context_where_they_agree() -> None:
    guidance = Guidance(4, 2).eval()
    detail, context = torch.randn(1, 4, 6, 6), torch.randn(1, 4, 3, 3)
    for part in (guidance.of_detail, guidance.of_context):
        part[0].weight.data.zero_()
        part[1].bias.data.fill_(100.0)  # they agree everywhere
    found = guidance(detail, context)
    expected = torch.nn.functional.interpolate(context, size=(6, 6), mode="bilinear")
    torch.testing.assert_close(found, expected)
    guidance.of_context[1].bias.data.fill_(-100.0)
    torch.testing.assert_close(guidance(detail, context), detail)


def test_boundaries_choose_between_details_and_context() -> None:
    fusion = Fusion(2).eval()
    for part in (fusion.of_detail, fusion.of_context):
        part[0].weight.data.copy_(torch.eye(2)[..., None, None])
    detail, context = torch.full((1, 2, 1, 1), 3.0), torch.full((1, 2, 1, 1), 5.0)
    at_boundary = torch.full((1, 2, 1, 1), 100.0)
    scale = (1 + 1e-5) ** -0.5  # of the batch norms
    for boundary, expected in ((at_boundary, 3 + (5 + 3)), (-at_boundary, (5 + 3) + 5)):
        found = fusion(detail, context, boundary)
        torch.testing.assert_close(found, torch.full_like(found, expected * scale))


def test_the_pyramid_takes_features_of_any_size() -> None:
    pyramid = PyramidPooling(8, 4, 6).eval()
    for size in ((1, 1), (2, 3), (16, 32)):
        assert pyramid(torch.randn(2, 8, *size)).shape == (2, 6, *size)


def test_it_has_no_encoder() -> None:
    segmenter = build(ModelSpec("pidnet", "", 5, {"width": 8}, output_stride=8, dropout=0.5))
    assert segmenter.encoder is None
    assert options.WITHOUT_ENCODER == model_facts.WITHOUT_ENCODER
