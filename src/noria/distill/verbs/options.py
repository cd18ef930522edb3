"""Options that the verbs on a student share."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Annotated

from pydantic import Field

from noria.core.config import Argument, Option
from noria.core.models.config import DownloadOption


class StudentOptions(DownloadOption):
    """A student on disk, and the model that it needs beside."""

    source: Annotated[Path, Argument()] = Field(description="Folder of a run, or of an exported student.")
    model: Annotated[str | None, Option(metavar="MODEL")] = Field(
        None, description="Model of the run where it has moved, or teacher of an exported student."
    )
    variant: Annotated[str | None, Option(metavar="NAME")] = Field(
        None, description="Variant of that model's weight files, such as fp16 (default: the run's)."
    )


def silence_libraries() -> None:
    """Keep remarks of diffusers and transformers to themselves; call it before they are imported."""
    for library in ("DIFFUSERS", "TRANSFORMERS"):
        os.environ.setdefault(f"{library}_VERBOSITY", "error")
