"""Links of an audit in the registry: run, artifact, weights."""

from __future__ import annotations

from segops import files
from segops.predict.bundle import bundle_digest
from segops.record import lineage
from segops.record.lineage import tag
from segops.release import releases
from segops.release.audit_case import Absent, Case, require_same
from segops.runtime import opener


def run(case: Case) -> str:
    """The run is there, and its tags are those of the version."""
    tags = case.run.data.tags
    names = [*lineage.ORIGIN_FIELDS, *lineage.TRAINING_FIELDS]
    names += [lineage.PATCH_FIELD, lineage.FIRST_PARAMS_FIELD, *lineage.MADE_FROM_FIELDS]
    if case.is_latest:
        names += [*lineage.DATA_FIELDS, *lineage.PACKAGE_FIELDS]
    stated = [tag(name) for name in names if tag(name) in case.tags]
    for name in stated:
        require_same(f"Tag {name} of version and run", case.tags[name], tags.get(name))
    missing = lineage.missing(case.tags)
    if missing:
        raise Absent(f"The version lacks {', '.join(missing)} of its lineage.")
    later = "" if case.is_latest else " The run was evaluated again since."
    return f"Run {case.version.run_id} has the same {len(stated)} tags.{later}"


def artifact(case: Case) -> str:
    """The registered files have the digest that was registered and decided on."""
    digest = bundle_digest(case.bundle)
    require_same("Digest of the bundle", case.version.bundle_digest, digest)
    released = releases.read(case.trusted).digests.get(case.version.number)
    if released is not None:
        require_same("Digest of the bundle that the ledger released", released, digest)
    return f"Its files have the digest {digest}."


def weights(case: Case) -> str:
    """The weights are those that the training wrote."""
    found = files.sha256_file(case.bundle / opener.WEIGHTS)
    require_same(f"SHA-256 of {opener.WEIGHTS}", case.stated("weights_sha256"), found)
    return f"Its weights have the SHA-256 {found}."
