"""Images that do not fit into memory."""

from __future__ import annotations

import pytest
import torch

from segops.predict.memory import named_shortage
from segops.runtime.errors import SegopsError


@pytest.mark.parametrize("error", [MemoryError(), torch.OutOfMemoryError("CUDA out of memory")])
def test_a_lack_of_memory_is_told_of_the_image(error: Exception) -> None:
    with (
        pytest.raises(SegopsError, match=r"^a\.jpg: does not fit into memory"),
        named_shortage("a.jpg"),
    ):
        raise error


def test_torch_lacks_memory_on_the_cpu() -> None:
    with (
        pytest.raises(SegopsError, match=r"^a\.jpg: does not fit into memory"),
        named_shortage("a.jpg"),
    ):
        torch.empty(2**60, dtype=torch.uint8)


@pytest.mark.parametrize("error", [RuntimeError("a fault"), SegopsError("b.jpg: torn")])
def test_other_errors_pass(error: Exception) -> None:
    with pytest.raises(type(error)) as raised, named_shortage("a.jpg"):
        raise error
    assert raised.value is error
