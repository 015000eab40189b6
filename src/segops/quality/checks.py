"""The results of checking a data set, as plain values."""

from __future__ import annotations

from collections import defaultdict
from dataclasses import asdict, dataclass, field
from typing import Any

from segops.quality.duplicates import Duplicate

MOST_PAIRS = 1000
"""Pairs of near-duplicates that are written, those across splits first; there may be millions."""


@dataclass(frozen=True)
class Finding:
    """A defect of a file; `file` is relative to the data set's root, with forward slashes."""

    file: str
    message: str


@dataclass(frozen=True)
class DataCheck:
    """The result of an expectation on the data.

    Attributes:
        name: Short name, for a table.
        expected: What was expected, a sentence.
        passed: Whether the data met the expectation; False if it could not be evaluated.
        observed: What was observed, a sentence.
        action: What to do if it failed, a sentence.
        errored: The expectation could not be evaluated; nothing is known about the data.
        findings: What is wrong, by file; empty where the check passed.
        expectation: The evaluated expectation: its type and arguments.
        rows: The (image id, split) of every row of the facts that does not meet it.
    """

    name: str
    expected: str
    passed: bool
    observed: str
    action: str
    errored: bool = False
    findings: tuple[Finding, ...] = ()
    expectation: dict[str, Any] = field(default_factory=dict)
    rows: tuple[tuple[str, str], ...] = ()


@dataclass(frozen=True)
class Notice:
    """What should be looked at in data that may be trained on.

    Attributes:
        name: Short name, for a table.
        found: What was found, one sentence or more.
        parameter: The parameters that help; perhaps none.
        action: What to do, a sentence.
    """

    name: str
    found: str
    parameter: str
    action: str


@dataclass(frozen=True)
class Validation:
    """All checks of a data set.

    Attributes:
        checks: The checks, in reading order.
        images: Listed images by split.
        warnings: What should be looked at; it fails nothing.
        duplicates: Pairs that show the same picture, those across splits first.
    """

    checks: tuple[DataCheck, ...]
    images: dict[str, int] = field(default_factory=dict)
    warnings: tuple[Notice, ...] = ()
    duplicates: tuple[Duplicate, ...] = ()

    @property
    def passed(self) -> bool:
        """Whether there is a check and every check passed."""
        return bool(self.checks) and all(check.passed for check in self.checks)

    @property
    def findings(self) -> dict[str, tuple[str, ...]]:
        """The messages by file, files in alphabetical order."""
        by_file: dict[str, list[str]] = defaultdict(list)
        for check in self.checks:
            for finding in check.findings:
                by_file[finding.file].append(finding.message)
        return {file: tuple(by_file[file]) for file in sorted(by_file)}

    def to_json(self) -> dict[str, Any]:
        """Return the validation as JSON values."""
        return {
            "passed": self.passed,
            "images": self.images,
            "checks": [asdict(check) for check in self.checks],
            "warnings": [asdict(warning) for warning in self.warnings],
            "near_duplicates": [asdict(pair) for pair in self.duplicates[:MOST_PAIRS]],
            "all_near_duplicates": len(self.duplicates),
            "files": self.findings,
        }
