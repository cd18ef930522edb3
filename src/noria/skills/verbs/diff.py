"""`noria skills diff`: what two versions of a bank differ in, and which versions there are."""

from __future__ import annotations

import datetime
from typing import Annotated

import click
from pydantic import Field

from noria.core.config import Argument
from noria.skills.verbs.options.bank import BankArgument
from noria.verbs.command import command as make_command
from noria.verbs.tables import table


class DiffConfig(BankArgument):
    """Settings of `noria skills diff`."""

    before: Annotated[str | None, Argument()] = Field(
        None, description="Earlier version: digest, head, head~1."
    )
    after: Annotated[str | None, Argument()] = Field(
        None, description="Later version (default: the folder as it is)."
    )


@make_command(DiffConfig)
def command(config: DiffConfig) -> None:
    """Show a diff of two versions with the components that changed; without a version, the history."""
    from noria.skills.bank.bank import diff_banks

    folder = config.folder()
    if config.before is None:
        rows = [["number", "version", "event", "stage", "by", "when"]]
        for entry in folder.ledger.entries():
            if "version" in entry:
                when = datetime.datetime.fromtimestamp(entry["at"], datetime.UTC).strftime("%Y-%m-%d %H:%M")
                stage = str(entry.get("stage") or entry.get("reason") or "")
                rows.append(
                    [str(entry["number"]), entry["version"][:12], entry["event"], stage, entry["by"], when]
                )
        click.echo(table(rows, names=6))
        return
    after = folder.load() if config.after is None else folder.version(config.after)
    click.echo(diff_banks(folder.version(config.before), after) or "nothing differs")
