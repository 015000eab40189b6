"""The optional checks: passed, failed, at the bound, and what is missing."""

from __future__ import annotations

import math
from typing import Any

import pytest

from segops.params.gate import GateParams
from segops.release import gate_limits
from segops.release.check import Check
from segops.release.evidence import (
    Challenger,
    Evidence,
    Identical,
    Licence,
    NoRelease,
    Score,
    Speed,
    Unknown,
    ValidationVerdict,
)
from segops.release.gate_checks import CHECKS, GateCheck

LOST = Unknown("the dog ate it")
NEVER = Unknown("never")


def evidence(**changes: Any) -> Evidence:
    parts: dict[str, Any] = {
        "challenger": NEVER,
        "score": NEVER,
        "validation": ValidationVerdict(True, "d"),
        "lineage_missing": (),
        "champion": NoRelease(),
        "best": NoRelease(),
    }
    return Evidence(**{**parts, **changes})


def scored(**figures: Any) -> Evidence:
    return evidence(score=Score(0.6, {}, 9, 0, "new", "d", "val", **figures))


def sized(size: int | None) -> Evidence:
    return evidence(challenger=Challenger("segops", "2", "run", "new", bundle_bytes=size))


def timed(milliseconds: float, champion: float = 20.0) -> Evidence:
    return evidence(speed=Speed("1", milliseconds, champion, 4, 7, "cpu", 2, "here"))


def licensed(name: str, stated: bool = False) -> Evidence:
    return evidence(licence=Licence("resnet18/imagenet", name, stated))


def run(check: GateCheck, given: Evidence, **policy: Any) -> Check:
    found = check(given, GateParams(**policy))
    assert isinstance(found, Check)
    return found


OPTIONAL: list[tuple[GateCheck, dict[str, Any]]] = [
    (gate_limits.boundary_iou, {"min_boundary_iou": 0.5}),
    (gate_limits.calibration, {"max_ece": 0.1}),
    (gate_limits.bundle_size, {"max_bundle_mib": 4}),
    (gate_limits.slowdown, {"max_slowdown": 1.5}),
    (gate_limits.weights_licence, {"allowed_weight_licences": ["Apache-2.0", "mit"]}),
]


@pytest.mark.parametrize(("check", "policy"), OPTIONAL)
def test_checked_only_where_the_parameter_is_set(check: GateCheck, policy: dict[str, Any]) -> None:
    assert check in CHECKS
    nothing = evidence(challenger=LOST, score=LOST, speed=LOST, licence=LOST)
    assert check(nothing, GateParams()) == []
    found = run(check, nothing, **policy)
    assert not found.passed
    assert found.observed is None
    assert "the dog ate it" in found.sentence


@pytest.mark.parametrize(
    ("place", "given", "passed", "words"),
    [
        (0, scored(boundary_iou=0.5), True, "Boundary IoU on val is 0.500, at least 0.500."),
        (0, scored(boundary_iou=0.499), False, "0.499, below 0.500"),
        (0, scored(boundary_iou=None), False, "dvc repro --force --single-item evaluate"),
        (0, scored(boundary_iou=math.nan), False, "holds no boundary IoU"),
        (1, scored(calibration_error=0.1), True, "calibration error on val is 0.100, at most 0.1."),
        (1, scored(calibration_error=0.2), False, "0.200, more than 0.1"),
        (1, scored(calibration_error=None), False, "dvc repro --force --single-item package"),
        (1, scored(calibration_error=math.inf), False, "holds no expected calibration error"),
        (2, sized(4 * 2**20), True, "The bundle has 4.000 MiB, at most 4."),
        (2, sized(5 * 2**20), False, "5.000 MiB, more than 4"),
        (2, sized(None), False, "not known"),
        (3, timed(30.0), True, "An image takes 30.0 ms, 20.0 ms with champion version 1 (cpu, 2"),
        (3, timed(30.0), True, "1.50 times as long, at most 1.5."),
        (3, timed(31.0), False, "1.55 times as long, more than 1.5."),
        (3, timed(math.nan), False, "not above 0"),
        (3, timed(math.inf, math.inf), False, "not above 0"),
        (3, timed(30.0, 0.0), False, "not above 0"),
        (3, evidence(speed=NoRelease()), True, "no champion to measure against"),
        (3, evidence(speed=Identical("1")), True, "Version 1 is itself the champion"),
        (4, licensed("apache-2.0"), True, "of resnet18/imagenet is apache-2.0: allowed"),
        (4, licensed("mit", stated=True), True, "mit, as gate.stated_weight_licences states"),
        (4, licensed("cc-by-nc-4.0"), False, "allows Apache-2.0, mit. Train from other weights"),
        (4, licensed("dinov3-license"), False, "is dinov3-license"),
        (4, licensed("unknown"), False, "State it in gate.stated_weight_licences"),
        (4, evidence(licence=Licence("", "none needed")), True, "started at random"),
    ],
)
def test_each_check_passes_and_fails_by_its_figure(
    place: int, given: Evidence, passed: bool, words: str
) -> None:
    check, policy = OPTIONAL[place]
    found = run(check, given, **policy)
    assert (found.passed, found.undecided) == (passed, False)
    assert words in found.sentence


def test_unknown_is_refused_even_where_the_list_names_it() -> None:
    allowed = {"allowed_weight_licences": ["unknown"]}
    assert not run(gate_limits.weights_licence, licensed("unknown"), **allowed).passed
    assert not run(gate_limits.weights_licence, licensed("mit"), allowed_weight_licences=[]).passed


@pytest.mark.parametrize(
    ("looks", "policy", "passed", "words"),
    [
        (1, {}, True, "so far: 1 version, this one included."),
        (12, {}, True, "12 versions, this one included."),
        (10, {"max_looks": 10}, True, "10 versions, this one included."),
        (11, {"max_looks": 10}, True, "more than gate.max_looks, 10. The best of many"),
        (11, {"max_looks": 10, "too_many_looks": "refuse"}, False, "put new images into val"),
        (LOST, {}, True, "the dog ate it"),
        (LOST, {"max_looks": 10}, True, "the dog ate it"),
        (LOST, {"max_looks": 10, "too_many_looks": "refuse"}, False, "the dog ate it"),
    ],
)
def test_looks_at_val_are_told_and_bounded(
    looks: Any, policy: dict[str, Any], passed: bool, words: str
) -> None:
    found = run(gate_limits.looks, evidence(looks=looks), **policy)
    assert found.passed == passed
    assert words in found.sentence
