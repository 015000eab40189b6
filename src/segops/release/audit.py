"""Audits a version: computes each link of its lineage again, from the registry to the data.

A link is `verified`, `broken`, or `not to be had` where what it needs is not here; the sentence
says what is missing.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import yaml
from mlflow.exceptions import MlflowException

from segops import files
from segops.params.file import load_params
from segops.record.tracking import Store, is_missing, session
from segops.release import audit_decision, audit_files, audit_record, signing, versions
from segops.release.audit_case import Absent, Case
from segops.release.ledger import Ledger
from segops.release.versions import Version
from segops.runtime.errors import SegopsError
from segops.words import first_line

Outcome = Literal["verified", "broken", "not to be had"]
MALFORMED = (
    ValueError, LookupError, TypeError, AttributeError, ArithmeticError, RecursionError,
    yaml.YAMLError,
)  # fmt: skip
"""What parsers raise on a file or tag of another form than segops wrote."""
LINKS: tuple[tuple[str, Callable[[Case], str]], ...] = (
    ("run", audit_record.run),
    ("artifact", audit_record.artifact),
    ("weights", audit_record.weights),
    ("code", audit_files.code),
    ("patch", audit_files.patch),
    ("environment", audit_files.environment),
    ("parameters", audit_files.parameters),
    ("dvc.lock", audit_files.dvc_lock),
    ("data", audit_files.data),
    ("counts", audit_decision.counts),
    ("ledger", audit_decision.ledger),
    ("decision", audit_decision.decision),
    ("statement", audit_decision.statement),
    ("approval", audit_decision.approval),
)
"""Each link's name, and the function that returns what was verified, or raises what is wrong."""


@dataclass(frozen=True)
class Link:
    """A link of a version's lineage.

    Attributes:
        name: Its name.
        outcome: Whether it holds.
        sentence: What was verified, what is wrong, or what is missing.
    """

    name: str
    outcome: Outcome
    sentence: str


@dataclass(frozen=True)
class Audit:
    """The audit of a version.

    Attributes:
        model: Name of the registered model.
        version: The version.
        links: Its links, in the order in which they were made.
    """

    model: str
    version: str
    links: tuple[Link, ...]

    def names(self, outcome: Outcome) -> list[str]:
        """Return the names of the links with this outcome."""
        return [link.name for link in self.links if link.outcome == outcome]


def audit(root: Path, version: str, key: Path | None = None) -> Audit:
    """Audit a version. Nothing is changed.

    Args:
        root: The workspace.
        version: Its number, or an alias.
        key: A PEM file with the public key that must have signed its statement; None: its own key.

    Raises:
        TransientError: MLflow does not answer.
        SegopsError: There is no such version, no record, or the key is none.
    """
    settings = load_params(root)
    given = None if key is None else signing.public_key(key)
    model = settings.registry.model
    with session(root, settings.registry, create=False) as store:
        found = _version(store, model, version)
        with files.scratch() as scratch:
            ledger = Ledger(store, root, model)
            case = Case(root, settings, store, ledger, found, scratch, given)
            return Audit(model, found.number, tuple(_links(case)))


def _version(store: Store, model: str, name: str) -> Version:
    number = name
    if not name.isdecimal():
        aliases = versions.aliases(store, model)
        if name not in aliases:
            raise SegopsError(
                f"{model}: no version has the alias {name!r} (it has: "
                f"{', '.join(aliases) or 'none'}). Expected a number or an alias."
            )
        number = aliases[name]
    try:
        return versions.get(store, model, number)
    except MlflowException as error:
        if not is_missing(error) and error.error_code != "INVALID_PARAMETER_VALUE":
            raise
        raise SegopsError(
            f"{model} has no version {number}. `segops status` lists those with an alias; "
            "`segops run` makes one."
        ) from None


def _links(case: Case) -> Iterator[Link]:
    for name, verify in LINKS:
        try:
            yield Link(name, "verified", verify(case))
        except Absent as error:
            yield Link(name, "not to be had", str(error))
        except SegopsError as error:
            yield Link(name, "broken", str(error))
        except MlflowException as error:
            if not is_missing(error):
                raise
            yield Link(name, "not to be had", f"MLflow lacks it: {error.message}")
        except MALFORMED as error:
            said = first_line(error)
            yield Link(name, "broken", f"What it reads is not of the form that was written: {said}")
