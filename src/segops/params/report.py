"""Section `report`: contents of the pages."""

from __future__ import annotations

from pydantic import Field

from segops.runtime.section import Section


class ReportParams(Section):
    """Contents of the pages."""

    pictures: bool = Field(
        True, description="false: leave photographs out of the pages, where they are private."
    )
