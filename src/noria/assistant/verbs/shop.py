"""`noria assistant shop`: a simulated shop, from its opening to what its users taught it."""

from __future__ import annotations

import asyncio
import json
import time
from pathlib import Path
from typing import Annotated, Any

import click
from pydantic import Field

from noria.assistant.world.settings import SeasonConfig
from noria.core.config import Option
from noria.verbs.command import command as make_command
from noria.verbs.options import JsonOption, OutputOption, QuietOption


class ShopConfig(SeasonConfig, OutputOption, JsonOption, QuietOption):
    """Settings of `noria assistant shop`."""

    stay: bool = Field(False, description="Keep the shop open when the season has ended, to click in it.")
    port: Annotated[int, Option("--port")] = Field(
        0, ge=0, le=65535, description="Port of the shop; 0 takes a free one."
    )


@make_command(ShopConfig, extra="all", needs=("torch", "transformers"))
def command(config: ShopConfig) -> None:
    """Open a shop of embedded, trained parts, let simulated users ask, turn the wheel, and say what came of it.

    The same command resumes a season that was stopped.
    """
    from noria.core.progress import Progress

    began = time.monotonic()
    with Progress(quiet=config.quiet) as progress:
        folder, result = run(config, progress)
    if config.as_json:
        click.echo(json.dumps(result))
        return
    whole = result["quality"]["all"]
    click.echo(
        f"quality  {whole['before']:.3f} before, {whole['after']:.3f} after: {whole['difference']:+.3f} "
        f"[{whole['low']:+.3f}, {whole['high']:+.3f}] on {whole['requests']} questions that nobody learnt from"
    )
    for one in result["turns"]:
        said = f"; the test: {one['stage']}, {one['test']}" if one["stage"] else f": {one['reason']}"
        click.echo(f"turn     {one['part']}: {one['outcome']}{said}")
    click.echo(f"report   {folder / 'report.html'}")
    click.echo(
        f"console  noria assistant shop -o {folder} --stay keeps it open; {time.monotonic() - began:.0f} s"
    )


def run(config: ShopConfig, progress: Any) -> tuple[Path, dict[str, Any]]:
    """Open the shop and live through its season; the folder and the result.

    Raises:
        NoriaError: anything that a user can mend.
    """
    from noria.assistant.world.page import write_season_page
    from noria.assistant.world.season import Season
    from noria.assistant.world.shop import check_models, opened_shop
    from noria.core.records import read_json
    from noria.core.runs.outputs import check_run_folder, run_folder
    from noria.core.runs.run import Run

    check_models()
    settings = config.part(SeasonConfig)
    folder = run_folder("assistant", config.output, f"shop-{config.seed}")
    check_run_folder(folder)
    with Run.open(folder, config=settings.model_dump(mode="json")) as record:
        ended = folder / "result.json"
        if ended.exists() and not config.stay:
            progress.say("the season has ended already; -o FOLDER opens another shop")
            return folder, read_json(ended)
        opening = progress.task("opening the shop")
        with opened_shop(folder, learner=settings.learning(), port=config.port) as shop:
            opening.done(f"page {shop.url}/chat  console {shop.url}/  token of the operator {shop.token}")
            season = Season(folder, shop, settings, progress)
            result = read_json(ended) if ended.exists() else asyncio.run(season.run())
            for step, one in enumerate(
                result["parts"], 1
            ):  # the log of a run without checkpoints begins anew
                record.log(step, part=one["part"], requests=one["requests"], quality=one["quality"])
            write_season_page(folder)
            if config.stay:
                click.echo(f"open     {shop.url}/chat and {shop.url}/ ; Ctrl-C closes the shop", err=True)
                shop.wait()
    return folder, result
