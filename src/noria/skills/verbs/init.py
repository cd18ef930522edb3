"""`noria skills init`: a bank of a folder of skills, or an empty one."""

from __future__ import annotations

from pathlib import Path

import click
from pydantic import Field

from noria.core.errors import DataError
from noria.skills.verbs.options.bank import BankArgument, ByOption
from noria.verbs.command import command as make_command


class InitConfig(BankArgument, ByOption):
    """Settings of `noria skills init`."""

    source: Path | None = Field(
        None, description="Folder of skills to begin with; only those that keep the standard are taken."
    )


@make_command(InitConfig)
def command(config: InitConfig) -> None:
    """Begin a bank: its first version and its ledger. Skills that are in the folder already become that version."""
    digest, count = run(config)
    click.echo(f"bank     {config.bank}\nskills   {count}\nversion  {digest[:12] or 'none yet'}")


def run(config: InitConfig) -> tuple[str, int]:
    """Begin the bank: the digest of its first version, and the number of its skills.

    Raises:
        DataError: a skill breaks the standard. RunError: another process writes the bank.
    """
    from noria.skills.bank.bank import Bank, BankFolder
    from noria.skills.bank.reading import read_skills

    folder = BankFolder(config.bank)
    config.bank.mkdir(parents=True, exist_ok=True)
    source = config.source or config.bank
    skills = {}
    for verdict in read_skills(source):
        broken = [p for p in verdict.problems if p.severity == "error"]
        if verdict.skill is None or broken:
            raise DataError(
                str(broken[0]), mend=f"repair it: noria skills import {config.bank} {source} --repair"
            )
        skills[verdict.folder] = verdict.skill
    bank = Bank(skills, folder.settings())
    if config.dry_run:
        return "", len(skills)
    with folder.writing():
        return folder.publish(bank, by=config.name(), stage="init"), len(skills)
