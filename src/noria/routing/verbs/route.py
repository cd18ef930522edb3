"""`noria routing route`: whom a router would ask one question, and why."""

from __future__ import annotations

import asyncio
import json
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import click
from pydantic import Field

from noria.core.config import Argument, Option
from noria.core.errors import ConfigError
from noria.core.models.config import DownloadOption
from noria.core.records import json_values
from noria.routing.config import RouterArgument, TradeOption
from noria.verbs.command import command as make_command
from noria.verbs.options import JsonOption
from noria.verbs.tables import table

if TYPE_CHECKING:
    from noria.routing.pool.pool import Reply
    from noria.routing.routers.router import Decision


class RouteConfig(RouterArgument, TradeOption, DownloadOption, JsonOption):
    """Settings of `noria routing route`."""

    question: Annotated[str, Argument()] = Field(description="Question to decide about.")
    dataset: str | None = Field(
        None, description="Data set of the question, for a router that was fitted by data sets."
    )
    pool: Annotated[Path | None, Option(metavar="FILE")] = Field(
        None, description="YAML file of the models that can be asked."
    )


@make_command(RouteConfig, extra="routing")
def command(config: RouteConfig) -> None:
    """Say whom ROUTER would ask QUESTION, and why; with --pool also ask."""
    decision, reply = run(config)
    ranked = list(zip(decision.ranking, decision.utility, strict=True))
    if config.as_json:
        content: dict[str, Any] = {
            "route": decision.route.label,
            "reason": decision.reason,
            "ranking": [{"route": route.label, "utility": utility} for route, utility in ranked],
        }
        if reply is not None:
            content |= {"answer": reply.text, "failure": reply.failure, "cost": reply.cost}
        click.echo(json.dumps(json_values(content), indent=2))
        return
    click.echo(f"route   {decision.route.label}")
    click.echo(f"reason  {decision.reason}")
    click.echo(table([("ranking", "utility"), *((r.label, f"{u:.3f}") for r, u in ranked[:8])]))
    if reply is not None:
        click.echo(f"answer  {reply.text if reply.text is not None else f'none ({reply.failure})'}")


def run(config: RouteConfig) -> tuple[Decision, Reply | None]:
    """Decide about a question; with a pool, ask the chosen route, and the next where that fails.

    Raises:
        NoriaError: anything that a user can mend.
    """
    from noria.routing.pool.config import read_pool
    from noria.routing.pool.pool import open_pool
    from noria.routing.routers.files import open_router

    pool_config = None if config.pool is None else read_pool(config.pool)
    if (config.router / "policy").is_dir():
        raise ConfigError(
            "a router that writes decides while it asks",
            where=str(config.router),
            mend="call it by noria routing serve",
        )
    router = open_router(config.router, trade=config.trade)
    if config.dataset is not None and router.kind != "best_per_task":
        raise ConfigError(
            f"a {router.kind} router does not look at the data set", where="--dataset", mend="leave it out"
        )
    if pool_config is None:
        return router.decide(config.question, config.dataset), None
    opened = pool_config

    async def work() -> tuple[Decision, Reply | None]:
        async with open_pool(opened, allow_download=config.allow_download) as pool:
            decision = router.decide(config.question, config.dataset, among=pool.routes)
            reply = None
            for route in decision.ranking:
                reply = await pool.ask(route, config.question)
                if reply.text is not None:
                    break
            return decision, reply

    return asyncio.run(work())
