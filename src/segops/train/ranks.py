"""Communication among the processes of a training, its ranks."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import nn

from segops.runtime.errors import SegopsError
from segops.runtime.networks.segmenter import Segmenter
from segops.train.checkpoint import differing


def gathered(value: Any, fabric: Any) -> list[Any]:
    """The values of all ranks, in their order; all ranks must call it."""
    if fabric.world_size == 1:
        return [value]
    values: list[Any] = [None] * fabric.world_size
    torch.distributed.all_gather_object(values, value)
    return values


def require_equal(parts: Mapping[str, str], fabric: Any) -> None:
    """Check that `parts`, hashes of what a training depends on, agree; all ranks must call it.

    Raises:
        SegopsError: A rank's hashes differ; the message names the rank and the parts.
    """
    first, *others = gathered(dict(parts), fabric)
    for rank, own in enumerate(others, 1):
        if changed := differing(first, own):
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


def freeze_unused(network: Segmenter, auxiliary: bool, device: torch.device) -> None:
    """Freeze parameters that no output depends on: the ranks would wait for their gradients.

    Some encoders have layers that the decoder does not use. The alternative, DDP's
    `find_unused_parameters`, searches for them in every step.
    """
    network.eval()
    logits: Any = network(
        torch.zeros(1, network.channels, 64, 64, device=device), with_auxiliary=auxiliary
    )
    outputs = logits if isinstance(logits, tuple) else (logits,)
    torch.stack([output.float().sum() for output in outputs]).sum().backward()  # type: ignore[no-untyped-call]
    for parameter in network.parameters():
        parameter.requires_grad_(parameter.grad is not None)
        parameter.grad = None
    network.train()


def synchronise_norms(network: Segmenter, fabric: Any) -> Segmenter:
    """Compute batch norm statistics over the whole batch of all ranks, of which there are several.

    Raises:
        SegopsError: torch has no synchronised batch norm for this device.
    """
    if fabric.device.type != "cuda":
        raise SegopsError(
            "train.sync_batch_norm: true, but torch's SyncBatchNorm works on GPUs only. Set it to "
            "false, or train.device to cuda."
        )
    convert: Any = nn.SyncBatchNorm.convert_sync_batchnorm
    converted: Segmenter = convert(network)
    return converted
