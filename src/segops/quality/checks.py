"""What came out of checking a data set: plain values that pages, files and terminals show."""

from __future__ import annotations

from collections import defaultdict
from dataclasses import asdict, dataclass, field
from typing import Any


@dataclass(frozen=True)
class Finding:
    """One thing that is wrong with one file.

    Attributes:
        file: Path relative to the data set's root, with forward slashes.
        message: What is wrong with it.
    """

    file: str
    message: str


@dataclass(frozen=True)
class Check:
    """One expectation and how the data met it.

    Attributes:
        name: Short name, for a table.
        expected: What was expected, a sentence.
        passed: Whether it was found so. False also when it could not be told.
        observed: What was found, a sentence.
        action: What to do where it failed, a sentence.
        errored: The expectation could not be evaluated at all; nothing is known about the data.
        findings: What is wrong, by file; empty where the check passed.
        expectation: What was evaluated on the facts, its type and arguments.
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
class Validation:
    """All checks of one data set.

    Attributes:
        checks: In the order in which a person would read them.
        images: Listed images by split.
    """

    checks: tuple[Check, ...]
    images: dict[str, int] = field(default_factory=dict)

    @property
    def passed(self) -> bool:
        """Whether every check passed; no checks at all is no pass."""
        return bool(self.checks) and all(check.passed for check in self.checks)

    @property
    def findings(self) -> dict[str, tuple[str, ...]]:
        """Messages by file, files in alphabetical order."""
        by_file: dict[str, list[str]] = defaultdict(list)
        for check in self.checks:
            for finding in check.findings:
                by_file[finding.file].append(finding.message)
        return {file: tuple(by_file[file]) for file in sorted(by_file)}

    def to_json(self) -> dict[str, Any]:
        """The validation as JSON can hold it."""
        return {
            "passed": self.passed,
            "images": self.images,
            "checks": [asdict(check) for check in self.checks],
            "files": self.findings,
        }
