"""Section `notify`: who is told of what. The channels hold secrets: the environment names them."""

from __future__ import annotations

from typing import Annotated, Literal, get_args

from pydantic import Field

from segops.runtime.section import Section

Event = Literal[
    "promoted", "candidate", "rejected", "inconclusive", "withdrawn", "failed", "drift", "silent"
]

HISTORY_HOURS = 30 * 24
"""Time that a server of segops keeps ended runs."""


class NotifyParams(Section):
    """What the channels of `SEGOPS_NOTIFY` are told of."""

    events: tuple[Event, ...] = Field(
        get_args(Event),
        description="Events that are told. candidate: a version waits for approval; withdrawn: a "
        "champion was taken back; silent: no scheduled run has ended for `notify.silent_hours`.",
    )
    by_hand: bool = Field(
        False, description="Also tell what a person's own command does, such as `segops run`."
    )
    silent_hours: Annotated[float, Field(gt=0, le=HISTORY_HOURS)] | None = Field(
        None,
        description="Hours without the end of a scheduled run after which `segops notify silent` "
        "tells; null: it refuses. A server keeps ended runs for 30 days, and knows of none before.",
    )
