"""Ends a block when a signal asks the process to stop."""

from __future__ import annotations

import signal
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from types import FrameType

SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)


class _StoppedError(Exception):
    """A signal asked this process to stop."""


@contextmanager
def stopped_by_signals() -> Iterator[None]:
    """End the block, with all that it cleans up, when a signal asks for it."""

    def stop(number: int, frame: FrameType | None) -> None:
        for one in SIGNALS:  # what is cleaned up is not interrupted
            signal.signal(one, signal.SIG_IGN)
        raise _StoppedError

    before = {one: signal.signal(one, stop) for one in SIGNALS}
    try:
        with suppress(_StoppedError):
            yield
    finally:
        for one, handler in before.items():
            signal.signal(one, handler)
