"""`noria skills run`: the whole chain on one bank."""

from __future__ import annotations

import json
from typing import Any

import click

from noria.skills.verbs.create import CreateVerbConfig, create_stage
from noria.skills.verbs.options.stages import chain_of
from noria.skills.verbs.refine import RefineVerbConfig, refine_stage, summary as refine_summary
from noria.skills.verbs.route import RouteStageConfig, route_stage, summary as route_summary
from noria.verbs.command import command as make_command


class RunConfig(CreateVerbConfig, RouteStageConfig, RefineVerbConfig):  # type: ignore[misc]
    """Settings of `noria skills run`."""


@make_command(RunConfig)
def command(config: RunConfig) -> None:
    """Create, route, refine: each stage is published by itself; the same command resumes a chain that was killed."""
    result = run(config)
    if config.as_json:
        click.echo(json.dumps(result, indent=2, ensure_ascii=False))
        return
    for one in result["create"].get("created", []):
        click.echo(f"create {one['skill']}: {one['decision']}")
    click.echo(route_summary(result["route"]))
    click.echo(refine_summary(result["refine"]))


def run(config: RunConfig) -> dict[str, Any]:
    """Run the chain: the summary of each stage.

    Raises:
        DataError: the traffic cannot be read. RunError: another process writes the bank.
    """
    folder, pools = config.folder(), config.pools()
    with folder.writing():
        bank = folder.load()
        chain = chain_of(config, folder, bank, pools)
        found: dict[str, Any] = {"create": {}}
        if config.spec is not None:
            bank, found["create"] = chain.stage("create", bank, lambda b: create_stage(config, b, pools))
        bank, found["route"] = chain.stage("route", bank, lambda b: route_stage(config, b, pools))
        bank, found["refine"] = chain.stage("refine", bank, lambda b: refine_stage(config, b, pools))
    return found
