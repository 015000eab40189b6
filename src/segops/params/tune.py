"""Section `tune`: the study of `segops tune search`."""

from __future__ import annotations

from typing import Annotated, Any

from pydantic import Field, model_serializer, model_validator

from segops.runtime.section import Count, Section

SEARCHABLE = ("augment", "model", "train")
"""Sections whose parameters a study may change: those that only training reads."""


class RangeParams(Section):
    """The values that a study may choose: `choices`, or numbers from `low` to `high`."""

    low: float | None = None
    high: float | None = None
    log: bool = False
    integer: bool = False
    choices: tuple[Any, ...] | None = None

    @model_serializer(mode="wrap")
    def _as_given(self, handler: Any) -> dict[str, Any]:
        given = handler(self)
        # Not `in (None, False)`: a bound of 0 equals False.
        return {name: one for name, one in given.items() if one is not None and one is not False}

    @model_validator(mode="after")
    def _one_kind(self) -> RangeParams:
        if self.choices is not None:
            if self.low is not None or self.high is not None or self.log or self.integer:
                raise ValueError("expected either choices, or low and high")
            if not self.choices:
                raise ValueError("expected one choice or more")
            return self
        if self.low is None or self.high is None:
            raise ValueError("expected either choices, or low and high")
        if self.low >= self.high:
            raise ValueError(f"expected low {self.low:g} below high {self.high:g}")
        if self.log and self.low <= 0:
            raise ValueError(
                f"a logarithmic range begins above 0 (found {self.low:g}): raise low, or set log "
                "to false"
            )
        if self.integer and (self.low != int(self.low) or self.high != int(self.high)):
            raise ValueError(
                "an integer range has whole numbers as low and high: round them, or set integer to "
                "false"
            )
        return self

    @property
    def limits(self) -> tuple[Any, ...]:
        """The choices, or both ends."""
        return (self.low, self.high) if self.choices is None else self.choices


class TuneParams(Section):
    """The study of `segops tune search`."""

    trials: Count = Field(20, description="Trials of a study.")
    epochs: Count | None = Field(
        None, description="Epochs of one trial; null: as many as `train.epochs`."
    )
    seed: Annotated[int, Field(ge=0, lt=2**31)] = Field(0, description="Seed of the study.")
    ranges: dict[str, RangeParams] = Field(
        default_factory=dict,
        description="What a study varies: parameters by dotted key, each with `low` and `high` "
        "(and `log`, `integer`) or `choices`.",
    )

    @model_validator(mode="after")
    def _searchable(self) -> TuneParams:
        for key in self.ranges:
            if key.partition(".")[0] not in SEARCHABLE or "." not in key:
                raise ValueError(
                    f"ranges names {key}; a study varies parameters of {', '.join(SEARCHABLE)}, "
                    "as train.lr"
                )
        return self
