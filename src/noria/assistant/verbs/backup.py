"""`noria assistant backup`: a copy of a gateway's folder while it serves."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import click
from pydantic import Field

from noria.assistant.verbs.options import FolderOption
from noria.core.config import Argument
from noria.verbs.command import command as make_command


class BackupConfig(FolderOption):
    """Settings of `noria assistant backup`."""

    output: Annotated[Path, Argument("BACKUP")] = Field(description="Folder of the backup, which is made.")


@make_command(BackupConfig, extra="serve")
def command(config: BackupConfig) -> None:
    """Copy all that a gateway has acknowledged into a new folder; it may serve meanwhile.

    A backup holds users that are erased later: remove the backups that are older than your promise to them.
    """
    from noria.core.storage.backup import back_up

    backup = back_up(config.folder, config.output)
    size = sum(file.size for file in backup.files)
    click.echo(f"{len(backup.files)} files, {size / 1e6:.1f} MB in {config.output}")
