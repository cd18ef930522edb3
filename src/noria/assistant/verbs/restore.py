"""`noria assistant restore`: the folder of a gateway out of a backup."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import click
from pydantic import Field

from noria.assistant.verbs.options import FolderOption
from noria.core.config import Argument
from noria.verbs.command import command as make_command


class RestoreConfig(FolderOption):
    """Settings of `noria assistant restore`."""

    backup: Annotated[Path, Argument("BACKUP")] = Field(description="Folder of the backup.")


@make_command(RestoreConfig, extra="serve")
def command(config: RestoreConfig) -> None:
    """Make the folder of a gateway from a backup, each file checked by its digest; an index is made at the start."""
    from noria.core.storage.backup import restore

    backup = restore(config.backup, config.folder)
    click.echo(
        f"{len(backup.files)} files in {config.folder}; start it with: noria serve --folder {config.folder}"
    )
