"""`noria skills create`: stage 1, skills from task specifications and trajectories."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Annotated, Any, Literal

import click
from pydantic import Field

from noria.core.config import Argument, parse_config
from noria.core.errors import ConfigError
from noria.core.files import read_bytes
from noria.skills.stages.creator import CreateConfig
from noria.skills.verbs.options import (
    BankArgument,
    ByOption,
    ModelOptions,
    RouterOptions,
    RubricOption,
    TrafficOptions,
    tools_of,
)
from noria.verbs.command import command as make_command
from noria.verbs.tables import table


class CreateVerbConfig(
    BankArgument, ByOption, CreateConfig, RubricOption, TrafficOptions, RouterOptions, ModelOptions
):
    """Settings of `noria skills create`."""

    spec: Annotated[Path | None, Argument()] = Field(
        None, description="YAML file of the task specifications."
    )
    human: Literal["ask", "files", "none"] = Field(
        "files", description="A person's yes: asked here, by sheets in BANK/.noria/review, or not at all."
    )


@make_command(CreateVerbConfig)
def command(config: CreateVerbConfig) -> None:
    """Write the skills that a specification asks for: drafts are checked, tried, and approved by a person."""
    rows = run(config)
    click.echo(
        table([["task", "state", "rounds", "why"], *rows], names=4)
        if rows
        else "the bank has every task's skill"
    )
    if any(row[1] == "waiting" for row in rows):
        click.echo(f"decide in {config.bank / '.noria' / 'review'}, then run the same command again")


def run(config: CreateVerbConfig) -> list[list[str]]:
    """Create: a row a task.

    Raises:
        ConfigError: the specification is malformed. DataError: the traffic cannot be read.
    """
    folder = config.folder()
    with folder.writing():
        bank = folder.load()
        after, made = create(config, bank)
        if not config.dry_run:
            for one in made:
                folder.ledger.add(
                    "created",
                    by=config.name(),
                    stage="create",
                    skill=one.task,
                    decision=one.state,
                    faults=list(one.faults),
                    human=None if one.decision is None else one.decision.to_json(),
                )
            if after != bank:
                folder.publish(after, by=config.name(), stage="create")
    return [[one.task, one.state, str(one.rounds), "; ".join(one.faults)[:70]] for one in made]


def create(config: CreateVerbConfig, bank: Any) -> tuple[Any, list[Any]]:
    """Make the drafts of a specification and ask for approval: the bank after it, and what became of each task."""
    from noria.skills.proposing.protocols import Specification
    from noria.skills.routing.encoders import make_encoder
    from noria.skills.stages.creator import create_skills
    from noria.skills.stages.human import AnyoneGate, FileGate, HumanGate, TerminalGate

    if config.spec is None:
        raise ConfigError("no specification given", where="SPEC", mend="give a YAML file of tasks")
    spec = parse_config(Specification, read_bytes(config.spec, limit=1_000_000), where=str(config.spec))
    gate: HumanGate = FileGate(config.bank / ".noria" / "review")
    if config.human == "ask":
        if not sys.stdin.isatty():
            raise ConfigError("there is no terminal to ask at", where="--human ask", mend="use --human files")
        gate = TerminalGate(click.echo, click.prompt, config.name())
    elif config.human == "none":
        gate = AnyoneGate(config.name())
    pool = config.pools()["optimise"] if config.data is not None else []
    assistant = config.assistant(config.bank) if config.url is not None else None
    return create_skills(
        spec.tasks,
        pool,
        bank,
        config.proposing(config.bank),
        gate,
        config.part(CreateConfig),
        encoder=make_encoder(config.encoder),
        tools=[*spec.tools] or tools_of(bank, [t for task in spec.tasks for t in task.tools]),
        rubric=config.load(),
        assistant=assistant,
    )
