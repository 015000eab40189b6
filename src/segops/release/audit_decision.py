"""Links of an audit to what was decided: counts, ledger, decision, statement, approval."""

from __future__ import annotations

import io
import math

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
    known = releases.read(case.trusted).counts.get(key)
    if known is None:
        raise Absent(f"The counts give mIoU {score}, and no decision names their digest.")
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
    try:
        entry = _decision(case)
        path, content = _statement(case, entry)
    except Absent as error:
        if case.key is None:
            raise
        raise SegopsError(f"{error} --key demands a statement that the key signed.") from None
    digest = entry.details[kept_statements.KEY]
    # First, because it names the part that was changed.
    verified = verify.verify_bytes(content, path, case.key)
    require_same(f"SHA-256 of {path}", digest, files.sha256_bytes(content))
    stated = verified.stated
    require_same(
        f"{path}: place in the ledger",
        (stated.ledger.name, stated.ledger.entry, stated.ledger.previous, stated.verdict),
        (case.ledger.name, entry.sequence, entry.previous, entry.verdict),
    )
    for what, said, found in (
        ("model", stated.model, case.ledger.model),
        ("version", stated.version, case.version.number),
        ("run", stated.run_id, case.version.run_id),
        ("bundle", stated.bundle_digest, case.version.bundle_digest),
    ):
        require_same(f"{path}: {what}", said, found)
    if others := statements.other_materials(stated, case.tags, PREFIX):
        raise SegopsError(f"{path}: the version's tags name other {', '.join(others)}.")
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


def _statement(case: Case, entry: Entry) -> tuple[str, bytes]:
    """Return path and content of the statement of a decision, which may be another one."""
    if kept_statements.KEY not in entry.details:
        raise Absent(f"Entry {entry.sequence} is from before decisions had statements.")
    path, content = kept_statements.artifact_path(entry), None
    if entry.run_id:
        content = kept_statements.content(case.ledger, entry)
    if content is None:
        raise Absent(
            f"The run holds no {path}. The checkout that decided may still keep it; its next "
            "`segops promote` uploads it."
        )
    return path, content


def _decision(case: Case) -> Entry:
    try:
        entries = case.entries
    except SegopsError:
        raise Absent("The ledger cannot be trusted, see there.") from None
    found = releases.deciding(entries, case.version.number)
    if found is None:
        raise Absent(f"The ledger holds no decision on version {case.version.number}.")
    return found
