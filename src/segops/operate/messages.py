"""The messages that people get: what happened, why, the numbers, and where to look."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from segops.failure import shortened
from segops.operate.automations import model_resource
from segops.params.notify import Event
from segops.report.figures import sentence

if TYPE_CHECKING:
    from segops.operate.drift import Monitored
    from segops.release.gate import Decision
    from segops.release.smoke import Smoke

Kind = Literal["good", "look", "bad"]
LONGEST = 3000
"""Characters of a message; Slack cuts at 3000 and Discord refuses more than 4096."""
WORDS: Mapping[str, str] = {
    "promoted": "is promoted",
    "candidate": "waits for approval",
    "rejected": "is rejected",
    "inconclusive": "is neither promoted nor rejected: the comparison cannot decide",
    "withdrawn": "is taken back",
}


@dataclass(frozen=True)
class Message:
    """A message.

    Attributes:
        event: What happened.
        subject: The same in a sentence without its full stop.
        lines: Cause, numbers and links.
        resource: What it is about, as an id for events.
        figures: Numbers, for programs.
    """

    event: Event
    subject: str
    lines: tuple[str, ...]
    resource: str = "segops"
    figures: Mapping[str, Any] = field(default_factory=dict)

    @property
    def body(self) -> str:
        """The lines as a text of bounded length."""
        return shortened("\n".join(line for line in self.lines if line), LONGEST)

    @property
    def kind(self) -> Kind:
        """Whether it is good news, asks for a look, or is bad."""
        return "good" if self.event == "promoted" else "bad" if self.event == "failed" else "look"


def decided(
    decision: Decision,
    *,
    version: str = "",
    evaluation: Mapping[str, Any] | None = None,
    smoke: Smoke | None = None,
    links: Iterable[str] = (),
) -> Message | None:
    """Return the message of a decision of the gate; None where the model was the champion already.

    Args:
        decision: The decision.
        version: The version; without it, that of the decision.
        evaluation: The content of ``metrics/evaluation.json``.
        smoke: The result of the smoke test, if one was made.
        links: Further lines.
    """
    from segops.release.gate import REASONS_TO_PROMOTE

    is_withdrawn = smoke is not None and not smoke.passed
    verdict = "withdrawn" if is_withdrawn else decision.verdict
    if verdict == "unchanged":
        return None
    number = smoke.version if smoke is not None and is_withdrawn else version or decision.version
    compared = [one.sentence for one in decision.checks if one.name in REASONS_TO_PROMOTE]
    lines = [
        f"{sentence(evaluation)}." if evaluation else "",
        decision.reason,
        *(one for one in compared if one not in decision.reason),
        smoke.sentence if smoke is not None else "",
        f"segops approve {number} --reason WHY" if verdict == "candidate" else "",
        *links,
    ]
    known = (
        {name: evaluation.get(name) for name in ("miou", "miou_low", "miou_high")}
        if (evaluation)
        else {}
    )
    return Message(
        verdict,
        f"{decision.model} version {number} {WORDS[verdict]}",
        tuple(lines),
        resource=f"segops.model-version.{decision.model}.{number}",
        figures={**known, "champion": decision.champion_version},
    )


def drifted(found: Monitored, links: Iterable[str] = ()) -> Message:
    """Return the message of a drift.

    Args:
        found: The comparison.
        links: Further lines.
    """
    lines = [
        f"{test.name}: {', '.join([f'p {test.corrected:.4f}', *found.changes(test, 3)])}"
        for test in found.drift.tests
        if test.drifted
    ]
    return Message(
        "drift",
        f"{found.registered}: {found.sentence.rstrip('.')}",
        (*lines, *found.notes, f"Page: {found.page}", *links),
        resource=model_resource(found.registered),
        figures={test.name: test.corrected for test in found.drift.tests},
    )


def version_page(root: Path, model: str, version: str) -> list[str]:
    """Return a line with the address of a version's page, where MLflow has a server."""
    from segops.record.tracking import tracking_uri, without_credentials

    address = without_credentials(tracking_uri(root)).rstrip("/")
    if not version or not address.startswith(("http://", "https://")):
        return []
    return [f"Version: {address}/#/models/{model}/versions/{version}"]


def failed(what: str, cause: str, links: Iterable[str] = ()) -> Message:
    """Return the message of a run that failed.

    Args:
        what: The run, such as "the run quick-fox of retrain".
        cause: Why.
        links: Further lines.
    """
    return Message("failed", f"{what} failed", (cause, *links), resource="segops.run")
