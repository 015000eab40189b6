"""The parameters that a training reads."""

from __future__ import annotations

from segops.params.base import Sections
from segops.params.data import DataParams
from segops.params.hardware import HardwareParams
from segops.params.model import ModelParams
from segops.params.registry import RegistryParams
from segops.params.samples import SampleParams
from segops.params.train import TrainParams


class TrainingSettings(Sections):
    """The sections of ``params.yaml`` that decide a training's result or its hardware."""

    data: DataParams = DataParams()
    augment: SampleParams = SampleParams()
    model: ModelParams = ModelParams()
    train: TrainParams = TrainParams()
    hardware: HardwareParams = HardwareParams()
    registry: RegistryParams = RegistryParams()
