"""`noria assistant ablate`: what each part of the bundle that serves contributes."""

from __future__ import annotations

import asyncio
import json
from typing import TYPE_CHECKING, Any

import click
from pydantic import Field

from noria.assistant.config import ServeConfig
from noria.assistant.learners.settings import AblationConfig
from noria.verbs.command import command as make_command
from noria.verbs.options import JsonOption
from noria.verbs.tables import table

if TYPE_CHECKING:
    from noria.assistant.learners.ablation import Contribution


class AblateConfig(ServeConfig, AblationConfig, JsonOption):
    """Settings of `noria assistant ablate`: those of the gateway, the sample, and what it may take."""

    money: float | None = Field(
        None,
        ge=0,
        description="Most that the ablation may cost, over all starts, in the currency of the prices.",
    )
    most_seconds: float | None = Field(None, gt=0, description="Longest time of all starts together.")
    again: bool = Field(False, description="Begin another ablation, even where the last one did not end.")


@make_command(AblateConfig, extra="serve")
def command(config: AblateConfig) -> None:
    """Answer a sample of the log with everything, and with each part left out, before the judge of the gate.

    The gateway may serve meanwhile; users see nothing of it. The same command resumes one that was stopped.
    """
    from noria.assistant.config import AssistantConfig
    from noria.assistant.learning import ablated

    def seen(one: Contribution) -> None:
        click.echo(f"{one.part}: {one.verdict}", err=True)

    folder, result = asyncio.run(
        ablated(
            config.folder,
            config.part(AssistantConfig),
            config.part(AblationConfig),
            again=config.again,
            money=config.money,
            seconds=config.most_seconds,
            seen=seen,
        )
    )
    if config.as_json:
        click.echo(json.dumps(result))
        return
    lines = [["part", "it", "score", "interval", "cost", "compared", "changed", "acted", "failed"]]
    lines += [_line(one) for one in result["parts"]]
    if result["parts"]:
        click.echo(table(lines, names=2))
    else:
        click.echo("The bundle that serves has no part that could be left out.")
    for one in result["parts"]:
        if one["why"]:
            click.echo(f"{one['part']}: {one['why']}")
    click.echo(f"judged by {result['judge']}, spent {result['spent']:.6g}", err=True)
    click.echo(f"result  {folder / 'result.json'}")


def _line(one: dict[str, Any]) -> list[str]:
    def signed(value: float | None) -> str:
        return "—" if value is None else f"{value:+.3g}"

    known = one["low"] is not None
    interval = f"[{signed(one['low'])}, {signed(one['high'])}]" if known else "—"
    counts = [f"{one[name]:,}" for name in ("requests", "changed", "acted", "failed")]
    return [one["part"], one["verdict"], signed(one["effect"]), interval, signed(one["cost"]), *counts]
