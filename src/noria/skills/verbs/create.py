"""`noria skills create`: stage 1, skills from task specifications and trajectories."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import click
from pydantic import Field

from noria.core.config import Argument, parse_config
from noria.core.errors import ConfigError
from noria.core.files import read_bytes
from noria.skills.stages.creator import CreateConfig
from noria.skills.verbs.options.bank import BankArgument, ByOption, RubricOption, TrafficOptions
from noria.skills.verbs.options.models import ModelOptions, RouterOptions
from noria.skills.verbs.options.stages import run_stage, tools_of
from noria.verbs.command import command as make_command
from noria.verbs.options import refuse_given
from noria.verbs.tables import table

if TYPE_CHECKING:
    from noria.skills.stages.human import HumanGate


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
    """Write the skills that a specification asks for: drafts are checked, tried, and approved by a person.

    With --data and without SPEC it prints a specification of what the traffic asks for and no skill is for.
    """
    if config.proposer == "gepa":
        refuse_given(
            config, "proposer", because="GEPA proposes descriptions alone", mend="give --proposer chat"
        )
    refuse_given(config, "final_judge_model", because="no gate scores answers to a draft")
    if config.spec is None and config.data is not None:
        click.echo(_drafted(config), nl=False)
        return
    made = run_stage(config, "create", create_stage)["created"]
    rows = [[o["skill"], o["decision"], str(o["rounds"]), "; ".join(o["faults"])[:70]] for o in made]
    nothing = "the bank has every task's skill"
    click.echo(table([["task", "state", "rounds", "why"], *rows], names=4) if rows else nothing)
    if any(row[1] == "waiting" for row in rows):
        click.echo(f"decide in {config.bank / '.noria' / 'review'}, then run the same command again")


def _drafted(config: CreateVerbConfig) -> str:
    """A specification of what traffic asks for, as YAML to complete."""
    from noria.core.yaml_values import yaml_text
    from noria.skills.routing.encoders import make_encoder
    from noria.skills.stages.creator import wanted_tasks

    tasks = wanted_tasks(config.samples(), config.folder().load(), make_encoder(config.encoder))
    head = "# Drafted from traffic: mend names and purposes, add tools, format and rules.\n"
    return head + yaml_text({"tasks": [{"name": one.name, "purpose": one.purpose} for one in tasks]})


def create_stage(config: Any, bank: Any, pools: Any) -> tuple[Any, dict[str, Any]]:
    """Stage 1: the bank after it, and its summary."""
    from noria.skills.judging.judges import judge_answers
    from noria.skills.proposing.protocols import Specification
    from noria.skills.routing.encoders import make_encoder
    from noria.skills.stages.creator import create_skills

    if config.spec is None:
        raise ConfigError("no specification given", where="SPEC", mend="give a YAML file of tasks")
    rubric = config.load()
    feedback, _ = config.judges(config.bank, rubric)
    given = [(s, s.response) for s in pools["optimise"] if s.response is not None]
    judged = judge_answers(given, rubric, feedback) if feedback is not None or rubric.rules else []
    spec = parse_config(Specification, read_bytes(config.spec, limit=1_000_000), where=str(config.spec))
    after, made = create_skills(
        spec.tasks,
        pools["optimise"],
        bank,
        config.proposing(config.bank),
        _gate(config),
        config.part(CreateConfig),
        encoder=make_encoder(config.encoder),
        tools=[*spec.tools] or tools_of(bank, [t for task in spec.tasks for t in task.tools]),
        rubric=rubric,
        assistant=config.assistant(config.bank) if config.url is not None else None,
        scores={j.sample.id: j.score for j in judged if j.score is not None},
    )
    created = [
        {
            "skill": one.task,
            "decision": one.state,
            "rounds": one.rounds,
            "faults": list(one.faults),
            "human": None if one.decision is None else one.decision.to_json(),
        }
        for one in made
    ]
    return after, {"created": created, "waiting": sum(one.state == "waiting" for one in made)}


def _gate(config: Any) -> HumanGate:
    from noria.skills.stages.human import AnyoneGate, FileGate, TerminalGate

    if config.human == "none":
        return AnyoneGate(config.name())
    if config.human == "files":
        return FileGate(config.bank / ".noria" / "review")
    if not sys.stdin.isatty():
        raise ConfigError("there is no terminal to ask at", where="--human ask", mend="use --human files")
    return TerminalGate(click.echo, click.prompt, config.name())
