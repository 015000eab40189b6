"""The gate: a pure function from evidence and policy to a decision.

It fails closed: what could not be established is :class:`Unknown` in the evidence, so an outage is
never read as "there is no champion yet". The checks are in :mod:`segops.release.gate_checks`.
"""

from __future__ import annotations

from typing import Any, Literal

from pydantic import BaseModel, ConfigDict

from segops.params.gate import GateParams
from segops.release.check import Check
from segops.release.evidence import Challenger, Evidence, Identical
from segops.release.gate_checks import CHECKS

Verdict = Literal["promoted", "candidate", "rejected", "inconclusive", "unchanged"]
REASONS_TO_PROMOTE = ("mIoU", "champion")
"""Names of the checks whose sentences give the reason of a promotion."""


class Decision(BaseModel):
    """The gate's decision.

    Attributes:
        verdict: `promoted` (may become champion), `candidate` (may once a person approves),
            `rejected`, `inconclusive`, or `unchanged` (the
            challenger is the champion).
        checks: Every check with its result.
        model: Name of the registered model.
        version: The challenger's version; empty where it could not be established.
        run_id: Its run.
        champion_version: The champion that it was compared with; None without a champion.
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
        decisive = (
            [check for check in self.checks if check.outcome == "failed"]
            or [check for check in self.checks if check.outcome == "undecided"]
            or [check for check in self.checks if check.name in REASONS_TO_PROMOTE]
            or list(self.checks)
        )
        return " ".join(dict.fromkeys(check.sentence for check in decisive))


def decide(evidence: Evidence, policy: GateParams) -> Decision:
    """Decide whether the challenger may become champion.

    The verdict is `rejected` when a check failed, `inconclusive` when no check failed and a
    comparison has too few images to decide, else `candidate` where the policy requires an approval,
    else `promoted`. A challenger that is the champion
    itself is `unchanged`.

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
    results = [check(evidence, policy) for check in CHECKS]
    checks = tuple(
        check for result in results for check in ([result] if isinstance(result, Check) else result)
    )
    outcomes = {check.outcome for check in checks}
    verdict: Verdict = (
        "rejected"
        if "failed" in outcomes
        else "inconclusive"
        if "undecided" in outcomes
        else "candidate"
        if policy.approval == "required"
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
