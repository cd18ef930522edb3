"""`noria skills ab`: an A/B test of two banks, read at any time."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Annotated, Any

import click
from pydantic import Field

from noria.core.config import Argument
from noria.core.errors import DataError
from noria.skills.stages.online import OnlineConfig
from noria.verbs.command import command as make_command
from noria.verbs.options import JsonOption


class AbConfig(OnlineConfig, JsonOption):
    """Settings of `noria skills ab`."""

    users: Annotated[Path | None, Argument()] = Field(
        None, description="A line a user: arm (control or treatment) and value, null where not finished."
    )
    rate: float = Field(
        0.5, gt=0, lt=1, description="Rate of the control, for the plan of a test without users."
    )


@make_command(AbConfig)
def command(config: AbConfig) -> None:
    """Read a test, or print how many users one needs where no file is given."""
    result = run(config)
    if config.as_json:
        click.echo(json.dumps(result, indent=2))
        return
    if config.users is None:
        click.echo(
            f"{result['planned']:,} users of both arms find {config.effect:g} with power {config.power:g}"
        )
        return
    click.echo(f"{result['reading']}: {result['why']}")
    for arm, count in result["users"].items():
        done = result["finished"][arm]
        click.echo(f"{arm:10}{count:>9,} users{'' if done is None else f', {done:.1%} finished'}")


def run(config: AbConfig) -> dict[str, Any]:
    """Read a test, or plan one.

    Raises:
        DataError: a line is no user.
    """
    from noria.core.experiments.power import proportion_variance
    from noria.core.records import json_values, read_records
    from noria.skills.stages.online import planned_users, read_online

    settings = config.part(OnlineConfig)
    if config.users is None:
        after = min(max(config.rate + config.effect, 0.0), 1.0)
        return {
            "planned": planned_users(settings, (proportion_variance(config.rate), proportion_variance(after)))
        }
    sides: dict[str, list[float]] = {"control": [], "treatment": []}
    for where, row in read_records(config.users, "users"):
        arm, value = row.get("arm"), row.get("value")
        known = value is None or (isinstance(value, int | float) and not isinstance(value, bool))
        if arm not in [*sides] or not known or (value is not None and not math.isfinite(value)):
            raise DataError(
                "a user has an arm (control, treatment) and a number or null as value", where=where
            )
        sides[arm].append(float("nan") if value is None else float(value))
    read = read_online(sides["control"], sides["treatment"], settings)
    values: dict[str, Any] = json_values(vars(read) | {"interval": vars(read.interval)})
    return values
