"""The result of a check of the gate."""

from __future__ import annotations

import math
from typing import Literal, TypeGuard

from pydantic import BaseModel, ConfigDict

Outcome = Literal["passed", "failed", "undecided"]
ROUNDING = 1e-9
"""Smaller differences are rounding errors of floating-point sums."""


class Check(BaseModel):
    """The result of a check.

    Attributes:
        name: The check's name.
        passed: Whether the challenger passed.
        observed: The observed value; None where it is missing.
        required: The required value.
        sentence: The result in words.
        undecided: There are too few images to decide; such a check has not passed.
    """

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)

    name: str
    passed: bool
    observed: float | str | None
    required: float | str
    sentence: str
    undecided: bool = False

    @property
    def outcome(self) -> Outcome:
        """The result in one word."""
        return "passed" if self.passed else "undecided" if self.undecided else "failed"


def failed(name: str, required: float | str, sentence: str) -> Check:
    """Return a check that failed because the observed value is missing or not usable."""
    return Check(name=name, passed=False, observed=None, required=required, sentence=sentence)


def at_least(name: str, what: str, value: float, least: float) -> Check:
    """Return the check of a value against a lower bound."""
    passed = value >= least - ROUNDING
    words = "at least" if passed else "below"
    sentence = f"{what} is {value:.3f}, {words} {least:.3f}."
    return Check(name=name, passed=passed, observed=value, required=least, sentence=sentence)


def is_share(value: float | None) -> TypeGuard[float]:
    """Whether a value is a finite number within 0 to 1."""
    return value is not None and math.isfinite(value) and 0 <= value <= 1
