"""Section `hardware`: parameters that depend on the machine."""

from __future__ import annotations

from typing import Annotated

from pydantic import Field

from segops.runtime.section import Count, Section
from segops.threads import cores


class HardwareParams(Section):
    """Parameters that depend on the machine."""

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
        return min(8, cores())
