"""What the options of a step do to the weights, each against a computation by hand."""

from __future__ import annotations

import functools
from typing import Any

import pytest
import torch
from lightning_fabric import Fabric
from torch import Tensor, nn

from segops.runtime.errors import SegopsError
from segops.train import hardware
from segops.train.engine import Engine, without_auxiliary
from segops.train.hardware import build_fabric
from segops.train.loop import Job, train
from segops.train.ranks import synchronise_norms
from tests.support.training import Jobs, same
from tests.unit.models.test_losses import loss_named

PLAIN: dict[str, Any] = {
    "optimizer": "sgd",
    "momentum": 0,
    "weight_decay": 0,
    "precision": "fp32",
    "loss": "cross_entropy",
}
"""With these and a learning rate of 1, a step takes the gradient from the weights."""

NARROW = {"options": {"width": 4}}
"""Half precision is slow on a CPU."""

UNET = {"architecture": "unet", "options": {"decoder_channels": [16, 8, 8, 8, 8]}}


def batch(size: int = 4) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(1)
    images = torch.randint(0, 256, (size, 3, 64, 64), generator=generator, dtype=torch.uint8)
    masks = torch.randint(0, 21, (size, 64, 64), generator=generator, dtype=torch.uint8)
    masks[:, :10] = 255
    return images.contiguous(memory_format=torch.channels_last), masks


def engine_of(job: Job) -> Engine:
    built = Engine(job, build_fabric(job.params)[0])
    built.train_mode()
    return built


def weights(engine: Engine) -> dict[str, Tensor]:
    return {name: one.detach().clone() for name, one in engine.network.named_parameters()}


def change(job: Job, rate: float = 1.0, steps: int = 1) -> dict[str, Tensor]:
    """What a step adds to every parameter."""
    engine = engine_of(job)
    before = weights(engine)
    for number in range(steps):
        engine.step(*batch(), number, rate)
    return {name: one - before[name] for name, one in weights(engine).items()}


def gradient(engine: Engine, images: Tensor, masks: Tensor) -> dict[str, Tensor]:
    engine.network.zero_grad()
    loss_named("cross_entropy")(engine.network(images), masks).backward()
    return {name: one.grad.clone() for name, one in engine.network.named_parameters()}


def norm(tensors: dict[str, Tensor]) -> float:
    return float(torch.stack([one.square().sum() for one in tensors.values()]).sum().sqrt())


def test_the_gradient_is_clipped_by_its_norm(job: Jobs) -> None:
    free = change(job(**PLAIN))
    assert norm(free) > 0.2
    clipped = change(job(**PLAIN, gradient_clip=0.1))
    assert norm(clipped) == pytest.approx(0.1, rel=1e-3)
    assert norm(change(job(**PLAIN, gradient_clip=1e3))) == pytest.approx(norm(free), rel=1e-6)
    largest = max(free, key=lambda name: float(free[name].norm()))  # the direction stays
    torch.testing.assert_close(
        clipped[largest] / clipped[largest].norm(),
        free[largest] / free[largest].norm(),
        atol=1e-4,
        rtol=1e-3,
    )


def test_parts_of_a_batch_are_averaged(job: Jobs) -> None:
    engine = engine_of(job(**PLAIN, batch_size=4, accumulate=2))
    before = weights(engine)
    images, masks = batch()
    loss = engine.step(images, masks, 0, 1.0)
    reference = engine_of(job(**PLAIN))
    with torch.no_grad():
        expected_loss = torch.stack(
            [
                loss_named("cross_entropy")(reference.network(images[k : k + 2]), masks[k : k + 2])
                for k in (0, 2)
            ]
        ).mean()
    halves = [gradient(reference, images[k : k + 2], masks[k : k + 2]) for k in (0, 2)]
    torch.testing.assert_close(loss, expected_loss)
    assert not loss.requires_grad
    for name, now in weights(engine).items():
        mean = (halves[0][name] + halves[1][name]) / 2
        torch.testing.assert_close(now, before[name] - mean, atol=1e-5, rtol=1e-4)


def test_l1_pulls_weights_and_leaves_biases_and_norms(job: Jobs) -> None:
    before = weights(engine_of(job(**PLAIN)))
    free, pulled = change(job(**PLAIN)), change(job(**PLAIN, l1=0.01))
    kinds = {one.ndim > 1 for one in before.values()}
    assert kinds == {True, False}
    for name, start in before.items():
        expected = -0.01 * start.sign() if start.ndim > 1 else torch.zeros_like(start)
        torch.testing.assert_close(pulled[name] - free[name], expected, atol=2e-6, rtol=1e-3)


def test_the_encoder_has_a_rate_of_its_own(job: Jobs) -> None:
    free = change(job(**PLAIN, **UNET))
    slow = change(job(**PLAIN, **UNET, encoder_lr_factor=0.25))
    for name, whole in free.items():
        factor = 0.25 if name.startswith("network.encoder.") else 1.0
        torch.testing.assert_close(slow[name], factor * whole, atol=1e-6, rtol=1e-3)


@pytest.mark.parametrize("key", ["encoder_lr_factor", "freeze_encoder_epochs"])
def test_without_an_encoder_its_parameters_are_refused(key: str, job: Jobs) -> None:
    with pytest.raises(SegopsError, match=rf"train\.{key}: 2.*has no encoder"):
        engine_of(job(**{key: 2}))


def test_without_an_encoder_its_batch_norm_is_not_frozen(job: Jobs) -> None:
    with pytest.raises(SegopsError, match=r"train\.freeze_batch_norm: true.*Set it to false"):
        engine_of(job(freeze_batch_norm=True))


def test_a_frozen_batch_norm_keeps_its_statistics_and_learns(job: Jobs) -> None:
    engine = engine_of(job(**UNET, freeze_batch_norm=True))
    assert engine.network.encoder is not None
    norms = [one for one in engine.network.encoder.modules() if isinstance(one, nn.BatchNorm2d)]
    assert norms
    before = [(one.running_mean.clone(), one.running_var.clone()) for one in norms]
    scales = [one.weight.detach().clone() for one in norms]
    decoder = {k: v.clone() for k, v in engine.network.network.decoder.named_buffers()}
    engine.network.eval()  # as after a score
    engine.train_mode()
    engine.step(*batch(), 0, 0.01)
    assert not any(one.training for one in norms)
    for one, (mean, variance), scale in zip(norms, before, scales, strict=True):
        assert torch.equal(one.running_mean, mean)
        assert torch.equal(one.running_var, variance)
        assert not torch.equal(one.weight, scale)
    assert not same(dict(engine.network.network.decoder.named_buffers()), decoder)


def test_a_frozen_encoder_stays_and_then_moves(job: Jobs) -> None:
    """AdamW's decay moves whatever takes part; running statistics count too."""
    engine = engine_of(job(**UNET, optimizer="adamw", weight_decay=0.5, precision="fp32", l1=0.1))
    assert engine.network.encoder is not None

    def encoder() -> dict[str, Tensor]:
        return {name: one.clone() for name, one in engine.network.encoder.state_dict().items()}

    before, decoder = encoder(), engine.network.network.decoder.state_dict()
    decoder = {name: one.clone() for name, one in decoder.items()}
    engine.freeze_encoder(True)
    engine.train_mode()
    for number in range(2):
        engine.step(*batch(), number, 0.01)
    assert same(encoder(), before)
    assert not same(engine.network.network.decoder.state_dict(), decoder)
    seen = {id(one) for one in engine.optimizer.optimizer.state}
    assert not seen & {id(one) for one in engine.network.encoder_parameters()}
    engine.freeze_encoder(False)
    engine.step(*batch(), 2, 0.01)
    after = encoder()
    assert all(not torch.equal(after[name], before[name]) for name in before if "weight" in name)


def test_the_moving_average_is_what_it_says(job: Jobs) -> None:
    engine = engine_of(job(ema_decay=0.2))
    assert engine.average is not None
    averages = weights(engine)
    for number in range(3):
        engine.step(*batch(), number, 0.05)
        decay = min(0.2, (2 + number) / (11 + number))
        averages = {
            name: decay * averages[name] + (1 - decay) * one
            for name, one in weights(engine).items()
        }
    assert engine.result is engine.average.network
    for name, one in engine.result.named_parameters():
        torch.testing.assert_close(one, averages[name], atol=1e-6, rtol=1e-4)
        assert not one.requires_grad
    buffers = dict(engine.network.named_buffers())
    assert all(torch.equal(one, buffers[name]) for name, one in engine.result.named_buffers())


def test_the_moving_average_is_scored_and_shipped(job: Jobs) -> None:
    plain = train(job("plain", epochs=2))
    averaged = train(job("averaged", epochs=2, ema_decay=0.999))
    losses = [[row["train_loss"] for row in one.rows] for one in (plain, averaged)]
    assert losses[0] == losses[1]  # the weights in training are the same
    assert not same(plain.last, averaged.last)
    assert plain.last.keys() == averaged.last.keys()


def test_the_auxiliary_head_adds_its_loss_and_is_not_shipped(job: Jobs) -> None:
    given = job(**PLAIN, **UNET, epochs=1, warmup_epochs=0, more={"auxiliary_weight": 0.4})
    engine = engine_of(given)
    images, masks = batch()
    with torch.no_grad():
        logits, auxiliary = engine.network(images, with_auxiliary=True)
    loss = loss_named("cross_entropy")
    expected = loss(logits, masks) + 0.4 * loss(auxiliary, masks)
    torch.testing.assert_close(engine.step(images, masks, 0, 1.0), expected, atol=0, rtol=1e-4)
    outcome = train(given)
    names = engine.network.state_dict()
    assert any(name.startswith("auxiliary.") for name in names)
    assert (
        outcome.last.keys()
        == outcome.network.state_dict().keys()
        == without_auxiliary(names).keys()
    )


def test_class_weights_reach_the_loss(job: Jobs) -> None:
    given = job(**PLAIN, more={"class_weights": (2.0,) + (0.0,) * 20})
    engine = engine_of(given)
    images, masks = batch()
    with torch.no_grad():
        logits = engine.network(images)
    expected = loss_named("cross_entropy", given.class_weights)(logits, masks)
    torch.testing.assert_close(engine.step(images, masks, 0, 0.1), expected)
    assert expected != loss_named("cross_entropy")(logits, masks)


def test_fp16_skips_an_overflowing_step_and_goes_on(job: Jobs) -> None:
    engine = engine_of(job(**PLAIN | NARROW | {"precision": "fp16", "gradient_clip": 1.0}))
    state = engine.state()
    state["scaler"]["scale"] = 2.0**60
    engine.restore(state)
    before = weights(engine)
    loss = engine.step(*batch(), 0, 0.1)
    assert torch.isfinite(loss)
    assert same(weights(engine), before)
    assert engine.scale == 2.0**59
    state["scaler"]["scale"] = 2.0**10
    engine.restore(state)
    engine.step(*batch(), 1, 0.1)
    assert not same(weights(engine), before)


def test_fp16_trains_on_the_cpu_too(job: Jobs) -> None:
    rows = train(job(precision="fp16", epochs=2, loss="cross_entropy", **NARROW)).rows
    assert rows[1]["train_loss"] < rows[0]["train_loss"]


def test_compiled_weights_keep_their_names(job: Jobs, monkeypatch: pytest.MonkeyPatch) -> None:
    """Traced by torch.compile; its compiler itself takes minutes."""
    given = {**PLAIN, "deterministic": False, "epochs": 1, "warmup_epochs": 0}
    eager = train(job("eager", **given))
    quick = functools.partial(torch.compile, backend="eager")
    monkeypatch.setattr(hardware.torch, "compile", quick)
    compiled = train(job("compiled", **given, compile=True))
    assert compiled.last.keys() == eager.last.keys()
    for name, one in eager.last.items():
        torch.testing.assert_close(compiled.last[name], one)


def test_compiling_needs_a_compiler(job: Jobs, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", "")
    monkeypatch.delenv("CXX", raising=False)
    with pytest.raises(SegopsError, match=r"train\.compile: true.*C\+\+ compiler.*false"):
        engine_of(job(compile=True, deterministic=False))


def test_synchronised_norms_of_several_devices_need_gpus(job: Jobs) -> None:
    network = engine_of(job()).network
    several = Fabric(accelerator="cpu", devices=2, strategy="ddp")  # not launched: one process
    with pytest.raises(SegopsError, match=r"train\.sync_batch_norm: true.*GPUs only"):
        synchronise_norms(network, several)


def test_one_device_has_nothing_to_synchronise(job: Jobs) -> None:
    network = engine_of(job(devices="auto", sync_batch_norm=True, **UNET)).network
    kinds = {type(one) for one in network.modules()}
    assert nn.BatchNorm2d in kinds
    assert nn.SyncBatchNorm not in kinds
