"""The statement of a decision: what was decided, on what, and the counts to decide it again.

A statement is an in-toto Statement in a DSSE envelope, kept in one archive with the per-image
counts of all models compared. It names the entry of the ledger that it follows, and the decision's
entry holds its digest. This module needs no MLflow.

Source:
    in-toto Attestation Framework, Statement v1,
    https://github.com/in-toto/attestation/blob/main/spec/v1/statement.md
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, fields, is_dataclass
from typing import Any, get_args, get_type_hints

from pydantic import BaseModel, ConfigDict, TypeAdapter, ValidationError

from segops.release import archive, pairing, signing
from segops.release.chain import finite
from segops.release.check import Check
from segops.release.evidence import Evidence
from segops.release.pairing import PairedCounts

TYPE = "https://in-toto.io/Statement/v1"
PREDICATE = "https://segops.dev/decision/v1"
STATEMENT, PUBLIC_KEY = "statement.json", "key.pem"
MATERIALS: dict[str, tuple[str, str]] = {
    "data_hash": ("data", "sha256"),
    "data_md5": ("data", "md5"),
    "val_hash": ("val", "sha256"),
    "code_commit": ("code", "gitCommit"),
    "code_patch": ("code.patch", "sha256"),
    "package_commit": ("packaging code", "gitCommit"),
    "package_code_patch": ("packaging code.patch", "sha256"),
    "package_environment": ("packaging environment.txt", "sha256"),
    "dvc_lock": ("dvc.lock", "sha256"),
    "params": ("params.yaml", "sha256"),
    "trained_with": ("trained_with.yaml", "sha256"),
    "environment": ("environment.txt", "sha256"),
    "weights_sha256": ("weights.safetensors", "sha256"),
    "start_sha256": ("encoder weights", "sha256"),
    "teacher_digest": ("teacher", "sha256"),
    "unlabelled_hash": ("unlabelled images", "sha256"),
}
"""Field of the lineage -> name of the material, and the kind of its digest."""
NOTES = {
    "code_differs": ("code", "differs from its commit"),
    "package_code_differs": ("packaging code", "differs from its commit"),
    "weights_licence": ("encoder weights", "licence"),
}
"""Field of the lineage that is no digest -> name of the material, and name of the annotation."""


class Model(BaseModel):
    """A model whose counts a statement holds.

    Attributes:
        version: Its version.
        bundle_digest: SHA-256 of its artifact.
        counts: SHA-256 of its counts; see :func:`segops.release.pairing.digest`.
        seen: SHA-256 of the images of val that it was trained on.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    version: str
    bundle_digest: str
    counts: str
    seen: tuple[str, ...]

    @property
    def member(self) -> str:
        """The counts' name in the archive."""
        return f"counts/{self.bundle_digest}.csv"


class Material(BaseModel):
    """Something that a version was made from: an in-toto resource descriptor.

    Attributes:
        name: Its name.
        digest: Kind of digest -> digest.
        annotations: What else is known of it.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    name: str
    digest: dict[str, str]
    annotations: dict[str, str]


class LedgerPlace(BaseModel):
    """The place of a decision in its ledger.

    Attributes:
        name: The ledger's name.
        entry: Number of the decision's entry.
        previous: SHA-256 of the entry before it.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    name: str
    entry: int
    previous: str


class StatedCheck(BaseModel):
    """A check without its sentence, whose words change over time."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    name: str
    outcome: str
    observed: float | str | None
    required: float | str

    @classmethod
    def of(cls, check: Check) -> StatedCheck:
        """Return what is stated of a check."""
        return cls(
            name=check.name,
            outcome=check.outcome,
            observed=check.observed,
            required=check.required,
        )


class Predicate(BaseModel):
    """What a statement says about its subject, a version.

    Attributes:
        segops: Version of segops that decided.
        registry: The registry's address without credentials, or `local`.
        model: Name of the registered model.
        version: The version.
        bundle_digest: SHA-256 of its artifact.
        run_id: Its run.
        by: Who or what started the decision.
        ledger: Its place in the ledger.
        materials: What the version was made from.
        policy: Section `gate` of the parameters; it holds seed, resamples and level of the
            bootstrap.
        class_names: The classes in id order.
        models: The models whose counts are in the archive, the challenger first.
        best: The versions of the best releases that the challenger was compared with.
        evidence: All evidence; see :func:`shown`.
        checks: The checks' results.
        verdict: The verdict.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    segops: str
    registry: str
    model: str
    version: str
    bundle_digest: str
    run_id: str
    by: str
    ledger: LedgerPlace
    materials: tuple[Material, ...]
    policy: dict[str, Any]
    class_names: tuple[str, ...]
    models: tuple[Model, ...]
    best: tuple[str, ...]
    evidence: dict[str, Any]
    checks: tuple[StatedCheck, ...]
    verdict: str


def described(counts: Sequence[PairedCounts]) -> tuple[Model, ...]:
    """Return what is stated of models whose counts are in the archive."""
    return tuple(
        Model(
            version=one.version,
            bundle_digest=one.bundle_digest,
            counts=pairing.digest(one.counts),
            seen=tuple(sorted(one.trained_on & set(one.counts["image_sha256"]))),
        )
        for one in counts
    )


def materials(tags: Mapping[str, str], prefix: str) -> tuple[Material, ...]:
    """Return what a version was made from.

    Args:
        tags: The version's tags.
        prefix: What stands before the fields of the lineage in the tags.
    """
    found: dict[str, Material] = {}
    for table, part in ((MATERIALS, "digest"), (NOTES, "annotations")):
        for field, (name, kind) in table.items():
            if value := tags.get(prefix + field):
                material = found.setdefault(name, Material(name=name, digest={}, annotations={}))
                getattr(material, part)[kind] = value
    return tuple(found.values())


def other_materials(stated: Predicate, tags: Mapping[str, str], prefix: str) -> list[str]:
    """Return the names of the materials that tags name otherwise than a statement.

    Args:
        stated: What was stated.
        tags: The version's tags.
        prefix: As of :func:`materials`.
    """
    then = {one.name: one for one in stated.materials}
    now = {one.name: one for one in materials(tags, prefix)}
    return sorted(name for name in then.keys() | now.keys() if then.get(name) != now.get(name))


def tree(predicate: Predicate) -> dict[str, Any]:
    """Return the statement as JSON."""
    subject = {
        "name": f"models:/{predicate.model}/{predicate.version}",
        "digest": {"sha256": predicate.bundle_digest},
    }
    return {
        "_type": TYPE,
        "subject": [subject],
        "predicateType": PREDICATE,
        "predicate": predicate.model_dump(mode="json"),
    }


def write(predicate: Predicate, counts: Sequence[PairedCounts]) -> bytes:
    """Return the archive of a statement, signed where :data:`segops.release.signing.KEY` is set.

    Args:
        predicate: What is stated.
        counts: The counts of its models, in their order.

    Raises:
        SegopsError: The key cannot be used.
    """
    private = signing.signer()
    members = {STATEMENT: to_bytes(signing.enveloped(to_bytes(tree(predicate)), private))}
    if private is not None:
        members[PUBLIC_KEY] = signing.public_pem(private)
    for model, one in zip(predicate.models, counts, strict=True):
        members[model.member] = pairing.to_bytes(one.counts)
    return archive.write(members)


def to_bytes(content: Any) -> bytes:
    """Return JSON in the form in which statements hold it."""
    return json.dumps(
        content, allow_nan=False, ensure_ascii=False, sort_keys=True, separators=(",", ":")
    ).encode()


def shown(found: Evidence) -> dict[str, Any]:
    """Return evidence as JSON; each part that is no plain value names its kind."""
    parts: dict[str, Any] = {}
    for field in fields(found):
        value = getattr(found, field.name)
        if is_dataclass(value) and not isinstance(value, type):
            parts[field.name] = finite({"kind": type(value).__name__, **asdict(value)})
        else:
            parts[field.name] = finite(value)
    return parts


def read_evidence(parts: Mapping[str, Any]) -> Evidence:
    """Return the evidence that :func:`shown` returned; a part that is absent has its default.

    Raises:
        ValueError: A part is of another form.
    """
    if not isinstance(parts, dict):
        raise ValueError("evidence is no mapping")
    hints = get_type_hints(Evidence)
    values: dict[str, Any] = {}
    for name, value in parts.items():
        if name not in hints:
            raise ValueError(f"evidence.{name} is not known")
        options = get_args(hints[name]) or (hints[name],)
        kinds: dict[str, Any] = {kind.__name__: kind for kind in options if isinstance(kind, type)}
        if not isinstance(value, dict):
            values[name] = valid(hints[name], value, f"evidence.{name}")
            continue
        kind = kinds.get(str(value.get("kind")))
        if kind is None:
            raise ValueError(f"evidence.{name} is of the kind {value.get('kind')}")
        content = {key: part for key, part in value.items() if key != "kind"}
        if unknown := content.keys() - {field.name for field in fields(kind)}:
            raise ValueError(f"evidence.{name}.{min(unknown)} is not known")
        values[name] = valid(kind, content, f"evidence.{name}")
    try:
        return Evidence(**values)
    except TypeError as error:
        raise ValueError(str(error)) from None


def valid(kind: Any, content: Any, name: str) -> Any:
    """Return JSON as a value of a type; nothing is converted.

    Args:
        kind: The type.
        content: The JSON.
        name: Its name, for the message.

    Raises:
        ValueError: It is of another form; one line names the place.
    """
    try:
        return TypeAdapter(kind).validate_json(to_bytes(content), strict=True)
    except ValidationError as error:
        first = error.errors()[0]
        place = ".".join(map(str, (name, *first["loc"])))
        raise ValueError(f"{place} is not known to this segops: {first['msg']}") from None
