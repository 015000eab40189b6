"""Words of messages."""

from __future__ import annotations

import pytest

from segops.words import shown_size


@pytest.mark.parametrize(
    ("size", "shown"),
    [(0, "0.0 MB"), (1_460_000, "1.5 MB"), (999_900_000, "999.9 MB"), (10**9, "1.00 GB")],
)
def test_a_size_is_in_megabytes_or_gigabytes(size: int, shown: str) -> None:
    assert shown_size(size) == shown
