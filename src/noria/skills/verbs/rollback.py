"""`noria skills rollback`: an earlier version put in place, byte for byte."""

from __future__ import annotations

from typing import Annotated

import click
from pydantic import Field

from noria.core.config import Argument
from noria.skills.verbs.options.bank import BankArgument, ByOption
from noria.verbs.command import command as make_command


class RollbackConfig(BankArgument, ByOption):
    """Settings of `noria skills rollback`."""

    to: Annotated[str, Argument()] = Field(
        "head~1", description="Version to put in place: digest, or head~1."
    )
    reason: str = Field("", max_length=500, description="Reason, for the ledger.")


@make_command(RollbackConfig)
def command(config: RollbackConfig) -> None:
    """Put an earlier version in place; what is there now stays as a version, unpublished changes included."""
    from noria.skills.bank.bank import diff_banks

    folder = config.folder()
    with folder.writing():
        digest = folder.resolve(config.to)
        now = folder.load()
        click.echo(diff_banks(now, folder.version(digest)) or "nothing differs")
        if config.dry_run:
            return
        kept = folder.keep(now, by=config.name())
        folder.roll_back(digest, by=config.name(), reason=config.reason)
    click.echo(f"version {digest[:12]} is in place; {kept[:12]} is what was")
