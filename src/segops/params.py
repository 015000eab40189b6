"""``params.yaml``, typed once.

Every stage, flow and command reads its parameters through :func:`load`. Unknown keys are refused,
bounds are checked, and the message of an error names the key, the value and what is allowed.
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import Annotated, Any, Literal

import yaml
from pydantic import BaseModel, ConfigDict, Field, ValidationError, field_validator, model_validator

from segops.errors import SegopsError
from segops.voc.classes import VOC_CLASSES

Probability = Annotated[float, Field(ge=0, le=1)]
Fraction = Annotated[float, Field(ge=0, lt=1)]
Positive = Annotated[float, Field(gt=0)]
NonNegative = Annotated[float, Field(ge=0)]
Count = Annotated[int, Field(ge=1)]


class Section(BaseModel):
    """A part of ``params.yaml``: unknown keys are refused, values do not change once read."""

    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)


class DataParams(Section):
    """Where the data set lies and which classes its masks hold."""

    path: str = Field("data/voc", description="Directory in VOC layout, tracked by DVC.")
    classes: Literal["voc"] | tuple[str, ...] = Field(
        "voc",
        description="`voc` (the 21 classes) or a list of names in id order, background first.",
    )

    @field_validator("classes")
    @classmethod
    def _distinct(cls, value: str | tuple[str, ...]) -> str | tuple[str, ...]:
        if value == "voc":
            return value
        if not 2 <= len(value) <= 255:
            raise ValueError("expected 2 to 255 names: id 255 means void and is not a class")
        if len(set(value)) != len(value):
            raise ValueError("expected every name once")
        return value

    @property
    def class_names(self) -> tuple[str, ...]:
        """The names in id order; `len(class_names)` is the number of classes."""
        return VOC_CLASSES if isinstance(self.classes, str) else self.classes


class ValidateParams(Section):
    """What the data must fulfil before anything is trained on it."""

    required_classes: Literal["all"] | tuple[str, ...] = Field(
        "all", description="Classes that must occur in train: `all`, or a list of names."
    )
    max_void_fraction: Probability = Field(
        0.9, description="Largest share of void pixels allowed in one mask."
    )
    min_train_images: Count = Field(1, description="Fewest images that train may hold.")
    min_val_images: Count = Field(1, description="Fewest images that val may hold.")


class ScaleParams(Section):
    """Random scale."""

    range: tuple[Positive, Positive] = Field(
        (0.5, 2.0), description="Smallest and largest factor of the random scale."
    )
    p: Probability = Field(1.0, description="Probability of the random scale.")

    @field_validator("range")
    @classmethod
    def _ordered(cls, value: tuple[float, float]) -> tuple[float, float]:
        if value[0] > value[1]:
            raise ValueError("expected the smallest factor first")
        return value


class FlipParams(Section):
    """Horizontal flip."""

    p: Probability = Field(0.5, description="Probability of the horizontal flip.")


class RotateParams(Section):
    """Random rotation."""

    limit: Annotated[float, Field(ge=0, le=180)] = Field(
        10.0, description="Rotation between -limit and limit, in degrees."
    )
    p: Probability = Field(0.3, description="Probability of the rotation.")


class ShiftParams(Section):
    """Random shift."""

    limit: Fraction = Field(0.05, description="Shift up to this share of the crop's side.")
    p: Probability = Field(0.3, description="Probability of the shift.")


class ShearParams(Section):
    """Random shear."""

    limit: Annotated[float, Field(ge=0, lt=90)] = Field(
        5.0, description="Shear between -limit and limit, in degrees."
    )
    p: Probability = Field(0.2, description="Probability of the shear.")


class ColorJitterParams(Section):
    """Random brightness, contrast, saturation and hue."""

    brightness: Fraction = Field(0.3, description="Brightness factor within 1 ± this.")
    contrast: Fraction = Field(0.3, description="Contrast factor within 1 ± this.")
    saturation: Fraction = Field(0.3, description="Saturation factor within 1 ± this.")
    hue: Annotated[float, Field(ge=0, le=0.5)] = Field(
        0.05, description="Hue shift within ± this share of the colour circle."
    )
    p: Probability = Field(0.5, description="Probability of the colour jitter.")


class BlurParams(Section):
    """Gaussian blur."""

    sigma: tuple[Positive, Positive] = Field((0.3, 1.2), description="Range of sigma, in pixels.")
    p: Probability = Field(0.1, description="Probability of the blur.")


class NoiseParams(Section):
    """Gaussian noise."""

    std: tuple[NonNegative, NonNegative] = Field(
        (0.01, 0.05), description="Range of the standard deviation, as a share of 255."
    )
    p: Probability = Field(0.1, description="Probability of the noise.")


class AugmentParams(Section):
    """The augmentation policy of training."""

    crop: tuple[Count, Count] = Field((512, 512), description="Height and width of a crop, pixels.")
    scale: ScaleParams = ScaleParams()
    flip: FlipParams = FlipParams()
    rotate: RotateParams = RotateParams()
    shift: ShiftParams = ShiftParams()
    shear: ShearParams = ShearParams()
    color_jitter: ColorJitterParams = ColorJitterParams()
    blur: BlurParams = BlurParams()
    noise: NoiseParams = NoiseParams()


class ModelParams(Section):
    """The network."""

    architecture: str = Field(
        "unet",
        description="Any of segmentation-models-pytorch, `fcn8s`, `fcn16s`, `fcn32s`, `plain_cnn`.",
    )
    encoder: str = Field("resnet18", description="Encoder name of segmentation-models-pytorch.")
    encoder_weights: str | None = Field(
        None, description="`imagenet`, null (random), or the path of a local safetensors file."
    )
    options: dict[str, Any] = Field(
        default_factory=dict, description="Further keyword arguments of the architecture."
    )


class TrainParams(Section):
    """The training loop."""

    seed: Annotated[int, Field(ge=0, lt=2**31)] = Field(0, description="Seed of all randomness.")
    epochs: Count = Field(30, description="Passes over train.")
    batch_size: Count = Field(16, description="Images in a batch.")
    optimizer: Literal["sgd", "adam", "adamw"] = Field("adamw", description="Optimiser.")
    lr: Positive = Field(1e-3, description="Learning rate after warm-up.")
    momentum: Fraction = Field(0.9, description="Momentum (SGD only).")
    weight_decay: NonNegative = Field(1e-2, description="Weight decay.")
    loss: Literal["cross_entropy", "dice", "cross_entropy+dice"] = Field(
        "cross_entropy", description="Loss; void pixels count in none."
    )
    schedule: Literal["poly", "cosine", "step", "plateau"] = Field(
        "poly", description="Learning-rate schedule after warm-up."
    )
    warmup_epochs: NonNegative = Field(1.0, description="Epochs of linear warm-up.")
    min_lr: NonNegative = Field(0.0, description="The learning rate never falls below this.")
    poly_power: Positive = Field(0.9, description="Exponent of `poly`.")
    step_epochs: Count = Field(10, description="`step`: epochs between two drops.")
    step_factor: Annotated[float, Field(gt=0, lt=1)] = Field(
        0.1, description="`step` and `plateau`: factor of a drop."
    )
    plateau_patience: Count = Field(5, description="`plateau`: epochs without gain before a drop.")
    selection_share: Annotated[float, Field(ge=0, le=0.5)] = Field(
        0.1,
        description="Share of train held out to choose the checkpoint; 0: the last one is taken.",
    )
    early_stopping_patience: Count | None = Field(
        None, description="Epochs without gain on the selection split before stopping; null: never."
    )
    precision: Literal["auto", "fp32", "bf16"] = Field(
        "auto", description="`auto`: bf16 where the device computes it natively."
    )
    device: Literal["auto", "cpu", "cuda"] = Field(
        "auto", description="`auto`: GPU if there is one."
    )
    channels_last: bool = Field(True, description="Memory format of images and weights.")

    @model_validator(mode="after")
    def _consistent(self) -> TrainParams:
        if self.selection_share == 0:
            if self.early_stopping_patience is not None:
                raise ValueError(
                    "early_stopping_patience needs a selection split: set selection_share above 0, "
                    "or early_stopping_patience to null"
                )
            if self.schedule == "plateau":
                raise ValueError(
                    "the plateau schedule needs a selection split: set selection_share above 0, "
                    "or choose poly, cosine or step"
                )
        if self.min_lr > self.lr:
            raise ValueError(f"min_lr {self.min_lr} is above lr {self.lr}")
        if self.warmup_epochs >= self.epochs:
            raise ValueError(
                f"warmup_epochs {self.warmup_epochs} leaves none of {self.epochs} epochs"
            )
        return self


class EvaluateParams(Section):
    """The bootstrap interval of mIoU."""

    bootstrap_samples: Annotated[int, Field(ge=100)] = Field(
        1000, description="Bootstrap resamples over images."
    )
    confidence: Annotated[float, Field(gt=0.5, lt=1)] = Field(
        0.95, description="Level of the interval."
    )
    seed: Annotated[int, Field(ge=0)] = Field(0, description="Seed of the bootstrap.")


class ReportParams(Section):
    """What the pages show."""

    pictures: bool = Field(
        True, description="false: leave photographs out of the pages, where they are private."
    )


class GateParams(Section):
    """What a challenger must fulfil to be promoted."""

    min_miou: Probability = Field(0.5, description="Least mIoU on val.")
    min_class_iou: dict[str, Probability] = Field(
        default_factory=dict, description="Least IoU by class name."
    )
    margin: Probability = Field(
        0.01, description="Largest loss of mIoU against the champion that counts as no loss."
    )
    confidence: Annotated[float, Field(gt=0.5, lt=1)] = Field(
        0.95, description="Level of the one-sided paired bootstrap."
    )
    bootstrap_samples: Annotated[int, Field(ge=100)] = Field(
        2000, description="Resamples of the paired bootstrap."
    )
    seed: Annotated[int, Field(ge=0)] = Field(0, description="Seed of the paired bootstrap.")


class RegistryParams(Section):
    """Names in MLflow."""

    model: Annotated[str, Field(pattern=r"^[A-Za-z0-9._-]+$")] = Field(
        "segops", description="Registered model's name."
    )
    experiment: Annotated[str, Field(min_length=1)] = Field(
        "segops", description="Experiment's name."
    )


class HardwareParams(Section):
    """What depends on the machine; no stage is run again for a change here."""

    workers: Annotated[int, Field(ge=0)] | None = Field(
        None, description="Processes for reading and augmenting; null: one per core, at most 8."
    )
    threads: Count | None = Field(
        None, description="CPU threads of torch; null: one per core. Fix it where bits matter."
    )

    @property
    def worker_count(self) -> int:
        """Processes or threads to use for reading: as given, else one per core, at most 8."""
        if self.workers is not None:
            return self.workers
        # The cores this process may use, which in a container are not all there are.
        allowed = getattr(os, "sched_getaffinity", lambda _: range(os.cpu_count() or 1))
        return min(8, len(allowed(0)))


class Params(Section):
    """All of ``params.yaml``."""

    data: DataParams = DataParams()
    validate_: ValidateParams = Field(ValidateParams(), alias="validate")
    augment: AugmentParams = AugmentParams()
    model: ModelParams = ModelParams()
    train: TrainParams = TrainParams()
    evaluate: EvaluateParams = EvaluateParams()
    report: ReportParams = ReportParams()
    gate: GateParams = GateParams()
    registry: RegistryParams = RegistryParams()
    hardware: HardwareParams = HardwareParams()

    @model_validator(mode="after")
    def _known_classes(self) -> Params:
        names = self.data.class_names
        required = self.validate_.required_classes
        for key, used in (
            ("validate.required_classes", () if isinstance(required, str) else required),
            ("gate.min_class_iou", tuple(self.gate.min_class_iou)),
        ):
            unknown = [name for name in used if name not in names]
            if unknown:
                raise ValueError(
                    f"{key} names {', '.join(unknown)}; data.classes has {', '.join(names)}"
                )
        return self

    @property
    def required_classes(self) -> tuple[str, ...]:
        """Names of the classes that must occur in train."""
        required = self.validate_.required_classes
        return self.data.class_names if isinstance(required, str) else required

    def flat(self) -> dict[str, Any]:
        """Every parameter under its dotted key, as ``params.yaml`` would spell it."""
        return flatten(self.model_dump(mode="json", by_alias=True))


def flatten(tree: dict[str, Any], prefix: str = "") -> dict[str, Any]:
    """Turn nested mappings into one with dotted keys; an empty mapping stays a value."""
    flat: dict[str, Any] = {}
    for key, value in tree.items():
        if isinstance(value, dict) and value:
            flat.update(flatten(value, f"{prefix}{key}."))
        else:
            flat[f"{prefix}{key}"] = value
    return flat


def load(path: Path) -> Params:
    """Read and check a ``params.yaml``.

    Args:
        path: The file, or the workspace directory that holds a ``params.yaml``.

    Raises:
        SegopsError: The file is missing, is not YAML, or holds an unknown key or a bad value;
            every offending key is listed.
    """
    if path.is_dir():
        path = path / "params.yaml"
    try:
        tree = yaml.safe_load(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise SegopsError(
            f"{path}: no such file. Run segops in the root of a checkout, beside dvc.yaml."
        ) from None
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise SegopsError(f"{path}: not readable as YAML: {error}") from None
    return parse({} if tree is None else tree, str(path))


def parse(tree: Any, name: str = "params.yaml") -> Params:
    """Check parameters that are already read. `name` stands in the error message.

    Raises:
        SegopsError: As :func:`load`.
    """
    if not isinstance(tree, dict):
        raise SegopsError(f"{name}: expected a mapping of sections, found {type(tree).__name__}.")
    try:
        return Params.model_validate(tree)
    except ValidationError as error:
        lines = [f"{name}: {error.error_count()} parameter(s) are not usable:"]
        lines += [f"  {_describe(one)}" for one in error.errors()]
        raise SegopsError("\n".join(lines)) from None


def _describe(error: Any) -> str:
    key = ".".join(str(part) for part in error["loc"]) or "(all)"
    if error["type"] == "extra_forbidden":
        return f"{key}: no such parameter; expected one of {', '.join(_siblings(error['loc']))}"
    message = error["msg"].removeprefix("Value error, ")
    found = error["input"]
    shown = "" if isinstance(found, (dict, BaseModel)) else f" (found {found!r})"
    return f"{key}: {message}{shown}"


def _siblings(location: tuple[str | int, ...]) -> list[str]:
    section: Any = Params
    for part in location[:-1]:
        for name, field in section.model_fields.items():
            if part in (name, field.alias):
                section = field.annotation
    return [field.alias or name for name, field in section.model_fields.items()]
