"""The gate: a pure function from evidence and policy to a decision.

It reads nothing, asks nobody and fails closed. Its questions stand in
:mod:`segops.release.gate_checks`. What could not be established is an :class:`Unknown` in the
evidence, never an absence, so that an outage cannot be read as "there is no champion yet".
"""

from __future__ import annotations

from typing import Any, Literal

from pydantic import BaseModel, ConfigDict

from segops.params.gate import GateParams
from segops.release.evidence import Challenger, Evidence, Identical
from segops.release.gate_checks import CHECKS, Check

Verdict = Literal["promoted", "rejected", "inconclusive", "unchanged"]
TELLING = ("mIoU", "champion")
"""Names of the checks that say why a challenger was promoted."""


class Decision(BaseModel):
    """What the gate decided.

    Attributes:
        verdict: `promoted` (may become champion), `rejected`, `inconclusive`, or `unchanged` (the
            challenger is the champion).
        checks: Every question with its answer.
        model: Name of the registered model.
        version: The challenger's version; empty where it could not be established.
        run_id: Its run.
        champion_version: The champion that it was held against; None: there was none.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    verdict: Verdict
    checks: tuple[Check, ...]
    model: str = ""
    version: str = ""
    run_id: str = ""
    champion_version: str | None = None

    @property
    def reason(self) -> str:
        """The sentences of the checks that decided: failed, else undecided, else about mIoU."""
        told = (
            [check for check in self.checks if check.outcome == "failed"]
            or [check for check in self.checks if check.outcome == "undecided"]
            or [check for check in self.checks if check.name in TELLING]
            or list(self.checks)
        )
        return " ".join(dict.fromkeys(check.sentence for check in told))


def decide(evidence: Evidence, policy: GateParams) -> Decision:
    """Decide whether the challenger may become champion.

    The verdict is `rejected` when any check failed for certain, `inconclusive` when the only ones
    that did not pass are comparisons that the images are too few to decide, else `promoted`.
    A challenger that is the champion itself is `unchanged`.

    Args:
        evidence: What is known.
        policy: What is required.
    """
    challenger = evidence.challenger
    known: dict[str, Any] = {}
    if isinstance(challenger, Challenger):
        known = {
            "model": challenger.model,
            "version": challenger.version,
            "run_id": challenger.run_id,
            "champion_version": evidence.champion_version,
        }
        if isinstance(evidence.champion, Identical):
            return Decision(verdict="unchanged", checks=(_unchanged(evidence.champion),), **known)
    answers = [check(evidence, policy) for check in CHECKS]
    checks = tuple(check for one in answers for check in ([one] if isinstance(one, Check) else one))
    outcomes = {check.outcome for check in checks}
    verdict: Verdict = (
        "rejected"
        if "failed" in outcomes
        else "inconclusive"
        if "undecided" in outcomes
        else "promoted"
    )
    return Decision(verdict=verdict, checks=checks, **known)


def _unchanged(champion: Identical) -> Check:
    return Check(
        name="unchanged",
        passed=True,
        observed=champion.version,
        required=champion.version,
        sentence=f"Version {champion.version} is the champion already: nothing to decide.",
    )
