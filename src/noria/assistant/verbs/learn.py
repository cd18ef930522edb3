"""`noria assistant learn`: one turn of the wheel on a gateway's traffic."""

from __future__ import annotations

import asyncio
from typing import Annotated

import click
from pydantic import Field

from noria.assistant.config import ServeConfig
from noria.core.config import Option
from noria.verbs.command import command as make_command


class LearnConfig(ServeConfig):
    """Settings of `noria assistant learn`: those of the gateway, and why a turn is started."""

    reason: Annotated[str, Option("-m", metavar="WORDS")] = Field(
        "by hand", min_length=1, max_length=500, description="Reason of the turn, for its receipt."
    )
    abandon: Annotated[str | None, Option(metavar="WORDS")] = Field(
        None,
        min_length=1,
        max_length=500,
        description="Reason for which the turn that was interrupted is ended as stopped; none is run then.",
    )


@make_command(LearnConfig, extra="serve")
def command(config: LearnConfig) -> None:
    """Run the next turn of the gateway that --config names, or the one that was interrupted.

    The gateway may serve meanwhile. One whose settings have changed since it was interrupted ends as stopped, with a
    receipt, and the next one runs. What passes the gate begins an experiment in the shadow; nothing is promoted here.
    """
    from noria.assistant.config import AssistantConfig
    from noria.assistant.learning import end_open_turn, opened_turn, told

    if config.abandon is not None:
        folder, receipt = end_open_turn(config.folder, config.part(AssistantConfig), config.abandon)
        click.echo(told(receipt, folder))
        return

    async def run() -> str:
        async with opened_turn(
            config.folder,
            config.part(AssistantConfig),
            by="operator",
            reason=config.reason,
            tell=lambda line: click.echo(line, err=True),
        ) as (turn, plan):
            click.echo(f"turn {plan.number}: {plan.reason}", err=True)
            return told(await turn.run(), turn.folder)

    click.echo(asyncio.run(run()))
