"""`noria reports ask`: a follow-up question on a finished report, answered from its evidence."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated

import click
from pydantic import Field

from noria.core.config import Argument, Option
from noria.verbs.command import command as make_command
from noria.verbs.options import JsonOption, ServerOptions


class AskConfig(ServerOptions, JsonOption):
    """Settings of `noria reports ask`."""

    report: Annotated[Path, Argument()] = Field(description="Folder of the finished report.")
    question: Annotated[str, Argument()] = Field(description="Question in words.")
    number: Annotated[int, Option("-n")] = Field(5, ge=1, le=50, description="Most sentences of the answer.")
    budget: float | None = Field(None, gt=0, description="Most money that the model may cost.")


@make_command(AskConfig, extra="reports")
def command(config: AskConfig) -> int:
    """Answer from a report's ledger, each sentence with its sources; exit code 1 where the evidence does not say."""
    from noria.core.errors import ConfigError
    from noria.reports.agents.asking import Asker
    from noria.reports.document.bundle import read_bundle
    from noria.reports.finished.followup import answer, with_references

    if not config.question.strip():
        raise ConfigError("an empty question", where="QUESTION", mend="say what you want to know")
    if config.budget is not None and not (config.url or config.model):
        raise ConfigError(
            "a limit on a model without a model", where="--budget", mend="give --url and --model"
        )
    bundle = read_bundle(config.report)
    asker = Asker(config.server(), money=config.budget) if config.url or config.model else None
    given = with_references(answer(config.question, bundle, asker, most=config.number), bundle)
    if config.as_json:
        click.echo(json.dumps(given, ensure_ascii=False, indent=2))
        return 0 if given["sentences"] else 1
    for sentence in given["sentences"]:
        click.echo(f"{sentence['text']} {''.join(f'[{n}]' for n in sentence['references'])}")
    for one in given["references"]:
        click.echo(f"[{one['number']}] {one['text']} {one['url']}")
    if not given["sentences"]:
        click.echo("the report's evidence does not say")
    return 0 if given["sentences"] else 1
