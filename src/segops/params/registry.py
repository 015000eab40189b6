"""Section `registry`: names in MLflow."""

from __future__ import annotations

from typing import Annotated

from pydantic import Field

from segops.runtime.section import Section


class RegistryParams(Section):
    """Names in MLflow."""

    model: Annotated[str, Field(pattern=r"^[A-Za-z0-9._-]+$")] = Field(
        "segops", description="Registered model's name."
    )
    experiment: Annotated[str, Field(min_length=1)] = Field(
        "segops", description="Experiment's name."
    )
