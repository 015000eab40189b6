"""Section `registry`: names in MLflow."""

from __future__ import annotations

from typing import Annotated

from pydantic import AfterValidator, Field

from segops.runtime.section import Section

LEDGER_SUFFIX = "-ledger"
"""End of the name of the registered model that holds another one's ledger."""


def _is_no_ledger(name: str) -> str:
    if name.endswith(LEDGER_SUFFIX):
        raise ValueError(
            f"expected a name that does not end with {LEDGER_SUFFIX}: {name} is the ledger of the "
            f"model {name.removesuffix(LEDGER_SUFFIX)}"
        )
    return name


class RegistryParams(Section):
    """Names in MLflow."""

    model: Annotated[str, Field(pattern=r"^[A-Za-z0-9._-]+$"), AfterValidator(_is_no_ledger)] = (
        Field("segops", description="Registered model's name.")
    )
    experiment: Annotated[str, Field(min_length=1)] = Field(
        "segops", description="Experiment's name."
    )
