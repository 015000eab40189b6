"""The checks of the gate, each a pure function, and their list.

Missing, non-finite or mismatched evidence fails, with the reason. To add a check, write a function
here or in :mod:`segops.release.gate_limits`, list it in :data:`CHECKS` and add its parameter in
:mod:`segops.params.gate`.

Source:
    Non-inferiority: a challenger is no worse than the reference when the lower bound of the
    difference lies above minus the margin (Piaggio et al., CONSORT statement on non-inferiority
    trials, JAMA 2012, figure 1). The best release is a second reference, because losses within the
    margin add up over several champions.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence

from segops.params.gate import GateParams
from segops.release import gate_limits
from segops.release.check import ROUNDING, Check, at_least, failed, is_share
from segops.release.evidence import Comparison, Evidence, Identical, NoRelease, Reference, Unknown
from segops.report.figures import level
from segops.words import counted


def artifact(evidence: Evidence, policy: GateParams) -> Check:
    """The score is that of the registered artifact, and no rollback withdrew the version."""
    name, required = "artifact", "scored from the registered artifact"
    challenger, score = evidence.challenger, evidence.score
    if isinstance(challenger, Unknown):
        return failed(name, required, f"The challenger is not established: {challenger.reason}")
    if challenger.withdrawn is not None:
        return failed(
            name,
            required,
            f"Version {challenger.version} was withdrawn by a rollback: {challenger.withdrawn} "
            f"`segops reinstate {challenger.version} --reason WHY` undoes that, or train another.",
        )
    if isinstance(score, Unknown):
        return failed(name, required, f"There is no score: {score.reason}")
    same = bool(score.bundle_digest) and score.bundle_digest == challenger.bundle_digest
    digest = challenger.bundle_digest[:12]
    return Check(
        name=name,
        passed=same,
        observed=score.bundle_digest[:12],
        required=digest,
        sentence=f"The score was made from the registered artifact {digest}."
        if same
        else f"The score is of artifact {score.bundle_digest[:12] or '(none)'}, the registered one "
        f"is {digest or '(none)'}. `dvc repro`, then `segops promote`.",
    )


def validation(evidence: Evidence, policy: GateParams) -> Check:
    """The scored data have passed validation."""
    name, required = "validation", "passed on the scored data"
    verdict, score = evidence.validation, evidence.score
    if isinstance(verdict, Unknown):
        return failed(name, required, f"The data's validation is missing: {verdict.reason}")
    if isinstance(score, Unknown):
        return failed(name, required, f"There is no score: {score.reason}")
    if not verdict.passed:
        return failed(
            name,
            required,
            "The data did not pass validation: correct what reports/validation.html lists.",
        )
    same = bool(score.data_hash) and verdict.data_hash == score.data_hash
    return Check(
        name=name,
        passed=same,
        observed=verdict.data_hash[:12],
        required=score.data_hash[:12],
        sentence=f"Validation passed on the scored data, {score.data_hash[:12]}."
        if same
        else f"Validation looked at data {verdict.data_hash[:12] or '(none)'}, the score is on "
        f"{score.data_hash[:12] or '(none)'}. `dvc repro` brings both to the same data.",
    )


def lineage(evidence: Evidence, policy: GateParams) -> Check:
    """The lineage has every field."""
    name, required, missing = "lineage", "complete", evidence.lineage_missing
    if isinstance(missing, Unknown):
        return failed(name, required, f"The lineage is not established: {missing.reason}")
    if missing:
        gaps = "; ".join(missing)
        return failed(name, required, f"The lineage lacks {gaps}. Then `segops promote`.")
    return Check(
        name=name,
        passed=True,
        observed="complete",
        required=required,
        sentence="The lineage is complete.",
    )


def unseen_images(evidence: Evidence, policy: GateParams) -> Check:
    """The challenger was trained on no image of val."""
    name, score = "unseen images", evidence.score
    if isinstance(score, Unknown):
        return failed(name, 0, f"There is no score: {score.reason}")
    if score.images < 1:
        return failed(
            name,
            0,
            "The challenger was trained on every image of val, so its score shows nothing. Put "
            "other images into val.",
        )
    return Check(
        name=name,
        passed=score.seen_images == 0,
        observed=score.seen_images,
        required=0,
        sentence=f"None of val's images was trained on ({counted(score.images, 'image')})."
        if score.seen_images == 0
        else f"Trained on {counted(score.seen_images, 'image')} of val: val and train must be "
        "disjoint. Remove the images from one of the two lists and run again.",
    )


def scored_classes(evidence: Evidence, policy: GateParams) -> Check:
    """The score rests on every required class, and on more than one."""
    name, verdict, score = "scored classes", evidence.validation, evidence.score
    if isinstance(verdict, Unknown):
        return failed(name, "all", f"The data's validation is missing: {verdict.reason}")
    if isinstance(score, Unknown):
        return failed(name, "all", f"There is no score: {score.reason}")
    scored = [label for label, iou in score.class_iou.items() if iou is not None]
    absent = [label for label in verdict.required_classes if label not in scored]
    alone = len(scored) < min(2, len(score.class_iou))
    if absent:
        sentence = f"The scored images hold no pixel of {', '.join(absent)}: val cannot judge them."
    elif alone:
        sentence = (
            f"The scored images hold {', '.join(scored) or 'no class'} alone: a model that "
            "predicts nothing else would have the best score."
        )
    else:
        sentence = f"The scored images hold {len(scored)} classes, all that are required."
    if absent or alone:
        sentence += " Add images of the other classes to val."
    return Check(
        name=name,
        passed=not (absent or alone),
        observed=float(len(scored)),
        required=float(max(len(verdict.required_classes), min(2, len(score.class_iou)))),
        sentence=sentence,
    )


def miou(evidence: Evidence, policy: GateParams) -> Check:
    """The challenger's mIoU is at least `gate.min_miou`."""
    name, score = "mIoU", evidence.score
    if isinstance(score, Unknown):
        return failed(name, policy.min_miou, f"There is no mIoU: {score.reason}")
    if not is_share(score.miou):
        return failed(name, policy.min_miou, f"mIoU is {score.miou}: not a number within 0 to 1.")
    return at_least(name, "mIoU on val", score.miou, policy.min_miou)


def class_iou(evidence: Evidence, policy: GateParams) -> list[Check]:
    """The IoU of each class that `gate.min_class_iou` names is at least that."""
    return [_class_floor(evidence, name, least) for name, least in policy.min_class_iou.items()]


def _class_floor(evidence: Evidence, class_name: str, least: float) -> Check:
    name, score = f"IoU of {class_name}", evidence.score
    if isinstance(score, Unknown):
        return failed(name, least, f"There is no {name}: {score.reason}")
    value = score.class_iou.get(class_name)
    if value is None:
        return failed(
            name,
            least,
            f"{name} is missing: val holds no {class_name}, so nothing is shown. Put images of it "
            f"into val, or take {class_name} out of gate.min_class_iou.",
        )
    if not is_share(value):
        return failed(name, least, f"{name} is {value}: not a number within 0 to 1.")
    return at_least(name, f"{name} on val", value, least)


def champion(evidence: Evidence, policy: GateParams) -> Check:
    """Non-inferior: the lower bound of the difference is above minus the margin."""
    name, required = "champion", -policy.margin
    found = _comparable(evidence, evidence.champion, name, required, "champion")
    if isinstance(found, Check):
        return found
    passed = found.low >= -policy.margin - ROUNDING
    # Within the margin as observed, yet a loss beyond it is not excluded: too few images to say.
    undecided = not passed and found.difference >= -policy.margin - ROUNDING
    about = (
        f"mIoU {found.challenger_miou:.3f} against {found.reference_miou:.3f} of champion version "
        f"{found.version} on {_images(found)}: {found.difference:+.3f}, with "
        f"{level(policy.confidence)} confidence at least {found.low:+.3f}"
    )
    if passed:
        end = f", so no loss beyond the margin of {policy.margin:.3f}."
    elif undecided:
        end = (
            f". A loss beyond the margin of {policy.margin:.3f} is not excluded; the smallest "
            f"difference that these images could have shown is {found.minimum_detectable:.3f}."
        )
    else:
        end = f". That is a loss beyond the margin of {policy.margin:.3f}."
    return Check(
        name=name,
        passed=passed,
        observed=found.low,
        required=required,
        sentence=about + end,
        undecided=undecided,
    )


def best_release(evidence: Evidence, policy: GateParams) -> Check:
    """Never below the best release by more than the margin, however long the chain of releases."""
    name, required = "best release", -policy.margin
    found = _comparable(evidence, evidence.best, name, required, "best release")
    if isinstance(found, Check):
        if not _is_champion(evidence) or found.sentence != champion(evidence, policy).sentence:
            return found
        sentence = "The champion is the best release too: the same holds of it."
        return found.model_copy(update={"sentence": sentence})
    passed = found.difference >= -policy.margin - ROUNDING
    return Check(
        name=name,
        passed=passed,
        observed=found.difference,
        required=required,
        sentence=f"mIoU is {found.difference:+.3f} against version {found.version}, the best "
        f"release there was ({found.reference_miou:.3f} on {_images(found)}): "
        f"{'within' if passed else 'beyond'} the margin of {policy.margin:.3f}.",
    )


def _comparable(
    evidence: Evidence, reference: Reference, name: str, required: float, role: str
) -> Check | Comparison:
    """Return the comparison if it is usable, else the check that says why it passed or failed."""
    if isinstance(reference, Unknown):
        return failed(name, required, f"No comparison with the {role}: {reference.reason}")
    if isinstance(reference, NoRelease):
        sentence = f"There is no {role} yet: the registry says so."
        return Check(name=name, passed=True, observed="none", required=required, sentence=sentence)
    if isinstance(reference, Identical):
        sentence = f"Version {reference.version} is itself the {role}."
        return Check(
            name=name,
            passed=True,
            observed=reference.version,
            required=required,
            sentence=sentence,
        )
    if isinstance(evidence.score, Unknown):
        return failed(name, required, f"There is no score: {evidence.score.reason}")
    if not reference.val_hash or reference.val_hash != evidence.score.val_hash:
        return failed(
            name,
            required,
            f"Version {reference.version} was scored on val {reference.val_hash[:12] or '(none)'}, "
            f"the challenger on {evidence.score.val_hash[:12] or '(none)'}: scores on different "
            "data cannot be compared. `segops promote` scores both anew on the same.",
        )
    if reference.images < 2 or not reference.classes:
        return failed(
            name,
            required,
            f"Val holds {counted(reference.images, 'image')} that neither the challenger nor "
            f"version {reference.version} was trained on: at least two are needed to compare them. "
            "Put more images into val.",
        )
    numbers = (reference.difference, reference.low, reference.high, reference.minimum_detectable)
    if not (
        all(math.isfinite(number) for number in numbers)
        and is_share(reference.challenger_miou)
        and is_share(reference.reference_miou)
        and reference.low <= reference.high
    ):
        return failed(
            name, required, f"The comparison with version {reference.version} is not finite."
        )
    return reference


def _is_champion(evidence: Evidence) -> bool:
    """Whether the best release is the champion and not the challenger."""
    champion, best = evidence.champion, evidence.best
    return (
        isinstance(champion, Comparison)
        and isinstance(best, Comparison)
        and champion.version == best.version
    )


def _images(comparison: Comparison) -> str:
    left_out = f", {comparison.excluded} trained on left out" if comparison.excluded else ""
    return f"{counted(comparison.images, 'image')}{left_out}"


GateCheck = Callable[[Evidence, GateParams], Check | Sequence[Check]]
"""A gate check: a pure function from evidence and policy to one result or several."""

CHECKS: tuple[GateCheck, ...] = (
    artifact,
    validation,
    lineage,
    unseen_images,
    scored_classes,
    miou,
    class_iou,
    gate_limits.boundary_iou,
    gate_limits.calibration,
    gate_limits.bundle_size,
    gate_limits.slowdown,
    gate_limits.weights_licence,
    gate_limits.looks,
    champion,
    best_release,
)
"""All checks, in the order in which they are shown. The gate decides on these; the terminal, the
flow's page, the ledger and MLflow show them."""
