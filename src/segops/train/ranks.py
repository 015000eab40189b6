"""What the processes of one training, its ranks, do together."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Tensor, nn

from segops.runtime.errors import SegopsError
from segops.runtime.networks.segmenter import Segmenter


def total(value: Tensor, fabric: Any) -> Tensor:
    """The sum of a tensor over the ranks; itself where there is one rank."""
    if fabric.world_size == 1:
        return value
    summed: Tensor = fabric.all_reduce(value.to(fabric.device), reduce_op="sum")
    return summed.to(value.device)


def mean(value: float, fabric: Any) -> float:
    """The mean of a number over the ranks."""
    if fabric.world_size == 1:
        return value
    summed = total(torch.tensor(value, dtype=torch.float64), fabric).item()
    return summed / int(fabric.world_size)


def gathered(value: Any, fabric: Any) -> list[Any]:
    """What every rank gives, in the order of the ranks; all ranks must call it."""
    if fabric.world_size == 1:
        return [value]
    values: list[Any] = [None] * fabric.world_size
    torch.distributed.all_gather_object(values, value)
    return values


def of_first(value: Any, fabric: Any) -> Any:
    """What rank zero gives; all ranks must call it."""
    return value if fabric.world_size == 1 else fabric.broadcast(value)


def require_equal(parts: Mapping[str, str], fabric: Any) -> None:
    """Check that every rank is about to do the same training.

    Args:
        parts: Hashes of what this rank's training depends on, by name.
        fabric: Knows the ranks, all of which must call this.

    Raises:
        SegopsError: A rank's training depends on something else; the message names it.
    """
    first, *others = gathered(dict(parts), fabric)
    for rank, one in enumerate(others, 1):
        changed = sorted(name for name in {*first, *one} if first.get(name) != one.get(name))
        if changed:
            raise SegopsError(
                f"Rank {rank} would train with another {', '.join(changed)} than rank 0. Bring all "
                "machines to the same commit, params.yaml, data and libraries, then start again."
                + (" Name a train.precision in place of auto." if "precision" in changed else "")
            )


def leave(fabric: Any) -> None:
    """End what the ranks have in common, after the last of them is done."""
    if fabric.world_size > 1:
        fabric.barrier()
        torch.distributed.destroy_process_group()


@torch.no_grad()
def share_statistics(network: nn.Module, fabric: Any) -> None:
    """Give every rank the buffers of rank zero, batch norm statistics above all.

    Every rank keeps statistics of its own share of the batches; those of rank zero are the
    model's. In training nothing reads them, so once before scoring is enough.
    """
    if fabric.world_size > 1:
        for buffer in network.buffers():
            torch.distributed.broadcast(buffer, 0)


def share_of_gradients(network: nn.Module, loss: Callable[[], Tensor]) -> None:
    """Exclude from training what `loss` does not depend on: the ranks would wait for its gradient.

    Some encoders have layers that a decoder makes no use of. Without this every step would have to
    search for them (`find_unused_parameters`).

    Args:
        network: Changed in place: such parameters take no gradient.
        loss: Computes a scalar of all outputs; called in evaluation mode.
    """
    network.eval()
    loss().backward()  # type: ignore[no-untyped-call]
    for parameter in network.parameters():
        parameter.requires_grad_(parameter.grad is not None)
        parameter.grad = None
    network.train()


def synchronise_norms(network: Segmenter, fabric: Any) -> Segmenter:
    """Compute batch norm statistics over all ranks' shares of a batch together.

    One rank alone has the whole batch: its network is left as it is, on any device.

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
