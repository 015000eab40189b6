"""Sections from `evaluate` to `hardware`: judging, recording and the machine."""

from __future__ import annotations

import os
from typing import Annotated

from pydantic import Field

from segops.params.base import Count, Probability, Section


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
        None,
        description="Processes for reading and augmenting; null: one per core, at most 8, and none "
        "where the CPU trains.",
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
