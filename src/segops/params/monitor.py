"""Section `monitor`: when images count as drifted, and what the flow `monitor` compares."""

from __future__ import annotations

from typing import Annotated

from pydantic import Field

from segops.runtime.errors import SegopsError
from segops.runtime.section import Positive, Section


class MonitorParams(Section):
    """The comparison of new images with the champion's data."""

    path: Annotated[str, Field(min_length=1)] | None = Field(
        None,
        description="Directory of images, or prediction log, that the flow `monitor` compares, "
        "relative to the workspace; `segops schedule --monitor` needs it.",
    )
    days: Positive | None = Field(
        None, description="Compare only what came within so many days; null: all."
    )
    alpha: Annotated[float, Field(ge=0.0001, le=0.2)] = Field(
        0.01, description="Chance of an alarm where nothing drifted."
    )
    min_images: Annotated[int, Field(ge=10)] = Field(
        20, description="Fewer images than these are not compared."
    )
    retrain: Annotated[str, Field(min_length=1)] | None = Field(
        None, description="Name of the schedule of which a drift that the flow finds starts a run."
    )

    def require_path(self) -> str:
        """Return what the flow `monitor` compares.

        Raises:
            SegopsError: The parameters name nothing.
        """
        if self.path is None:
            raise SegopsError(
                "monitor.path in params.yaml is null: expected a directory of images, or a log "
                "that `segops predict --log` writes."
            )
        return self.path
