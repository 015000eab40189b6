"""How much may be under way at once."""

from __future__ import annotations

from threading import Condition


class Room:
    """Holds so many items of so much size at most; one item alone always fits.

    Args:
        items: Most items at once.
        size: Largest sum of their sizes, in any unit.
    """

    def __init__(self, items: int, size: int) -> None:
        self._most_items, self._most_size = items, size
        self._items = self._size = 0
        self._changed = Condition()

    def enter(self, size: int, *, wait: bool) -> bool:
        """Take an item in, if it fits; `wait` until it does. Says whether it was taken in."""
        with self._changed:
            if wait:
                self._changed.wait_for(lambda: self._fits(size))
            elif not self._fits(size):
                return False
            self._items += 1
            self._size += size
            return True

    def leave(self, size: int) -> None:
        """Let go of an item that entered with `size`. May be called from any thread."""
        with self._changed:
            self._items -= 1
            self._size -= size
            self._changed.notify()

    def _fits(self, size: int) -> bool:
        if not self._items:
            return True
        return self._items < self._most_items and self._size + size <= self._most_size
