"""Progress of long work: a bar in a terminal, elsewhere a log line now and then."""

from __future__ import annotations

import logging
import sys
import time
from collections.abc import Iterable, Iterator, Sized
from typing import Any, TypeVar

from tqdm import tqdm

from segops import logs

Item = TypeVar("Item")
SECONDS_BETWEEN_LINES = 10.0
log = logging.getLogger("segops")


class Progress:
    """Shows how much of some work is done; a context manager that removes the bar at its end."""

    def __init__(
        self, label: str, total: int | None = None, done: int = 0, in_bytes: bool = False
    ) -> None:
        """Start at `done` of `total` (None: unknown); `in_bytes` shows megabytes."""
        self.label, self.total, self.in_bytes = label, total, in_bytes
        self.start = self.last = time.monotonic()
        self.bar: Any = None
        if sys.stderr.isatty() and not logs.wants_json():
            unit = {"unit": "B", "unit_scale": True} if in_bytes else {}
            self.bar = tqdm(desc=label, initial=done, total=total, leave=False, **unit)

    def __enter__(self) -> Progress:
        """Return the progress itself."""
        return self

    def __exit__(self, *error: object) -> None:
        """Remove the bar."""
        if self.bar is not None:
            self.bar.close()

    def reach(self, done: int) -> None:
        """Show that `done` are done by now."""
        if self.bar is not None:
            self.bar.update(done - self.bar.n)
            return
        now = time.monotonic()
        if now - self.last >= SECONDS_BETWEEN_LINES and done != self.total:
            self.last = now
            unit = " MB" if self.in_bytes else ""
            shown = self._number(done), self._number(self.total), unit, now - self.start
            log.info("%s: %s of %s%s, %.0f s", self.label, *shown)

    def _number(self, count: int | None) -> str:
        if count is None:
            return "?"
        return f"{count / 1e6:.1f}" if self.in_bytes else str(count)


def track(items: Iterable[Item], label: str, total: int | None = None) -> Iterator[Item]:
    """Yield `items` and show the progress under a label.

    `total` is the number of items, where ``len(items)`` does not work.
    """
    if total is None and isinstance(items, Sized):
        total = len(items)
    with Progress(label, total) as progress:
        for done, item in enumerate(items, 1):
            yield item
            progress.reach(done)
