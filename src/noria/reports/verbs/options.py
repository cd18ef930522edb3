"""Options that several verbs of reports share."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any, ClassVar

from pydantic import Field

from noria.core.config import Config, Option


class WritingOptions(Config):
    """What a report is made of, and within which limits."""

    section: ClassVar[str] = "Report"

    charts: bool = Field(True, description="Make the charts of the plan.")
    images: bool = Field(True, description="Look for the pictures of the plan.")
    since: str = Field(
        "", pattern=r"^(\d{4}(-\d\d){0,2})?$", description="Date before which sources are marked as stale."
    )
    until: str = Field(
        "", pattern=r"^(\d{4}(-\d\d){0,2})?$", description="Date printed as the state of the sources."
    )
    seconds: float | None = Field(
        None, gt=0, description="Most seconds of a report; it is partial where they end."
    )
    borders: Annotated[Path | None, Option(metavar="FILE")] = Field(
        None, description="TopoJSON of countries with names, for maps (npm world-atlas: countries-110m.json)."
    )
    fonts: Annotated[Path | None, Option(metavar="DIR")] = Field(
        None, description="Folder of more fonts for charts."
    )
    house: Annotated[Path | None, Option(metavar="FILE")] = Field(
        None, description="Style sheet of a house for the page."
    )

    def countries(self) -> Any:
        """Borders of countries; None where no file was given.

        Raises:
            DataError: the file is no JSON object.
        """
        from noria.core.records import json_object

        return None if self.borders is None else json_object(self.borders, "a TopoJSON file")

    def style(self) -> str:
        """Style sheet of the house; empty where none was given.

        Raises:
            DataError: the file cannot be read.
        """
        from noria.core.files import read_text

        return "" if self.house is None else read_text(self.house, limit=1_000_000)
