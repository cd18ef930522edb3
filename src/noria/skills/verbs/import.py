"""`noria skills import`: skills taken in, each with a verdict."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated, Any

import click
from pydantic import Field

from noria.core.config import Argument
from noria.core.errors import CheckError
from noria.skills.verbs.options.bank import BankArgument, ByOption
from noria.verbs.command import command as make_command
from noria.verbs.options import JsonOption
from noria.verbs.tables import table


class ImportConfig(BankArgument, ByOption, JsonOption):
    """Settings of `noria skills import`."""

    source: Annotated[Path | None, Argument()] = Field(None, description="Folder of skills, or one skill.")
    check: bool = Field(False, description="Only check the skills of SOURCE, or of the bank itself.")
    repair: bool = Field(
        False, description="Mend what needs no judgement: names, quotes, lists, unknown fields."
    )
    lenient: bool = Field(False, description="Take in skills that break the standard but are safe.")
    namespace: str = Field(
        "", max_length=60, description="Where the skills are from; equal names stay apart by it."
    )
    base: Path | None = Field(
        None, description="Upstream version that the bank's skills began as, to merge three ways."
    )
    pin: tuple[str, ...] = Field((), description="Names of skills that are not updated.")


@make_command(ImportConfig)
def command(config: ImportConfig) -> None:
    """Check skills by the written standard and take them in; nothing is dropped without a reason.

    Exits with 1 where a skill was refused.
    """
    rows, refused = run(config)
    if config.as_json:
        click.echo(json.dumps(rows, indent=2, ensure_ascii=False))
    else:
        lines = [[row["folder"], row["state"], row["why"][:70]] for row in rows]
        click.echo(table([["skill", "verdict", "why"], *lines], names=3) if rows else "no skills")
        for row in rows:
            for problem in row["problems"]:
                click.echo(f"{problem['severity']}  {problem['text']}")
    if refused:
        raise CheckError(f"refused {refused} of {len(rows)} skills", where=str(config.source or config.bank))


def run(config: ImportConfig) -> tuple[list[dict[str, Any]], int]:
    """Check or import: a row a skill, and the number refused.

    Raises:
        DataError: the source cannot be read. RunError: another process writes the bank.
    """
    from noria.skills.bank.bank import read_bank
    from noria.skills.bank.importing import import_skills
    from noria.skills.bank.reading import read_skills

    folder = config.folder()
    if config.check or config.source is None:
        verdicts = list(read_skills(config.source or config.bank))
        rows = [
            _row(v.folder, "ok" if v.ok else "refused", "" if v.ok else v.problems[0].what, v.problems)
            for v in verdicts
        ]
        return rows, sum(not v.ok for v in verdicts)
    with folder.writing():
        bank = folder.load()
        after, made = import_skills(
            bank,
            read_skills(config.source),
            namespace=config.namespace,
            repair=config.repair,
            lenient=config.lenient,
            base=read_bank(config.base) if config.base is not None else None,
            frozen=config.pin,
        )
        if after != bank and not config.dry_run:
            states = {one.name: one.state for one in made}
            folder.publish(after, by=config.name(), stage="import", source=str(config.source), states=states)
    rows = [_row(one.folder, one.state, one.why, one.problems) for one in made]
    return rows, sum(one.state == "refused" for one in made)


def _row(name: str, state: str, why: str, problems: Any) -> dict[str, Any]:
    return {
        "folder": name,
        "state": state,
        "why": why,
        "problems": [vars(p) | {"text": str(p)} for p in problems],
    }
