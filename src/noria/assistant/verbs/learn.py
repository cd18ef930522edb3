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


@make_command(LearnConfig, extra="serve")
def command(config: LearnConfig) -> None:
    """Run the next turn of the gateway that --config names, or the one that was interrupted.

    The gateway may serve meanwhile. What passes the gate begins an experiment in the shadow; nothing is promoted here.
    """
    from noria.assistant.config import AssistantConfig
    from noria.assistant.learning import opened_turn, told

    async def run() -> str:
        async with opened_turn(
            config.folder, config.part(AssistantConfig), by="operator", reason=config.reason
        ) as (turn, plan):
            click.echo(f"turn {plan.number}: {plan.reason}", err=True)
            return told(await turn.run(), turn.folder)

    click.echo(asyncio.run(run()))
