"""No loss needs an operation that has no deterministic kernel on CUDA, nor waits for a device."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

from segops.models.losses.pixelwise import _kth_smallest
from tests.unit.models.test_losses import CASES, batch, every_case, loss_of

WITHOUT = {
    "bincount",
    "gather",  # its gradient is a scatter_add
    "histc",
    "index_add",
    "kthvalue",
    "max_pool2d_with_indices_backward",
    "median",
    "nll_loss2d_forward",
    "nll_loss2d_backward",
    "put_",
    "scatter_add",
    "scatter_reduce",
}
"""Operations without a deterministic kernel on CUDA, or with a slow one
(``torch.use_deterministic_algorithms``)."""

WAITING = {"_local_scalar_dense", "nonzero", "masked_select", "is_nonzero", "unique"}
"""Operations that hand a value, or a shape that depends on values, to the host."""


class Operations(TorchDispatchMode):
    """Writes down which operations run, gradients included."""

    def __init__(self) -> None:
        super().__init__()
        self.names: set[str] = set()
        self.float_sums = False
        self.summed_indices = False

    def __torch_dispatch__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: Any = None
    ) -> Any:
        name = func.overloadpacket.__name__
        self.names.add(name)
        result = func(*args, **(kwargs or {}))
        if name == "cumsum" and result.is_floating_point():
            self.float_sums = True
        if name.startswith(("index_put", "_index_put")) and True in args[3:4]:
            self.summed_indices = True
        return result


def operations(name: str, options: dict[str, Any]) -> Operations:
    logits, target = batch(3, 4, 0.3, (2, 6, 6))
    logits.requires_grad_()
    loss = loss_of(name, options)
    with Operations() as seen:
        loss(logits, target).backward()
    return seen


@every_case
def test_every_operation_has_a_deterministic_kernel(name: str, options: dict[str, Any]) -> None:
    seen = operations(name, options)
    assert any("backward" in one for one in seen.names)  # gradients were watched too
    assert seen.names & WITHOUT <= {"kthvalue"}  # on the CPU alone; see below
    assert not seen.float_sums
    assert not seen.summed_indices


@every_case
def test_nothing_waits_for_the_device(name: str, options: dict[str, Any]) -> None:
    assert not operations(name, options).names & WAITING


def test_the_sort_that_cuda_takes_finds_what_the_cpu_finds() -> None:
    values = torch.randn(50)
    for k in (1, 7, 50):
        assert torch.equal(values.sort().values[k - 1], _kth_smallest(values, k))


@pytest.mark.skipif(not torch.cuda.is_available(), reason="there is no GPU")
def test_on_a_gpu_twice_the_same_and_that_of_the_cpu() -> None:
    for name, options in CASES:
        torch.use_deterministic_algorithms(True)
        try:
            first, second = (value_and_gradient(name, options, "cuda") for _ in range(2))
        finally:
            torch.use_deterministic_algorithms(False)
        assert all(torch.equal(one, other) for one, other in zip(first, second, strict=True))
        for one, other in zip(first, value_and_gradient(name, options, "cpu"), strict=True):
            assert torch.allclose(one, other, rtol=1e-4, atol=1e-7)


def value_and_gradient(name: str, options: dict[str, Any], device: str) -> tuple[Tensor, Tensor]:
    logits, target = batch(5, 6, 0.2, (2, 64, 64))
    logits = logits.to(device).requires_grad_()
    value = loss_of(name, options).to(device)(logits, target.to(device))
    value.backward()
    assert logits.grad is not None
    return value.detach().cpu(), logits.grad.cpu()
