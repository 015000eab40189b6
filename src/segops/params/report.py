"""Section `report`: what the pages show."""

from __future__ import annotations

from pydantic import Field

from segops.runtime.section import Section


class ReportParams(Section):
    """What the pages show."""

    pictures: bool = Field(
        True, description="false: leave photographs out of the pages, where they are private."
    )
