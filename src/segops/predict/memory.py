"""A lack of memory as the failure of the image that asked for it."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch

from segops.runtime.errors import SegopsError


@contextmanager
def named_shortage(place: str) -> Iterator[None]:
    """Raise a SegopsError in place of an error that says that an image does not fit into memory.

    `place` is what the message calls the image. Other errors pass.
    """
    try:
        yield
    except (RuntimeError, MemoryError) as error:
        if not _is_shortage(error):
            raise
        raise SegopsError(
            f"{place}: does not fit into memory. Predict it by windows: set predict.mode to auto "
            "or window and package the model anew, or use another --device."
        ) from None


def _is_shortage(error: Exception) -> bool:
    if isinstance(error, MemoryError | torch.OutOfMemoryError):
        return True
    # On the CPU, torch's error for a lack of memory has no class of its own.
    return "can't allocate memory" in str(error)
