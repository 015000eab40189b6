"""``params.yaml`` as a whole, typed once.

Every flow and command reads its parameters through :func:`load_params`. Unknown keys are refused,
bounds are checked, and an error names the key, the value and the allowed values.
"""

from __future__ import annotations

import difflib
from pathlib import Path
from typing import Any

from pydantic import Field, ValidationError, model_validator

from segops.params.augment import AugmentParams
from segops.params.base import Sections, read_yaml, require_sections
from segops.params.checked_model import CheckedModelParams
from segops.params.compatibility import MASKS, TOKENS, export_refusal, pruning_refusal
from segops.params.data import DataParams
from segops.params.evaluate import EvaluateParams
from segops.params.export import ExportParams
from segops.params.gate import GateParams
from segops.params.hardware import HardwareParams
from segops.params.loss import MASK_CLASSIFICATION
from segops.params.messages import listed, problems
from segops.params.monitor import MonitorParams
from segops.params.notify import NotifyParams
from segops.params.pretrain import PretrainParams
from segops.params.registry import RegistryParams
from segops.params.report import ReportParams
from segops.params.schema import follow, number_types, schema_of, set_values
from segops.params.semi_supervised import LEAST_CROP
from segops.params.train import TrainParams
from segops.params.tune import RangeParams, TuneParams
from segops.params.validate import ValidateParams
from segops.runtime.errors import SegopsError
from segops.runtime.predict_settings import PredictSettings
from segops.runtime.section import Section


class Params(Sections):
    """All of ``params.yaml``."""

    model_config = Section.model_config

    data: DataParams = DataParams()
    validate_: ValidateParams = Field(ValidateParams(), alias="validate")
    augment: AugmentParams = AugmentParams()
    model: CheckedModelParams = CheckedModelParams()
    train: TrainParams = TrainParams()
    pretrain: PretrainParams = PretrainParams()
    predict: PredictSettings = PredictSettings()
    export: ExportParams = ExportParams()
    evaluate: EvaluateParams = EvaluateParams()
    report: ReportParams = ReportParams()
    gate: GateParams = GateParams()
    registry: RegistryParams = RegistryParams()
    notify: NotifyParams = NotifyParams()
    monitor: MonitorParams = MonitorParams()
    hardware: HardwareParams = HardwareParams()
    tune: TuneParams = TuneParams()

    @model_validator(mode="after")
    def _known_classes(self) -> Params:
        names = self.data.class_names
        required = self.validate_.required_classes
        copied = self.augment.copy_paste.classes
        strange = []
        for key, used in (
            ("validate.required_classes", () if isinstance(required, str) else required),
            ("gate.min_class_iou", tuple(self.gate.min_class_iou)),
            ("augment.copy_paste.classes", () if isinstance(copied, str) else copied),
        ):
            unknown = [name for name in used if name not in names]
            if unknown:
                strange.append(f"{key} names {', '.join(unknown)}")
        if strange:
            raise ValueError(
                f"{'; '.join(strange)}; expected names out of data.classes: {', '.join(names)}"
            )
        weights = self.train.class_weights
        if isinstance(weights, tuple) and len(weights) != len(names):
            raise ValueError(
                f"train.class_weights has {len(weights)} numbers, data.classes has {len(names)} "
                "names; expected one for each, in id order"
            )
        return self

    @model_validator(mode="after")
    def _can_be_exported(self) -> Params:
        reason = export_refusal(self.model.architecture, self.predict.crf.iterations)
        if self.export.formats and reason is not None:
            raise ValueError(f"export.formats: {reason}, or leave export.formats empty")
        return self

    @model_validator(mode="after")
    def _can_be_pruned(self) -> Params:
        reason = pruning_refusal(self.model.architecture, self.model.start_from)
        if self.train.pruning is not None and reason is not None:
            raise ValueError(f"train.pruning: {reason}, or set train.pruning to null")
        return self

    @model_validator(mode="after")
    def _can_be_frozen(self) -> Params:
        if self.train.frozen_views is None:
            return self
        faults = [
            words
            for fault, words in (
                (
                    self.model.architecture not in TOKENS,
                    f"model.architecture is {self.model.architecture}, which takes more than the "
                    f"features that are kept; set it to {' or '.join(TOKENS)}",
                ),
                (
                    self.model.auxiliary_weight > 0,
                    "model.auxiliary_weight is above 0; set it to 0",
                ),
                (self.train.teacher is not None, "train.teacher sees images; set it to null"),
                (
                    self.train.devices != 1 or self.train.nodes != 1,
                    "one device trains a head; set train.devices and train.nodes to 1",
                ),
            )
            if fault
        ]
        if faults:
            raise ValueError(
                f"train.frozen_views: {'; '.join(faults)}, or set train.frozen_views to null"
            )
        return self

    @model_validator(mode="after")
    def _can_learn_without_masks(self) -> Params:
        train, smallest = self.train, min(self.augment.crop)
        for key, weight in (
            ("mean_teacher", train.mean_teacher.weight),
            ("adversarial", train.adversarial.weight),
        ):
            if weight and train.frozen_views is not None:
                raise ValueError(
                    f"train.{key}: train.frozen_views keeps features of images with masks alone; "
                    f"set train.frozen_views to null, or train.{key}.weight to 0"
                )
        if train.mean_teacher.weight and self.data.unlabelled is None:
            raise ValueError(
                "train.mean_teacher: data.unlabelled names no images without masks; set it to the "
                "name of their list, or train.mean_teacher.weight to 0"
            )
        if train.adversarial.weight and smallest < LEAST_CROP:
            raise ValueError(
                f"train.adversarial: augment.crop has a side of {smallest} pixels, and the "
                f"discriminator needs {LEAST_CROP}; set augment.crop to more, or "
                "train.adversarial.weight to 0"
            )
        return self

    @model_validator(mode="after")
    def _learns_masks(self) -> Params:
        names = [part.name for part in self.train.loss]
        if self.model.architecture != MASKS:
            if MASK_CLASSIFICATION in names:
                raise ValueError(
                    f"train.loss: {MASK_CLASSIFICATION} is the loss of model.architecture {MASKS}, "
                    f"and {self.model.architecture} has no masks of queries; set another loss, "
                    "such as cross_entropy+dice"
                )
            return self
        faults = [
            words
            for fault, words in (
                (
                    names != [MASK_CLASSIFICATION],
                    f"train.loss is {'+'.join(names)}, and its queries learn by "
                    f"{MASK_CLASSIFICATION} alone; set it to that",
                ),
                (
                    self.train.teacher is not None,
                    "train.teacher gives probabilities of pixels, which no query learns; set it "
                    "to null",
                ),
                (
                    self.model.auxiliary_weight > 0,
                    "model.auxiliary_weight is above 0, and its queries are judged before each of "
                    "its last blocks already; set it to 0",
                ),
                (self.model.dropout is not None, "model.dropout: it has none; set it to null"),
                (
                    self.train.mean_teacher.weight > 0 or self.train.adversarial.weight > 0,
                    "train.mean_teacher and train.adversarial judge probabilities of pixels; set "
                    "the weight of both to 0",
                ),
            )
            if fault
        ]
        if faults:
            raise ValueError(f"model.architecture {MASKS}: {'; '.join(faults)}, or set another one")
        return self

    @model_validator(mode="after")
    def _known_ranges(self) -> Params:
        known = self.flat()
        for key in self.tune.ranges:
            if key not in known:
                close = difflib.get_close_matches(key, known, n=1)
                hint = f"did you mean {close[0]}?" if close else "expected a key such as train.lr"
                raise ValueError(f"tune.ranges names {key}, which is no parameter; {hint}")
        reasons = [
            f"tune.ranges.{key}: {reason}"
            for key, given in self.tune.ranges.items()
            for reason in self._unfit(key, given)
        ]
        if reasons:
            raise ValueError("; ".join(reasons))
        return self

    def _unfit(self, key: str, given: RangeParams) -> list[str]:
        """The reasons for which a parameter refuses its range, whatever values the others have."""
        schema, _ = follow(schema_of(Params), key)
        if schema is None:  # an entry of an open mapping, of which no type is known
            return []
        if given.choices is None and not number_types(schema):
            return [f"{key} is no number, so that it takes `choices`, not low and high"]
        first, *path = key.split(".")
        section = getattr(self, first)
        reasons = []
        for value in given.limits:
            tree = self.model_dump(mode="json", by_alias=True)
            set_values(Params, tree, {key: value})
            try:
                type(section).model_validate(tree[first])
            except ValidationError as error:
                # Checks over several parameters are left to the search: another range may vary the
                # other parameter, and a training, which reads this too, searches nothing.
                own = [one for one in error.errors() if list(one["loc"][: len(path)]) == path]
                reasons += [
                    one.partition(": ")[2] for one in problems(Params, own[:1], within=(first,))
                ]
        return reasons


def is_whole_number(key: str) -> bool:
    """Whether the parameter of a dotted key takes whole numbers and no other numbers."""
    schema, _ = follow(schema_of(Params), key)
    return schema is not None and number_types(schema) == {"integer"}


def load_params(path: Path) -> Params:
    """Read and check a ``params.yaml``, or that of a workspace directory.

    Raises:
        SegopsError: The file is missing, is not YAML, or holds an unknown key or a bad value;
            every offending key is listed.
    """
    return parse_params(*read_yaml(path))


def parse_params(tree: Any, name: str = "params.yaml") -> Params:
    """Check parameters that are already read. `name` stands in the error message.

    Raises:
        SegopsError: As :func:`load_params`.
    """
    require_sections(tree, name)
    try:
        return Params.model_validate(tree)
    except ValidationError as error:
        raise SegopsError(listed(Params, error, name)) from None
