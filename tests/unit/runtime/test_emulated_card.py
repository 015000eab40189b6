"""What runs on a graphics card keeps to it and finds what the CPU finds, on an emulated one."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from torch import nn

from segops.data.datasets import TrainDataset
from segops.data.device.augmentation import BatchAugmentation
from segops.data.store import PackedStore, pack
from segops.metrics.confusion import confusion_matrix
from segops.metrics.device_confusion import DeviceConfusion
from segops.runtime.classes import VOC_CLASSES, VOID
from segops.runtime.crf import refine
from segops.runtime.inference import Inference
from segops.runtime.networks.zoo import ModelSpec, build
from segops.runtime.predict_settings import CrfSettings, PredictSettings
from segops.runtime.torch_predictor import TorchPredictor
from segops.voc.layout import open_layout
from tests.support.emulated_card import CARD, Card, on_emulated_card
from tests.unit.data.test_device_augment import STRONG_GEOMETRY, policy_of
from tests.unit.models.test_losses import CASES, batch, loss_of
from tests.unit.runtime.test_crf import USUAL, areas, colour_edges, noisy

pytestmark = pytest.mark.skipif(torch.cuda.is_available(), reason="there is a real one")
NAMES = ("background", "cat", "dog")
WAYS = {
    "plain": None,
    "mirrored, at two scales": PredictSettings(flip=True, scales=(0.75, 1.0)),
    "windows": PredictSettings(mode="window", window=(64, 64)),
    "CRF": PredictSettings(crf=CrfSettings(iterations=3)),
}


def test_the_card_keeps_its_tensors_apart_from_those_of_the_cpu() -> None:
    here = torch.arange(6.0).view(2, 3)

    def act(card: Card) -> None:
        there = here.to(CARD)
        assert card.waits == []
        assert (there.is_cuda, there.device) == (True, CARD)
        assert torch.equal((there + torch.ones(3, device=CARD)).cpu(), here + 1)
        there[0] = 7.0
        assert there.sum().item() == 7 * 3 + 3 + 4 + 5
        assert card.waits == ["_to_copy", "_local_scalar_dense"]
        assert here[0, 0] == 0
        for mixed in (
            lambda: there + here,
            lambda: here[there.long()],
            lambda: there.index_put_((torch.tensor([0]),), here[:1]),
        ):
            with pytest.raises(RuntimeError, match=r"expected all tensors on the same device"):
                mixed()

    on_emulated_card(act)


@pytest.mark.parametrize(
    "ask",
    [
        lambda there: there[there > 1],
        lambda there: there.index_put_((there > 1,), there.sum()),
        lambda there: there.nonzero(),
        lambda there: there.long().flatten().bincount(),
        lambda there: there.unique(),
        lambda there: there.unique_consecutive(),
        lambda there: torch.allclose(there, there + 1),
        lambda there: torch.equal(there, there + 1),
        lambda there: there.tolist(),
        lambda there: bool(there.any()),
        lambda there: there.cpu(),
    ],
)
def test_the_card_notes_what_the_cpu_waits_for(ask: Callable[[torch.Tensor], Any]) -> None:
    def act(card: Card) -> None:
        there = torch.arange(6.0).view(2, 3).to(CARD)
        there = there[:, torch.tensor([0, 2], device=CARD)] * 2 + there[:, :1].sum()
        assert card.waits == []
        ask(there)
        assert len(card.waits) == 1

    on_emulated_card(act)


def test_what_fails_on_the_card_fails_the_test() -> None:
    with pytest.raises(pytest.fail.Exception, match="assert 1 == 2"):
        on_emulated_card(lambda card: pytest.fail("assert 1 == 2"))


def test_counts_leave_the_card_when_they_are_fetched() -> None:
    random = np.random.default_rng(0)
    truth, found = random.integers(0, 21, (2, 3, 40, 50), dtype=np.uint8)
    truth[:, :5] = VOID
    expected = [confusion_matrix(*pair, 21) for pair in zip(truth, found, strict=True)]

    def act(card: Card) -> None:
        counter = DeviceConfusion(21)
        counter.add(torch.from_numpy(truth).to(CARD), torch.from_numpy(found).to(CARD))
        assert card.waits == []
        np.testing.assert_array_equal(counter.fetch(), np.stack(expected))
        assert card.waits == ["_to_copy"]

    on_emulated_card(act)


def test_the_dense_crf() -> None:
    image, probabilities = colour_edges(), noisy(areas(), 3)
    expected = refine(probabilities, image, USUAL)
    assert not torch.allclose(expected, probabilities, atol=0.1)

    def act(_: Card) -> None:
        found = refine(probabilities.to(CARD), image.to(CARD), USUAL)
        assert found.is_cuda
        assert torch.allclose(found.cpu(), expected, atol=1e-6)

    on_emulated_card(act)


@pytest.fixture(scope="module")
def packed(generated_voc: Path, tmp_path_factory: pytest.TempPathFactory) -> PackedStore:
    target = tmp_path_factory.mktemp("card") / "packed"
    pack(open_layout(generated_voc), target, VOC_CLASSES)
    return PackedStore(target)


def lively(image: NDArray[np.uint8]) -> nn.Module:
    """A network without training that predicts several classes on an image."""
    torch.manual_seed(0)
    network = build(ModelSpec("pspnet", "resnet18", len(NAMES))).eval()
    with torch.no_grad():
        logits = network(torch.from_numpy(image).permute(2, 0, 1)[None])
        (score,) = (one for one in network.modules() if getattr(one, "out_channels", 0) == 3)
        score.bias -= logits.mean((0, 2, 3))
    return network


@pytest.mark.parametrize("way", WAYS)
def test_a_prediction(way: str) -> None:
    image = np.random.default_rng(0).integers(0, 255, (90, 120, 3), dtype=np.uint8)
    network = lively(image)
    settings = WAYS[way]
    inference = None if settings is None else Inference(settings)
    here = TorchPredictor(network, NAMES, "cpu", inference)
    expected, probabilities = here.predict(image), here.predict_probabilities(image)
    assert len(np.unique(expected.mask)) > 1

    def act(_: Card) -> None:
        there = TorchPredictor(network.to(CARD), NAMES, CARD, inference)
        assert next(network.parameters()).is_cuda
        assert there.predict_ids(image).is_cuda
        assert all(one.is_cuda for one in there.predict_tensors(image))
        found = there.predict(image)
        np.testing.assert_array_equal(found.mask, expected.mask)
        assert found.confidence == pytest.approx(expected.confidence, abs=1e-6)
        np.testing.assert_allclose(there.predict_probabilities(image), probabilities, atol=1e-5)

    on_emulated_card(act)


@pytest.mark.parametrize(("name", "options"), CASES)
def test_a_loss(name: str, options: dict[str, Any]) -> None:
    logits, target = batch(5, 6, 0.2, (2, 32, 32))
    loss = loss_of(name, options)
    expected = float(loss(logits, target))

    def act(card: Card) -> None:
        with torch.no_grad():
            there = loss.to(CARD)(logits.to(CARD), target.to(CARD))
        assert there.is_cuda
        assert card.waits == []
        assert float(there) == pytest.approx(expected, rel=1e-5)

    on_emulated_card(act)


@pytest.mark.parametrize(
    "colors",
    [{"color_jitter": {"p": 1}, "blur": {"p": 1}}, {"photometric": {"p": 1}}],
    ids=["jitter and blur", "photometric distortion"],
)
def test_augmentation(colors: dict[str, Any], packed: PackedStore) -> None:
    """But for noise, whose numbers the card's own generator draws."""
    policy = policy_of((40, 48), **STRONG_GEOMETRY, **colors)
    dataset = TrainDataset(packed, packed.ids("train"), policy, 5)
    augment = BatchAugmentation(dataset)
    drawn = augment.pack([augment[epoch, epoch] for epoch in range(8)])
    images, masks = augment(drawn, torch.device("cpu"))

    def act(card: Card) -> None:
        there = augment(drawn, CARD)
        assert card.waits == []
        assert all(one.is_cuda for one in there)
        assert torch.equal(there[0].cpu(), images)
        assert torch.equal(there[1].cpu(), masks)

    on_emulated_card(act)
