"""Which pieces a clean-up takes."""

from __future__ import annotations

import time

import pytest

from segops.operate.clean import DAY, Piece, Plan, Wanted, _choose


def chosen(wanted: Wanted, total: int = 100) -> tuple[list[str], list[str]]:
    now = time.time()
    pieces = [
        Piece("record", f"of {days} days", now - days * DAY, 10, lambda: None)
        for days in (1, 40, 90, 31)
    ]
    plan = Plan(total=total)
    _choose(plan, pieces, wanted)
    return [one.name for one in plan.pieces], [one.name for one in plan.young]


@pytest.mark.parametrize(
    ("wanted", "goes"),
    [
        (Wanted(), ["of 90 days", "of 40 days", "of 31 days"]),
        (Wanted(older_than=60 * DAY), ["of 90 days"]),
        (Wanted(older_than=0), ["of 90 days", "of 40 days", "of 31 days", "of 1 days"]),
        (Wanted(budget=100), []),
        (Wanted(budget=99), ["of 90 days"]),
        (Wanted(budget=80), ["of 90 days", "of 40 days"]),
        (Wanted(budget=0), ["of 90 days", "of 40 days", "of 31 days"]),
    ],
)
def test_the_oldest_go_first_until_it_fits(wanted: Wanted, goes: list[str]) -> None:
    assert chosen(wanted)[0] == goes


def test_what_is_young_is_told() -> None:
    assert chosen(Wanted(budget=0))[1] == ["of 1 days"]
