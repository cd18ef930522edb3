"""Options that the verbs of a gateway's folder share."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

from pydantic import Field

from noria.core.config import Config, Option


class FolderOption(Config):
    """Folder of a gateway."""

    folder: Annotated[Path, Option("--folder", "-f", metavar="FOLDER")] = Field(
        Path("noria-data"), description="Folder of the traces, versions and experiments."
    )
