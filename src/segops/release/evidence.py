"""The evidence of the gate, as plain values.

:class:`NoRelease` means that the registry has no release yet. :class:`Unknown` means that a value
could not be established; the gate then rejects.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass


@dataclass(frozen=True)
class Unknown:
    """A value that could not be established; the gate rejects.

    Attributes:
        reason: Why, and what to do about it.
    """

    reason: str


@dataclass(frozen=True)
class NoRelease:
    """The registry answered that nothing has been released yet."""


@dataclass(frozen=True)
class Identical:
    """The reference is the challenger itself: the same artifact, byte for byte.

    Attributes:
        version: The version that holds it.
    """

    version: str


@dataclass(frozen=True)
class Challenger:
    """The registered version that the gate decides on.

    Attributes:
        model: Name of the registered model.
        version: Its version.
        run_id: The MLflow run that it came from.
        bundle_digest: SHA-256 of the registered artifact, computed from its files.
        bundle_bytes: Size of these files; None where it was not established.
        withdrawn: Reason of the rollback that withdrew it, or None.
    """

    model: str
    version: str
    run_id: str
    bundle_digest: str
    withdrawn: str | None = None
    bundle_bytes: int | None = None


@dataclass(frozen=True)
class Score:
    """The challenger's score on val.

    Attributes:
        miou: Within 0 to 1, over the images that it was not trained on.
        class_iou: IoU by class name, None for a class that val does not hold.
        images: Images counted.
        seen_images: Images of val that the challenger was trained on.
        bundle_digest: SHA-256 of the artifact that was scored.
        data_hash: Hash of the data set.
        val_hash: Hash of val.
        boundary_iou: Within 0 to 1, over the whole of val; None where the evaluation lacks it.
        calibration_error: Expected calibration error, within 0 to 1, likewise.
    """

    miou: float | None
    class_iou: Mapping[str, float | None]
    images: int
    seen_images: int
    bundle_digest: str
    data_hash: str
    val_hash: str
    boundary_iou: float | None = None
    calibration_error: float | None = None


@dataclass(frozen=True)
class ValidationVerdict:
    """The verdict of the validate stage.

    Attributes:
        passed: Whether the data are fit for training.
        data_hash: Hash of the validated data set.
        required_classes: Names of the classes that train and val must hold.
    """

    passed: bool
    data_hash: str
    required_classes: tuple[str, ...] = ()


@dataclass(frozen=True)
class Comparison:
    """Challenger and a released version on the same images and over the same classes.

    Attributes:
        version: The released version.
        bundle_digest: SHA-256 of its artifact.
        val_hash: Hash of the val split that both were scored on.
        images: Images counted: those that neither was trained on.
        excluded: Images of val left out because one of the two was trained on them.
        classes: Names of the classes averaged over, the same for both.
        challenger_miou: Within 0 to 1.
        reference_miou: Within 0 to 1.
        difference: Challenger's mIoU minus the reference's.
        low: Lower bound of the difference.
        high: Upper bound of the difference.
        minimum_detectable: The smallest difference that these images can show.
    """

    version: str
    bundle_digest: str
    val_hash: str
    images: int
    excluded: int
    classes: tuple[str, ...]
    challenger_miou: float
    reference_miou: float
    difference: float
    low: float
    high: float
    minimum_detectable: float


@dataclass(frozen=True)
class Licence:
    """The licence of the weights that the training started from.

    Attributes:
        weights: Which weights: `ENCODER/NAME` of published weights, a file, the address of a model;
            empty for a random start.
        name: Name of the licence in lower case, `unknown`, or `none needed` for a random start.
        stated: Whether `gate.stated_weight_licences` says so.
    """

    weights: str
    name: str
    stated: bool = False


@dataclass(frozen=True)
class Speed:
    """Times of challenger and champion on the same machine, with the same images and threads.

    Attributes:
        version: The champion.
        milliseconds: Median time an image of the challenger.
        reference_milliseconds: Median time an image of the champion.
        images: Number of images of a pass.
        passes: Passes of each model; the models took turns.
        device: Torch device.
        threads: CPU threads of torch.
        machine: Name of the machine.
    """

    version: str
    milliseconds: float
    reference_milliseconds: float
    images: int
    passes: int
    device: str
    threads: int
    machine: str


Reference = NoRelease | Identical | Comparison | Unknown


@dataclass(frozen=True)
class Evidence:
    """All evidence of a decision.

    Attributes:
        challenger: The version that the gate decides on.
        score: Its score on val.
        validation: The verdict on the data.
        lineage_missing: The missing fields of the lineage, with what to do about each.
        champion: The comparison of the challenger with the champion.
        best: The comparison of the challenger with the best release that was not withdrawn.
        champion_version: The version with the alias `champion`; promotion checks it again.
        looks: Number of different bundles that were gated on this val, this one included.
        licence: The licence of the weights that the training started from.
        speed: The times of challenger and champion, where `gate.max_slowdown` asks for them.
    """

    challenger: Challenger | Unknown
    score: Score | Unknown
    validation: ValidationVerdict | Unknown
    lineage_missing: tuple[str, ...] | Unknown
    champion: Reference
    best: Reference
    champion_version: str | None = None
    looks: int | Unknown = Unknown("the decisions on this val were not counted")
    licence: Licence | Unknown = Unknown("it was not looked up")
    speed: Speed | NoRelease | Identical | Unknown = Unknown("it was not measured")
