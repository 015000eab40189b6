"""The selection split depends on ids alone."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from segops.data.selection_split import selection_split

ids_of_any_kind = st.lists(st.text(min_size=1, max_size=12), unique=True, max_size=40)
shares = st.floats(0, 0.5)


def numbered(count: int, start: int = 0) -> list[str]:
    return [f"2008_{index:06}" for index in range(start, start + count)]


@given(ids_of_any_kind, shares)
def test_it_divides_the_ids_in_their_order(ids: list[str], share: float) -> None:
    train, selection = selection_split(ids, share)
    assert sorted((*train, *selection)) == sorted(ids)
    assert list(train) == [one for one in ids if one in set(train)]
    assert list(selection) == [one for one in ids if one in set(selection)]
    assert bool(train) == bool(ids)
    assert bool(selection) == (share > 0 and len(ids) > 1)


@given(ids_of_any_kind, shares, st.randoms())
def test_the_order_of_ids_decides_nothing(ids: list[str], share: float, dice: object) -> None:
    other = list(ids)
    dice.shuffle(other)  # type: ignore[attr-defined]
    assert set(selection_split(ids, share)[1]) == set(selection_split(other, share)[1])


@given(st.integers(0, 10_000), st.integers(1, 300), st.floats(0.05, 0.5))
def test_images_that_are_added_move_no_other(start: int, added: int, share: float) -> None:
    ids = numbered(300, start)
    train, selection = selection_split(ids, share)
    more_train, more_selection = selection_split([*ids, *numbered(added, start + 300)], share)
    assert set(train) <= set(more_train)
    assert set(selection) <= set(more_selection)


@given(st.floats(0.05, 0.5), st.floats(0.05, 0.5))
def test_a_larger_share_keeps_what_a_smaller_one_had(one: float, other: float) -> None:
    ids = numbered(300)
    small, large = (set(selection_split(ids, share)[1]) for share in sorted((one, other)))
    assert small <= large


@pytest.mark.parametrize("share", [0.05, 0.1, 0.5])
def test_the_share_is_met(share: float) -> None:
    assert len(selection_split(numbered(20_000), share)[1]) / 20_000 == pytest.approx(
        share, abs=0.012
    )


def test_a_share_of_zero_selects_nothing() -> None:
    assert selection_split(numbered(50), 0) == (tuple(numbered(50)), ())


def test_the_choice_is_the_same_in_every_version() -> None:
    chosen = ("2008_000000", "2008_000005", "2008_000007", "2008_000013", "2008_000016")
    assert selection_split(numbered(30), 0.1)[1] == chosen
