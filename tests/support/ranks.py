"""Several ranks on this machine, as processes that talk over gloo."""

from __future__ import annotations

import multiprocessing
import os
import socket
import traceback
from collections.abc import Callable
from typing import Any

import torch

TWO: dict[str, Any] = {
    "epochs": 3,
    "batch_size": 4,
    "devices": 2,
    "precision": "fp32",
    "selection_share": 0.1,
    "loss": "cross_entropy",
}
"""Parameters of a training on two ranks."""


def free_port() -> int:
    """A port that nobody listens on."""
    with socket.socket() as found:
        found.bind(("127.0.0.1", 0))
        return int(found.getsockname()[1])


def on_ranks(act: Callable[[int], Any], ranks: int = 2) -> list[Any]:
    """What `act` gives on each of several ranks, in processes forked from this one."""
    context = multiprocessing.get_context("fork")
    results = context.Queue()
    port = free_port()

    def child(rank: int) -> None:
        os.environ.update(
            RANK=str(rank), LOCAL_RANK=str(rank), GROUP_RANK="0", WORLD_SIZE=str(ranks),
            LOCAL_WORLD_SIZE=str(ranks), MASTER_ADDR="127.0.0.1", MASTER_PORT=str(port),
            TORCHELASTIC_RUN_ID="test", GLOO_SOCKET_IFNAME="lo",
        )  # fmt: skip
        torch.set_num_threads(1)
        try:
            results.put((rank, act(rank), None))
        except BaseException:
            results.put((rank, None, traceback.format_exc()))

    processes = [context.Process(target=child, args=(rank,)) for rank in range(ranks)]
    for process in processes:
        process.start()
    found: dict[int, Any] = {}
    for _ in processes:
        rank, value, failure = results.get(timeout=120)
        assert failure is None, f"rank {rank}: {failure}"
        found[rank] = value
    for process in processes:
        process.join()
    return [found[rank] for rank in range(ranks)]
