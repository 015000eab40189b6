"""Links of an audit to what was decided: counts, ledger, decision, statement, approval."""

from __future__ import annotations

import io
import math
from collections.abc import Sequence

import pandas as pd

from segops import files, paths
from segops.evaluate.bootstrap import miou_from_counts, true_classes
from segops.record.lineage import PREFIX
from segops.record.update import COUNTS
from segops.release import kept_statements, pairing, releases, verify, versions
from segops.release import statement as statements
from segops.release.approval import is_trusted, told
from segops.release.audit_case import Absent, Case, require_same
from segops.release.chain import Entry
from segops.runtime.errors import SegopsError

SAME_MIOU = 1e-6
"""Largest difference by rounding of an mIoU in a tag."""


def counts(case: Case) -> str:
    """The per-image counts are those of the decisions, and give the mIoU of the version."""
    if not case.is_latest:
        raise Absent("The run was evaluated again since, and holds the counts of that evaluation.")
    content = case.held(paths.COUNTS.as_posix())
    if content is None:
        raise Absent(f"The run holds no {paths.COUNTS}.")
    require_same(
        f"SHA-256 of {paths.COUNTS}", case.run.data.tags.get(COUNTS), files.sha256_bytes(content)
    )
    try:
        table = pd.read_parquet(io.BytesIO(content))
        found = miou_from_counts(table, true_classes(table))
        digest = pairing.digest(table)
    except (ValueError, KeyError, TypeError, OSError) as error:
        raise SegopsError(f"{paths.COUNTS} is not readable: {error}") from None
    score = f"{found:.6f}"
    for what, stated in (
        ("tag of the version", case.version.miou),
        ("metric of the run", case.run.data.metrics.get("miou")),
    ):
        if stated is not None and not math.isclose(stated, found, abs_tol=SAME_MIOU):
            raise SegopsError(f"mIoU in the {what} is {stated:.6f}, the counts give {score}.")
    key = (case.version.bundle_digest, case.stated("val_hash"))
    known = releases.read(_entries(case)).counts.get(key)
    if known is None:
        return f"The counts give mIoU {score}; no decision in the ledger names their digest."
    if digest not in known:
        raise SegopsError(f"The counts have the digest {digest}, which no decision names.")
    return f"The counts are those of the decision, and give mIoU {score}."


def ledger(case: Case) -> str:
    """The ledger holds all of its entries, as they were written."""
    return f"{case.ledger.name} has {len(case.entries)} entries, each follows the one before."


def decision(case: Case) -> str:
    """The gate decided on this artifact."""
    entry = _decision(case)
    require_same(
        f"Bundle in entry {entry.sequence}",
        entry.details.get("bundle_digest"),
        case.version.bundle_digest,
    )
    withdrawn = releases.read(case.entries).withdrawn.get(case.version.number)
    require_same(f"Tag {versions.WITHDRAWN}", case.version.withdrawn, withdrawn)
    after = "" if withdrawn is None else f" Withdrawn by a rollback: {withdrawn}"
    when = entry.time[:16].replace("T", " ")
    return f"Entry {entry.sequence}: {entry.verdict} at {when} UTC by {entry.by}.{after}"


def statement(case: Case) -> str:
    """The decision's statement is the one in the ledger, holds, and names what the tags name."""
    entry = _decision(case)
    digest = entry.details.get(kept_statements.KEY)
    if digest is None:
        raise Absent(f"Entry {entry.sequence} is from before decisions had statements.")
    path = kept_statements.artifact_path(entry)
    content = case.held(path)
    if content is None:
        raise Absent(
            f"The run holds no {path}. The checkout that decided may still keep it; its next "
            "`segops promote` uploads it."
        )
    # First, because it names the part that was changed.
    verified = verify.verify_bytes(content, path, case.key)
    require_same(f"SHA-256 of {path}", digest, files.sha256_bytes(content))
    stated = verified.stated
    require_same(
        f"{path}: place in the ledger",
        (stated.ledger.entry, stated.ledger.previous, stated.verdict),
        (entry.sequence, entry.previous, entry.verdict),
    )
    now = {one.name: one for one in statements.materials(case.tags, PREFIX)}
    for one in stated.materials:
        require_same(f"{path}: {one.name}", one, now.get(one.name))
    if verified.key is None:
        return "The counts in it give the verdict. It is not signed."
    whose = "the key given" if verified.is_vouched else "a key that nobody vouches for"
    return f"The counts in it give the verdict. It is signed with {whose}, {verified.key[:12]}."


def approval(case: Case) -> str:
    """Who approved it, where the policy asked for an approval."""
    decided = _decision(case)
    approved = [
        entry
        for entry in case.entries
        if entry.kind == "approved" and entry.details.get("decision") == decided.sequence
    ]
    if approved:
        entry = approved[-1]
        words = f"Entry {entry.sequence}: {told(entry, decided)}: {entry.reason}"
        if not is_trusted(entry, decided):
            raise SegopsError(words)
        return words
    asked = decided.details.get("policy", {}).get("approval", "none")
    if asked != "none":
        raise Absent("The policy asks for an approval, and the ledger holds none.")
    return "The policy asked for none."


def _entries(case: Case) -> Sequence[Entry]:
    """Return the entries; none where the ledger was tampered with, a link of its own."""
    try:
        return case.entries
    except SegopsError:
        return ()


def _decision(case: Case) -> Entry:
    """Return the decision that made the version champion, else the last one on it."""
    try:
        entries = case.entries
    except SegopsError:
        raise Absent("The ledger cannot be trusted, see there.") from None
    ours = [entry for entry in entries if entry.version == case.version.number]
    decisions = {entry.sequence: entry for entry in ours if entry.kind == "decision"}
    if not decisions:
        raise Absent(f"The ledger holds no decision on version {case.version.number}.")
    ended = {number: end.kind for number, end in releases.ends(entries).items()}
    carried_out = [
        entry.details.get("decision")
        for entry in ours
        if entry.kind == "intent" and ended.get(entry.sequence) == "done"
    ]
    known = [decisions[number] for number in carried_out if number in decisions]
    return known[-1] if known else decisions[max(decisions)]
