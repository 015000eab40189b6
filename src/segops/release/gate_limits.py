"""The optional checks of the gate: floors, budgets, licences, and how often val was looked at.

Each is left out while its parameter is null; the looks at val are always told.

Source:
    The best of many models on one set of images overstates its score: Dwork et al., "The reusable
    holdout", Science 2015.
"""

from __future__ import annotations

import math

from segops.models.licences import NONE_NEEDED, UNKNOWN
from segops.params.gate import GateParams
from segops.release.check import ROUNDING, Check, at_least, failed, is_share
from segops.release.evidence import Evidence, Identical, Licence, NoRelease, Unknown
from segops.words import MIB, counted

EVALUATE = "`dvc repro --force --single-item evaluate` makes the evaluation again."


def boundary_iou(evidence: Evidence, policy: GateParams) -> Check | list[Check]:
    """The boundary IoU is at least `gate.min_boundary_iou`."""
    least, name, score = policy.min_boundary_iou, "boundary IoU", evidence.score
    if least is None:
        return []
    if isinstance(score, Unknown):
        return failed(name, least, f"There is no boundary IoU: {score.reason}")
    if not is_share(score.boundary_iou):
        return failed(name, least, f"The evaluation holds no boundary IoU. {EVALUATE}")
    return at_least(name, "Boundary IoU on val", score.boundary_iou, least)


def calibration(evidence: Evidence, policy: GateParams) -> Check | list[Check]:
    """The expected calibration error is at most `gate.max_ece`."""
    most, name, score = policy.max_ece, "calibration error", evidence.score
    if most is None:
        return []
    if isinstance(score, Unknown):
        return failed(name, most, f"There is no calibration error: {score.reason}")
    if not is_share(score.calibration_error):
        return failed(
            name,
            most,
            "The evaluation holds no expected calibration error: its bundle tells no confidence, "
            "or it is of an earlier segops. `dvc repro --force --single-item package`, then `dvc "
            "repro`.",
        )
    return _at_most(
        name, score.calibration_error, most, "Expected calibration error on val is {:.3f}"
    )


def bundle_size(evidence: Evidence, policy: GateParams) -> Check | list[Check]:
    """The files of the registered bundle have at most `gate.max_bundle_mib` MiB."""
    most, name, challenger = policy.max_bundle_mib, "bundle size", evidence.challenger
    if most is None:
        return []
    if isinstance(challenger, Unknown):
        return failed(name, most, f"The challenger is not established: {challenger.reason}")
    if challenger.bundle_bytes is None:
        return failed(name, most, "The size of the bundle is not known. `segops promote` again.")
    return _at_most(name, challenger.bundle_bytes / MIB, most, "The bundle has {:.3f} MiB")


def slowdown(evidence: Evidence, policy: GateParams) -> Check | list[Check]:
    """An image takes at most `gate.max_slowdown` times as long as with the champion."""
    most, name, speed = policy.max_slowdown, "slowdown", evidence.speed
    if most is None:
        return []
    if isinstance(speed, Unknown):
        return failed(name, most, f"The time of an image is not known: {speed.reason}")
    if isinstance(speed, NoRelease | Identical):
        sentence = "There is no champion to measure against: the registry says so."
        if isinstance(speed, Identical):
            sentence = f"Version {speed.version} is itself the champion."
        return Check(name=name, passed=True, observed="none", required=most, sentence=sentence)
    times = (speed.milliseconds, speed.reference_milliseconds)
    if not all(math.isfinite(time) and time > 0 for time in times):
        return failed(name, most, "The measured times are not above 0. `segops promote` again.")
    return _at_most(
        name,
        speed.milliseconds / speed.reference_milliseconds,
        most,
        f"An image takes {speed.milliseconds:.1f} ms, {speed.reference_milliseconds:.1f} ms with "
        f"champion version {speed.version} ({speed.device}, {counted(speed.threads, 'thread')}, "
        f"median of {speed.passes} passes over {counted(speed.images, 'image')}): {{:.2f}} times "
        "as long",
    )


def weights_licence(evidence: Evidence, policy: GateParams) -> Check | list[Check]:
    """The pretrained weights have one of `gate.allowed_weight_licences`."""
    allowed, name, licence = policy.allowed_weight_licences, "weights licence", evidence.licence
    if allowed is None:
        return []
    required = ", ".join(allowed) or "none"
    if isinstance(licence, Unknown):
        return failed(name, required, f"The licence of the weights is unknown: {licence.reason}")
    passed = licence.name in (NONE_NEEDED, *(one.strip().lower() for one in allowed))
    return Check(
        name=name,
        passed=passed and licence.name != UNKNOWN,
        observed=licence.name,
        required=required,
        sentence=_licence_words(licence, passed, required),
    )


def _licence_words(licence: Licence, passed: bool, required: str) -> str:
    if licence.name == NONE_NEEDED:
        return "The training started at random: there is no licence of pretrained weights."
    if licence.name == UNKNOWN:
        return (
            f"The licence of {licence.weights} is unknown. State it in "
            "gate.stated_weight_licences if you know it, or train from other weights."
        )
    source = ", as gate.stated_weight_licences states" if licence.stated else ""
    found = f"The licence of {licence.weights} is {licence.name}{source}"
    if passed:
        return f"{found}: allowed."
    return f"{found}; gate.allowed_weight_licences allows {required}. Train from other weights."


def looks(evidence: Evidence, policy: GateParams) -> Check:
    """At most `gate.max_looks` different bundles were gated on this val."""
    most, name, count = policy.max_looks, "looks at val", evidence.looks
    required: float | str = "counted" if most is None else most
    if isinstance(count, Unknown):
        sentence = f"How many versions were gated on this val is not known: {count.reason}"
        if most is not None and policy.too_many_looks == "refuse":
            return failed(name, required, sentence)
        return Check(name=name, passed=True, observed=None, required=required, sentence=sentence)
    sentence = f"Gated on this val so far: {counted(count, 'version')}, this one included"
    too_many = most is not None and count > most
    if too_many:
        sentence += (
            f", more than gate.max_looks, {most}. The best of many on one val looks better than it "
            "is: put new images into val"
        )
    return Check(
        name=name,
        passed=not too_many or policy.too_many_looks == "warn",
        observed=count,
        required=required,
        sentence=f"{sentence}.",
    )


def _at_most(name: str, value: float, most: float, words: str) -> Check:
    """Return the check of a value against an upper bound; `words` has a place for the value."""
    passed = value <= most + ROUNDING
    end = "at most" if passed else "more than"
    return Check(
        name=name,
        passed=passed,
        observed=value,
        required=most,
        sentence=f"{words.format(value)}, {end} {most:g}.",
    )
