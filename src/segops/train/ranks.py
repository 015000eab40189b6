"""Communication among the processes of a training, its ranks."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Tensor, nn

from segops.runtime.errors import SegopsError
from segops.runtime.networks.segmenter import Segmenter


def total(value: Tensor, fabric: Any) -> Tensor:
    """The sum of a tensor over the ranks; all ranks must call it."""
    summed: Tensor = fabric.all_reduce(value, reduce_op="sum")
    return summed.to(value.device)


def mean(value: float, fabric: Any) -> float:
    """The mean of a number over the ranks; all ranks must call it."""
    averaged: Tensor = fabric.all_reduce(torch.tensor(value, dtype=torch.float64), reduce_op="mean")
    return averaged.item()


def gathered(value: Any, fabric: Any) -> list[Any]:
    """The values of all ranks, in their order; all ranks must call it."""
    if fabric.world_size == 1:
        return [value]
    values: list[Any] = [None] * fabric.world_size
    torch.distributed.all_gather_object(values, value)
    return values


def require_equal(parts: Mapping[str, str], fabric: Any) -> None:
    """Check that all ranks are about to run the same training.

    Args:
        parts: Hashes of what this rank's training depends on, by name.
        fabric: Connects the ranks, all of which must call this.

    Raises:
        SegopsError: A rank's hashes differ; the message names the rank and the parts.
    """
    first, *others = gathered(dict(parts), fabric)
    for rank, own in enumerate(others, 1):
        changed = sorted(name for name in {*first, *own} if first.get(name) != own.get(name))
        if changed:
            raise SegopsError(
                f"Rank {rank} would train with another {', '.join(changed)} than rank 0. Bring all "
                "machines to the same commit, params.yaml, data and libraries, then start again."
                + (" Name a train.precision in place of auto." if "precision" in changed else "")
            )


def leave(fabric: Any) -> None:
    """Wait for all ranks and end their process group."""
    if fabric.world_size > 1:
        fabric.barrier()
        torch.distributed.destroy_process_group()


@torch.no_grad()
def share_statistics(network: nn.Module, fabric: Any) -> None:
    """Copy the buffers of rank zero, such as batch norm statistics, to all ranks.

    Every rank keeps statistics of its own part of the batches; the model has those of rank zero.
    Training does not read them, so one copy before scoring is enough.
    """
    if fabric.world_size > 1:
        for buffer in network.buffers():
            torch.distributed.broadcast(buffer, 0)


def freeze_unused(network: nn.Module, loss: Callable[[], Tensor]) -> None:
    """Freeze parameters that `loss` does not depend on: the ranks would wait for their gradients.

    Some encoders have layers that the decoder does not use. The alternative, DDP's
    `find_unused_parameters`, searches for them in every step.

    Args:
        network: Changed in place.
        loss: Computes a scalar of all outputs; called in evaluation mode.
    """
    network.eval()
    loss().backward()  # type: ignore[no-untyped-call]
    for parameter in network.parameters():
        parameter.requires_grad_(parameter.grad is not None)
        parameter.grad = None
    network.train()


def synchronise_norms(network: Segmenter, fabric: Any) -> Segmenter:
    """Compute batch norm statistics over the whole batch of all ranks.

    A single rank has the whole batch, so its network is returned unchanged, on any device.

    Raises:
        SegopsError: torch has no synchronised batch norm for this device.
    """
    if fabric.world_size == 1:
        return network
    if fabric.device.type != "cuda":
        raise SegopsError(
            "train.sync_batch_norm: true, but torch's SyncBatchNorm works on GPUs only. Set it to "
            "false, or train.device to cuda."
        )
    convert: Any = nn.SyncBatchNorm.convert_sync_batchnorm
    converted: Segmenter = convert(network)
    return converted
