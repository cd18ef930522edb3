"""`noria skills route`: where requests go, and stage 2, descriptions repaired from misroutes."""

from __future__ import annotations

import json
from typing import Annotated, Any

import click
from pydantic import Field

from noria.core.config import Argument
from noria.core.errors import CheckError
from noria.skills.stages.gates import GateSettings
from noria.skills.stages.route_optimizer import RouteConfig
from noria.skills.verbs.options.bank import BankArgument, ByOption, TrafficOptions
from noria.skills.verbs.options.models import ModelOptions, RouterOptions
from noria.skills.verbs.options.stages import label_rows, run_stage, share, tools_of
from noria.verbs.command import command as make_command
from noria.verbs.options import JsonOption, refuse_given
from noria.verbs.tables import table


class RouteStageConfig(
    BankArgument, ByOption, RouteConfig, GateSettings, TrafficOptions, RouterOptions, ModelOptions, JsonOption
):
    """Settings of stage 2 as a verb runs it."""


class RouteVerbConfig(RouteStageConfig):
    """Settings of `noria skills route`."""

    query: Annotated[list[str] | None, Argument()] = Field(
        None, description="Requests to route, instead of a repair."
    )


@make_command(RouteVerbConfig)
def command(config: RouteVerbConfig) -> None:
    """Route the requests that are given; without any, repair descriptions from the misroutes in --data."""
    refuse_given(config, "judge_model", "final_judge_model", because="routes are compared, no answers")
    if config.query:
        refuse_given(config, *sorted(_REPAIR), because="requests are routed, and nothing is repaired")
        _route(config)
        return
    result = run_stage(config, "route", route_stage)
    if config.as_json:
        click.echo(json.dumps(result, indent=2, ensure_ascii=False))
        return
    click.echo(summary(result))


_REPAIR = {*ByOption.model_fields, *RouteConfig.model_fields, *GateSettings.model_fields, "proposer"}
"""Settings of a repair alone."""


def _route(config: RouteVerbConfig) -> None:
    from noria.core.records import json_values
    from noria.skills.bank.catalogue import catalogue
    from noria.skills.traffic.samples import Sample

    folder = config.folder()
    bank = folder.load()
    fit_on = config.pools()["optimise"] if config.data is not None else []
    router = config.maker(fit_on, config.asker(config.bank))(bank)
    samples = [Sample(str(n), text, str(n)) for n, text in enumerate(config.query or [])]
    shown = catalogue(
        bank.routed(config.project), budget=config.catalogue_chars, per_skill=config.description_chars
    )
    routes = router.route(samples)
    fitted = config.router == "chat" or bool(fit_on)
    if config.as_json:
        found = [
            {
                "request": s.query,
                "skill": r.label,
                "confidence": r.confidence,
                "margin": r.margin,
                "reason": r.reason,
            }
            for s, r in zip(samples, routes, strict=True)
        ]
        values = json_values({"routes": found, "dropped": list(shown.dropped), "fitted": fitted})
        click.echo(json.dumps(values, indent=2, ensure_ascii=False))
    else:
        rows = [
            [s.query[:50], r.label, share(r.confidence), share(r.margin), r.reason[:60]]
            for s, r in zip(samples, routes, strict=True)
        ]
        click.echo(table([["request", "skill", "confidence", "margin", "reason"], *rows], names=2))
        if shown.dropped:
            click.echo(
                f"not in the catalogue of {config.catalogue_chars} characters: {', '.join(shown.dropped)}"
            )
        if config.router == "embedding" and not fitted:
            click.echo("thresholds and confidences are not fitted: give labelled traffic with --data")
    errors = [r.reason for r in routes if r.outcome == "error"]
    if errors:
        raise CheckError(
            f"{len(errors)} of {len(routes)} requests have no decision", where="--router", mend=errors[0][:80]
        )


def route_stage(config: Any, bank: Any, pools: Any) -> tuple[Any, dict[str, Any]]:
    """Stage 2 on dealt pools: the bank after it, and its summary."""
    from noria.skills.routing.encoders import make_encoder
    from noria.skills.stages.chain import route_summary
    from noria.skills.stages.gates import needed_items
    from noria.skills.stages.missing import missing_skills
    from noria.skills.stages.route_optimizer import optimize_routes
    from noria.skills.traffic.samples import NO_SKILL

    ask = config.asker(config.bank)
    maker = config.maker(pools["optimise"], ask)
    result = optimize_routes(
        bank,
        pools["optimise"],
        pools["route_gate"],
        maker,
        config.proposing(config.bank, maker),
        config.part(RouteConfig),
        config.part(GateSettings),
        known_tools=tools_of(bank),
    )
    router = maker(result.bank)
    lost = [
        s
        for s, r in zip(pools["optimise"], router.route(pools["optimise"]), strict=True)
        if r.outcome == "none" and not {*s.expected} & {*result.bank.skills, NO_SKILL}
    ]
    queue = missing_skills(lost, make_encoder(config.encoder))
    summary = route_summary(result)
    summary["needed"] = needed_items(0.05, 0.5, config.part(GateSettings))
    summary["queue"] = [
        {"samples": [s.id for s in one.samples[:50]], "groups": one.groups, "terms": list(one.terms)}
        for one in queue
    ]
    return result.bank, summary


def summary(result: dict[str, Any]) -> str:
    """The summary of stage 2 in words."""
    before, after = result["before"], result["after"]
    lines = [table([["F1 on the gate's pool", "before", "after"], *label_rows(before["f1"], after["f1"])])]
    lines.append(
        f"macro F1 {share(before['macro_f1'])} → {share(after['macro_f1'])} on {before['samples']} requests"
    )
    if before["errors"]:
        lines.append(f"errors of the router {before['errors']:.1%}: counted as errors, not as none")
    for one in result["rounds"]:
        causes = ", ".join(f"{n} {c}" for c, n in one["causes"].items() if n) or "no misroutes"
        done = ", ".join(f"{o['operation']} {o['skill']}" for o in one["accepted"]) or "nothing accepted"
        lines.append(f"round {one['round']}: {causes}; {done}")
        lines += [f"  refused {skill}: {why}" for skill, why in one["refused"]]
        lines += [f"  gate: {receipt['reason']}" for receipt in one["receipts"][:1]]
    for name, count in result["few"].items():
        lines.append(f"{name}: {count} misroutes are too few for an update")
    for one in result["queue"]:
        lines.append(f"missing skill? {one['groups']} groups about {', '.join(one['terms'][:5])}")
    lines.append(f"the gate finds a gain of .05 from about {result['needed']} requests on")
    return "\n".join(lines)
