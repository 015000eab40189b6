"""Whether the statement of a version's decision vouches for the lineage in the version's tags."""

from __future__ import annotations

from segops import files
from segops.record.lineage import PREFIX
from segops.release import kept_statements, releases, statement, verify
from segops.release.ledger import Ledger
from segops.release.versions import Version


def why_not(ledger: Ledger, version: Version) -> str | None:
    """Return why no statement names what a version's tags name, in words; None where one does.

    The ledger holds the statement's digest, and nobody can change the ledger unnoticed. Whoever may
    write to the record may change tags.

    Args:
        ledger: The ledger of the model.
        version: The version.

    Raises:
        TamperedError: The ledger was tampered with.
        MlflowException: MLflow does not answer.
    """
    entry = releases.deciding(ledger.entries(), version.number)
    if entry is None:
        return "the ledger holds no decision on it, and so no statement"
    digest = entry.details.get(kept_statements.KEY)
    if digest is None:
        return f"entry {entry.sequence} of the ledger is from before decisions had statements"
    path = kept_statements.artifact_path(entry)
    content = kept_statements.content(ledger, entry)
    if content is None:
        return f"its run lacks the statement {path}"
    if files.sha256_bytes(content) != digest:
        return f"{path} of its run is not the statement that the ledger names"
    try:
        stated = verify.read(content, path)
    except verify.StatementError as error:
        return f"the statement cannot be read here ({error})"
    others = statement.other_materials(stated, version.tags, PREFIX)
    if others:
        return f"its tags name other {', '.join(others)} than the statement of its decision"
    return None
