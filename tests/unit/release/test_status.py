"""What `segops status` tells of the ledger: each thing that happened once, in words."""

from __future__ import annotations

from segops.release.chain import EntryKind
from segops.release.ledger import Ledger
from segops.release.status import Event, events


def told(ledger: Ledger) -> list[tuple[str, str, str]]:
    found: list[Event] = events(ledger.entries())
    return [(one.what, one.version, one.reason) for one in found]


def test_a_promotion_is_told_once(ledger: Ledger) -> None:
    decided = ledger.append("decision", verdict="promoted", reason="Good.", by="me", version="1")
    assert told(ledger) == [("passed the gate", "1", "Good.")]
    intent = ledger.append(
        "intent", verdict="promote", reason="Good.", by="me", version="1",
        details={"decision": decided.sequence},
    )  # fmt: skip
    assert told(ledger) == [("promoted to champion (begun, not ended)", "1", "Good.")]
    end = {"intent": intent.sequence}
    ledger.append("done", verdict="promote", reason="Good.", by="me", version="1", details=end)
    assert told(ledger) == [("promoted to champion", "1", "Good.")]


def test_every_other_event_is_told_as_what_it_is(ledger: Ledger) -> None:
    for verdict in ("rejected", "inconclusive"):
        ledger.append("decision", verdict=verdict, reason="Why.", by="me", version="2")
    ledger.append("observed", verdict="observed", reason="Set.", by="me", version="3")
    kinds: tuple[tuple[EntryKind, str], ...] = (("done", "4"), ("abandoned", "5"))
    for kind, version in kinds:
        intent = ledger.append(
            "intent", verdict="rollback", reason="Bad.", by="me", version=version
        )
        end = {"intent": intent.sequence}
        ledger.append(
            kind, verdict="rollback", reason="Bad.", by="me", version=version, details=end
        )
    assert [one[:2] for one in told(ledger)] == [
        ("rejected", "2"),
        ("inconclusive", "2"),
        ("champion set by other means", "3"),
        ("rolled back", "4"),
        ("rolled back (abandoned)", "5"),
    ]
