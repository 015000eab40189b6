"""Checkpoints: whole or not there, of this very training, never unpickled."""

from __future__ import annotations

import hashlib
import logging
import pickle
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from segops.train.checkpoint import (
    NAME,
    Best,
    Checkpoint,
    load,
    parts_of_interrupted,
    remove,
    save,
)
from tests.support.training import with_little_room

PARTS = {"parameters": "p", "code": "c", "data": "d"}


def example(epoch: int = 2, batch: int = 3) -> Checkpoint:
    torch.manual_seed(epoch)
    network = nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4)).to(
        memory_format=torch.channels_last  # type: ignore[call-overload]
    )
    optimizer = torch.optim.AdamW(network.parameters(), fused=True)
    network(torch.rand(2, 3, 8, 8)).sum().backward()
    optimizer.step()
    return Checkpoint(
        parts=PARTS,
        epoch=epoch,
        batch=batch,
        engine={
            "network": network.state_dict(),
            "optimizer": optimizer.state_dict(),
            "average": {"updates": 7, "network": network.state_dict()},
            "scaler": {"scale": 4.0, "_growth_tracker": 3},
        },
        plateau={"scale": 1.0, "best": float("-inf"), "waited": 0.0},
        losses=[{"totals": {"train_loss": 1.5}, "count": 3, "skipped": 0}],
        rows=[{"epoch": 1, "selection_miou": 0.5}, {"epoch": 2, "selection_miou": None}],
    )


def with_best(epoch: int = 2, batch: int = 3, best_epoch: int = 1) -> tuple[Checkpoint, Best]:
    checkpoint, at_best = example(epoch, batch), example(best_epoch, 0)
    for one in (checkpoint, at_best):
        one.best = best_epoch, 0.5
    return checkpoint, Best(best_epoch, 0.5, at_best)


def same(left: Any, right: Any) -> bool:
    if isinstance(left, torch.Tensor):
        return torch.equal(left, right) and left.stride() == right.stride()
    if isinstance(left, dict):
        return left.keys() == right.keys() and all(same(left[n], right[n]) for n in left)
    if isinstance(left, (list, tuple)):
        return len(left) == len(right) and all(map(same, left, right))
    return bool(left == right)


def test_what_a_killed_training_depends_on_is_known_without_its_weights(tmp_path: Path) -> None:
    assert parts_of_interrupted(tmp_path) is None
    saved, best = with_best()
    save(tmp_path, saved, best)
    assert parts_of_interrupted(tmp_path) == PARTS
    (tmp_path / NAME).write_bytes(b"damaged")
    assert parts_of_interrupted(tmp_path) == PARTS  # the best epoch's
    remove(tmp_path)
    save(tmp_path, saved)
    (tmp_path / NAME).write_bytes(b"damaged")
    assert parts_of_interrupted(tmp_path) is None


def test_what_is_saved_is_loaded(tmp_path: Path) -> None:
    """Last and best alike: network, optimiser, average, scaler, plateau, losses, place."""
    saved, best = with_best()
    assert save(tmp_path / "resume", saved, best)
    found = load(tmp_path / "resume", PARTS)
    assert found is not None
    assert same(vars(found[0]), vars(saved))
    assert found[1] is not None
    assert same(vars(found[1].checkpoint), vars(best.checkpoint))
    assert (found[1].epoch, found[1].score, found[1].is_written) == (1, 0.5, True)


def test_without_selection_there_is_no_best(tmp_path: Path) -> None:
    save(tmp_path, example())
    found = load(tmp_path, PARTS)
    assert found is not None
    assert found[1] is None
    assert names(tmp_path) == [NAME]


def names(directory: Path) -> list[str]:
    return sorted(path.name for path in directory.iterdir())


def test_only_the_newest_best_is_kept_and_written_once(tmp_path: Path) -> None:
    checkpoint, first = with_best(2, 3, 1)
    save(tmp_path, checkpoint, first)
    written = (tmp_path / "best-000001.pt").stat()
    checkpoint.batch = 4
    save(tmp_path, checkpoint, first)
    assert (tmp_path / "best-000001.pt").stat().st_ino == written.st_ino
    checkpoint, second = with_best(3, 0, 3)
    save(tmp_path, checkpoint, second)
    assert names(tmp_path) == ["best-000003.pt", NAME]
    found = load(tmp_path, PARTS)
    assert found is not None
    assert found[1] is not None
    assert (found[0].epoch, found[1].epoch, found[1].is_written) == (3, 3, True)


def test_killed_between_two_files_the_older_pair_is_whole(tmp_path: Path) -> None:
    """The new best lies there, the new last one does not."""
    checkpoint, best = with_best(2, 3, 1)
    save(tmp_path, checkpoint, best)
    state = (tmp_path / NAME).read_bytes()
    first = (tmp_path / "best-000001.pt").read_bytes()
    save(tmp_path, *with_best(3, 0, 3))
    (tmp_path / NAME).write_bytes(state)
    (tmp_path / "best-000001.pt").write_bytes(first)
    found = load(tmp_path, PARTS)
    assert found is not None
    assert found[1] is not None
    assert (found[0].epoch, found[0].batch, found[1].epoch) == (2, 3, 1)


def test_a_damaged_last_checkpoint_leaves_the_best(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    save(tmp_path, *with_best(2, 3, 1))
    (tmp_path / NAME).write_bytes(b"half")
    found = load(tmp_path, PARTS)
    assert "state.pt: not a usable checkpoint" in caplog.text
    assert found is not None
    assert found[1] is not None
    assert (found[0].epoch, found[0].batch, found[1].epoch) == (1, 0, 1)


@pytest.mark.parametrize("place", [0.05, 0.3, 0.6, 0.9, 1.0])
def test_a_flipped_bit_starts_afresh(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, place: float
) -> None:
    save(tmp_path, example())
    content = bytearray((tmp_path / NAME).read_bytes())
    content[round(place * (len(content) - 1))] ^= 1
    (tmp_path / NAME).write_bytes(content)
    with caplog.at_level(logging.INFO):
        assert load(tmp_path, PARTS) is None
    assert "not a usable checkpoint" in caplog.text
    assert "starting afresh" in caplog.text


def test_a_lost_best_starts_afresh(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    save(tmp_path, *with_best(2, 3, 1))
    (tmp_path / "best-000001.pt").unlink()
    assert load(tmp_path, PARTS) is None
    assert "no usable checkpoint; starting afresh" in caplog.text


def save_in_vain(directory: Path) -> None:
    """Save a later checkpoint and find the earlier one still there."""
    assert not save(directory, *with_best(5, 1, 4))
    found = load(directory, PARTS)
    assert found is not None
    assert found[1] is not None
    assert (found[0].epoch, found[0].batch, found[1].epoch) == (2, 3, 1)


@pytest.mark.parametrize("room", [0, 4096])
def test_a_full_disk_leaves_the_old_checkpoint(room: int, tmp_path: Path) -> None:
    """The kernel refuses to let a file grow, in the middle of it too, as on a full disk."""
    save(tmp_path, *with_best(2, 3, 1))
    before = {path.name: path.read_bytes() for path in tmp_path.iterdir()}
    said = with_little_room(room, lambda: save_in_vain(tmp_path))
    assert "no checkpoint could be written: File too large. The one before it is kept" in said
    assert {path.name: path.read_bytes() for path in tmp_path.iterdir()} == before


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
    if kind in ("trap", "format", "pickle"):  # with the hash of a whole file
        path.write_bytes(path.read_bytes() + hashlib.sha256(path.read_bytes()).digest())
    with caplog.at_level(logging.WARNING, "segops"):
        assert load(tmp_path, PARTS) is None
    assert "not a usable checkpoint" in caplog.text


def test_a_copy_does_not_follow_later_steps() -> None:
    checkpoint = example()
    weight = checkpoint.engine["network"]["0.weight"]
    before = weight.clone()
    copy = checkpoint.copied()
    assert same(copy.engine, checkpoint.engine)
    weight += 1
    assert torch.equal(copy.engine["network"]["0.weight"], before)
