"""`noria skills drift`: has traffic moved since a time of reference?"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated, Any

import click
from pydantic import Field

from noria.core.config import Argument
from noria.core.errors import CheckError
from noria.skills.verbs.options.bank import BankArgument, RubricOption, read_traffic
from noria.skills.verbs.options.models import RouterOptions
from noria.skills.verbs.options.stages import share
from noria.verbs.command import command as make_command
from noria.verbs.options import JsonOption, SeedOption
from noria.verbs.tables import table


class DriftConfig(BankArgument, RubricOption, RouterOptions, SeedOption, JsonOption):
    """Settings of `noria skills drift`."""

    before: Annotated[Path, Argument()] = Field(description="Traffic of the time of reference.")
    after: Annotated[Path, Argument()] = Field(description="Traffic of the time that is compared.")


@make_command(DriftConfig)
def command(config: DriftConfig) -> None:
    """Compare shares of routes, embeddings, margins and Poor answers; exits with 1 on an alarm."""
    found = run(config)
    if config.as_json:
        click.echo(json.dumps(found, indent=2, ensure_ascii=False))
    else:
        rows = [
            ["route", "before", "after"],
            *([n, share(a), share(b)] for n, (a, b) in found["shares"].items()),
        ]
        click.echo(table(rows))
        click.echo(f"PSI {share(found['psi'])}, MMD² {found['mmd']:.4g} (p {share(found['p_value'])})")
        for name in ("margin_alarm", "poor_alarm"):
            if found[name] is not None:
                click.echo(f"{name.replace('_', ' ')} at request {found[name] + 1}")
        for name, counts in zip(("before", "after"), found["requests"], strict=True):
            last = (
                f", the last {counts['compared']:,} compared" if counts["compared"] < counts["read"] else ""
            )
            click.echo(f"{counts['read']:,} requests {name}{last}")
        if not found["rules"]:
            click.echo("Poor answers are not compared: give rules with --rubric")
        for one in found["missing"]:
            click.echo(f"missing skill? {one['requests']} requests about {', '.join(one['terms'][:5])}")
    if found["alarm"]:
        raise CheckError("traffic has moved", where=str(config.after), mend="run the chain again")


def run(config: DriftConfig) -> dict[str, Any]:
    """Compare two times.

    Raises:
        DataError: the traffic cannot be read, or most of it is left out.
    """
    import numpy as np

    from noria.core.records import json_values
    from noria.skills.judging.judges import judge_answers
    from noria.skills.routing.encoders import make_encoder
    from noria.skills.stages.missing import find_missing
    from noria.skills.traffic.drift import MOST, find_drift

    bank, rubric, encoder = config.folder().load(), config.load(), make_encoder(config.encoder)
    whole = [read_traffic(path) for path in (config.before, config.after)]
    sides = [side[-MOST:] for side in whole]
    router = config.maker(sides[0], None)(bank)
    routes = [router.route(side) for side in sides]
    poor = []
    for side in sides:
        given = [(s, s.response) for s in side if s.response is not None]
        judged = judge_answers(given, rubric, None) if rubric.rules else []
        tiers = {j.sample.id: j.tiers.values() for j in judged if j.tiers}
        poor.append([float("Poor" in tiers[s.id]) if s.id in tiers else np.nan for s in side])
    drift = find_drift(
        ([r.label for r in routes[0]], [r.label for r in routes[1]]),
        (encoder.encode([s.text for s in sides[0]]), encoder.encode([s.text for s in sides[1]])),
        [s.group for side in sides for s in side],
        ([r.margin for r in routes[0]], [r.margin for r in routes[1]]),
        (poor[0], poor[1]),
        generator=np.random.default_rng(config.seed),
    )
    queue = [
        {"requests": len(one.samples), "groups": one.groups, "terms": list(one.terms)}
        for one in find_missing(sides[1], sides[0], encoder)
    ]
    beside = {"alarm": drift.alarm, "missing": queue, "rules": len(rubric.rules)}
    beside["requests"] = [{"read": len(side), "compared": len(side[-MOST:])} for side in whole]
    values: dict[str, Any] = json_values(vars(drift) | beside)
    return values
