"""`noria skills run`: the whole chain on one bank."""

from __future__ import annotations

import json
from typing import Any

import click

from noria.skills.verbs.create import CreateVerbConfig, create
from noria.skills.verbs.refine import RefineVerbConfig, refine_stage, summary as refine_summary
from noria.skills.verbs.route import RouteVerbConfig, route_stage, summary as route_summary
from noria.verbs.command import command as make_command


class RunConfig(CreateVerbConfig, RouteVerbConfig, RefineVerbConfig):  # type: ignore[misc]
    """Settings of `noria skills run`."""


@make_command(RunConfig)
def command(config: RunConfig) -> None:
    """Create, route, refine: each stage is published by itself; the same command resumes a chain that was killed."""
    result = run(config)
    if config.as_json:
        click.echo(json.dumps(result, indent=2, ensure_ascii=False))
        return
    for row in result["create"].get("created", []):
        click.echo(f"create {row[0]}: {row[1]}")
    click.echo(route_summary(result["route"]))
    click.echo(refine_summary(result["refine"]))


def run(config: RunConfig) -> dict[str, Any]:
    """Run the chain: the summary of each stage.

    Raises:
        DataError: the traffic cannot be read. RunError: another process writes the bank.
    """
    from noria.skills.stages.chain import Chain, chain_key

    folder, pools = config.folder(), config.pools()
    with folder.writing():
        bank = folder.load()
        settings = config.model_dump(mode="json", exclude={"bank", "by", "dry_run", "as_json"})
        # The bank's name is no part of the key: the first stages change it.
        key = chain_key(settings, [s for pool in pools.values() for s in pool], type(bank)({}))
        chain = Chain(folder, f"run-{key}", by=config.name(), dry=config.dry_run)
        found: dict[str, Any] = {"create": {}}
        if config.spec is not None:
            bank, found["create"] = chain.stage("create", bank, lambda b: _create(config, b))
        bank, found["route"] = chain.stage("route", bank, lambda b: route_stage(config, b, pools, chain))
        bank, found["refine"] = chain.stage("refine", bank, lambda b: refine_stage(config, b, pools, chain))
    return found


def _create(config: RunConfig, bank: Any) -> tuple[Any, dict[str, Any]]:
    after, made = create(config, bank)
    return after, {"created": [[one.task, one.state, "; ".join(one.faults)] for one in made]}
