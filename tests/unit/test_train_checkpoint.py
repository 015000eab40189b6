"""Checkpoints: whole or not there, of this very training, never unpickled."""

from __future__ import annotations

import logging
import pickle
from pathlib import Path

import pytest
import torch
from torch import nn

from segops.train.checkpoint import NAME, Best, Checkpoint, load, on_cpu, remove, save

PARTS = {"parameters": "p", "code": "c", "data": "d"}


def example() -> Checkpoint:
    torch.manual_seed(0)
    network = nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4)).to(
        memory_format=torch.channels_last  # type: ignore[call-overload]
    )
    optimizer = torch.optim.AdamW(network.parameters(), fused=True)
    network(torch.rand(2, 3, 8, 8)).sum().backward()
    optimizer.step()
    return Checkpoint(
        parts=PARTS,
        epoch=2,
        batch=3,
        network=network.state_dict(),
        optimizer=optimizer.state_dict(),
        plateau={"scale": 1.0, "best": float("-inf"), "waited": 0.0},
        losses={"total": 1.5, "count": 3.0},
        rows=[{"epoch": 1, "selection_miou": 0.5}, {"epoch": 2, "selection_miou": None}],
        best=Best(1, 0.5, on_cpu(network.state_dict())),
    )


def test_what_is_saved_is_loaded(tmp_path: Path) -> None:
    saved = example()
    save(tmp_path / "resume", saved)
    found = load(tmp_path / "resume", PARTS)
    assert found is not None
    assert (found.epoch, found.batch, found.rows) == (2, 3, saved.rows)
    assert found.plateau == saved.plateau
    assert found.losses == saved.losses
    assert saved.best is not None
    assert found.best is not None
    assert (found.best.epoch, found.best.score) == (1, 0.5)
    for name, tensor in saved.network.items():
        assert torch.equal(found.network[name], tensor)
        assert found.network[name].stride() == tensor.stride()
        assert torch.equal(found.best.weights[name], saved.best.weights[name])
    for key, state in saved.optimizer["state"].items():
        assert all(torch.equal(found.optimizer["state"][key][n], t) for n, t in state.items())


def test_without_selection_there_is_no_best(tmp_path: Path) -> None:
    saved = example()
    saved.best = None
    save(tmp_path, saved)
    found = load(tmp_path, PARTS)
    assert found is not None
    assert found.best is None


@pytest.mark.parametrize("changed", sorted(PARTS))
def test_another_training_starts_afresh_and_says_what_changed(
    changed: str, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    save(tmp_path, example())
    with caplog.at_level(logging.INFO, "segops"):
        assert load(tmp_path, PARTS | {changed: "other"}) is None
    assert f"had another {changed}; starting afresh" in caplog.text


def test_none_and_removed(tmp_path: Path) -> None:
    assert load(tmp_path / "absent", PARTS) is None
    save(tmp_path / "resume", example())
    remove(tmp_path / "resume")
    remove(tmp_path / "resume")
    assert load(tmp_path / "resume", PARTS) is None


class Trap:
    def __reduce__(self) -> tuple[object, tuple[str]]:
        return (exec, ("raise SystemExit('pickle was executed')",))


@pytest.mark.parametrize("kind", ["empty", "garbage", "truncated", "pickle", "trap", "format"])
def test_what_cannot_be_read_is_left_unread(
    kind: str, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    path = tmp_path / NAME
    save(tmp_path, example())
    whole = path.read_bytes()
    if kind == "trap":
        torch.save({"format": 1, "trap": Trap()}, path)
    elif kind == "format":
        torch.save({"format": 99}, path)
    else:
        path.write_bytes(
            {
                "empty": b"",
                "garbage": b"no checkpoint" * 50,
                "truncated": whole[: len(whole) // 2],
                "pickle": pickle.dumps(Trap()),
            }[kind]
        )
    with caplog.at_level(logging.WARNING, "segops"):
        assert load(tmp_path, PARTS) is None
    assert "not a usable checkpoint" in caplog.text


def test_a_copy_on_the_cpu_does_not_follow_later_steps() -> None:
    weight = torch.ones(3)
    copy = on_cpu({"weight": weight})
    weight += 1
    assert torch.equal(copy["weight"], torch.ones(3))
