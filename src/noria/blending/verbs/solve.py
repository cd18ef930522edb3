"""`noria blending solve`: the boosts that reach every plan's target."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import click
import numpy as np
from pydantic import Field

from noria.blending.plans.plans import load_plans
from noria.blending.snapshot import Setting, Snapshot
from noria.blending.verbs import figures, output
from noria.blending.verbs.options import CandidateOptions, FileOption
from noria.core.config import Argument, Option
from noria.core.errors import ConfigError, DataError
from noria.core.pages.charts import Figure
from noria.verbs.command import command as make_command
from noria.verbs.options import JsonOption, OutputOption
from noria.verbs.tables import table

if TYPE_CHECKING:
    from noria.blending.logs.replay import ReplayResult
    from noria.blending.pricing.solving import Goal


class SolveConfig(CandidateOptions, OutputOption, JsonOption):
    """Settings of `noria blending solve`."""

    snapshot: Annotated[Path, Argument()] = Field(description="Snapshot that serves.")
    plans: FileOption = Field(None, description="Plan file with the targets (default: the snapshot's).")
    daily_exposures: float | None = Field(
        None, gt=0, description="Exposures a day of all traffic, for targets a day."
    )
    frontier: Annotated[str | None, Option(metavar="PLAN")] = Field(
        None, description="Plan whose price is shown as its target rises."
    )


@make_command(SolveConfig, extra="blending")
def command(config: SolveConfig) -> int | None:
    """Solve the targets of the plan file on a log, and write the snapshot with the boosts they need."""
    result = run(config)
    output.show(result, config.as_json, _print)
    missed = [plan["plan"] for plan in result.results["plans"] if plan["missed"] > 0.001]
    if missed and not config.as_json:
        click.echo(f"not reached: {', '.join(missed)}", err=True)
        return 1
    return None


def _print(result: output.VerbResult) -> None:
    r = result.results
    lines = [["plan", "moves", "target", "reached", "price of 1,000"]]
    for plan in r["plans"]:
        cells = [output.cell(plan["target"]), output.cell(plan["reached"]), output.cell(1000 * plan["price"])]
        lines.append([plan["plan"], plan["moves"], *cells])
    click.echo(table(lines, names=2))
    if "frontier" in r:
        points = [["share", "reached", "price of 1,000", "cost of a place"]]
        for p in r["frontier"]["points"]:
            points.append([output.cell(x) for x in (p["target"], p["reached"], 1000 * p["price"], p["cost"])])
        click.echo(f"\n{table(points, names=0)}")
    click.echo(f"\nvalue     {output.cell(r['value'])} a place, {output.cell(r['without'])} without targets")
    click.echo(f"snapshot  {result.folder / 'snapshot.json'}   version {r['version']}, {r['digest'][:12]}")
    click.echo(f"report    {result.report}")


def run(config: SolveConfig) -> output.VerbResult:
    """Set the boosts that reach every plan's target, and write the snapshot with them.

    Raises:
        NoriaError: anything that a user can mend; nothing was written then.
    """
    from noria.blending.logs.replay import replay
    from noria.blending.plans.targeting import columns_of
    from noria.blending.pricing.solving import free_value, goal_of, solve

    folder = output.folder_of(config.output, "solve")
    served = _served(config)
    wanted = [
        (bit, plan) for bit, plan in enumerate(served.plans.plans) if plan.target is not None and plan.enabled
    ]
    if not wanted:
        raise ConfigError(
            "no plan has a target",
            where=str(config.plans or config.snapshot),
            mend="give one, as target: {exposure_share: 0.05}",
        )
    daily = any(plan.target and not plan.target.is_share for _, plan in wanted)
    if config.daily_exposures is not None and not daily:
        raise ConfigError("no plan has a target a day", where="--daily-exposures", mend="leave it out")
    log = config.read()
    for _, plan in wanted:
        absent = sorted(columns_of(plan.targeting) - log.columns.keys())
        if absent:
            raise DataError(
                f"there is no column {absent[0]!r}, which plan {plan.id!r} is for",
                where=str(config.candidates),
            )
    replayed = replay(log, served, config.size)
    requests, tables = replayed.requests, replayed.tables
    places = int(np.minimum(np.diff(requests.start), config.size).sum())
    if not places:
        raise DataError(
            "no candidate can be ranked",
            where=str(config.candidates),
            mend="give a snapshot that knows its sources",
        )
    free = free_value(requests, tables, config.size, [bit for bit, _ in wanted])
    goals = [goal_of(bit, plan, places, free, config.daily_exposures) for bit, plan in wanted]
    solved = solve(requests, tables, config.size, goals)
    settings, plans = dict(served.settings), []
    for number, ((bit, plan), goal) in enumerate(zip(wanted, goals, strict=True)):
        weight, bias = float(solved.tables.weight[bit]), float(solved.tables.bias[bit])
        settings[plan.id] = Setting(weight, bias) if goal.moves == "bias" else Setting(weight, plan.bias)
        scale = places if goal.moves == "bias" else free
        plans.append(
            {
                "plan": plan.id,
                "moves": goal.moves,
                "target": goal.amount / scale,
                "reached": float(solved.reached[number]) / scale,
                "missed": float(solved.missed[number]),
                "price": float(solved.price[number]),
            }
        )
    after = served.next(created=served.created, settings=settings)
    results: dict[str, Any] = {
        "requests": len(log),
        "sampled": log.sampled,
        "exposures": places,
        "size": config.size,
        "plans": plans,
        "value": solved.value / places,
        "without": free / places,
        "loss": None if solved.loss is None else solved.loss / places,
        "rounds": solved.rounds,
        "version": after.version,
        "digest": after.digest,
    }
    if config.frontier is not None:
        bit = served.plans.place(config.frontier)
        results["frontier"] = {"plan": config.frontier} | _frontier(replayed, goals, bit, places, free)
    return output.finish(folder, "solve", results, PAGE, snapshot__json=after)


def _served(config: SolveConfig) -> Snapshot:
    """The snapshot, with the plan file that has the targets."""
    served = Snapshot.load(config.snapshot)
    if config.plans is None:
        return served
    plans = load_plans(config.plans)
    return Snapshot.of(
        served.alignment,
        plans,
        settings=served.settings_for(plans),
        version=served.version,
        created=served.created,
    )


def _frontier(
    replayed: ReplayResult, goals: Sequence[Goal], bit: int, places: int, free: float
) -> dict[str, Any]:
    from noria.blending.pricing.solving import Goal, frontier

    own = next((goal for goal in goals if goal.plan == bit), Goal(bit, 0.0))
    others = [goal for goal in goals if goal.plan != bit]
    middle = own.amount / (places if own.moves == "bias" else free) or 0.05
    shares = {min(0.95, middle * step) for step in (0.25, 0.5, 0.75, 1.0, 1.25, 1.5, 2.0)}
    points = frontier(replayed.requests, replayed.tables, replayed.size, own, sorted(shares), others=others)
    within = [point for point in points if point.reached >= point.target - 0.001]
    return {
        "moves": own.moves,
        "points": [asdict(point) | {"cost": point.cost / places} for point in within],
        "beyond": [point.target for point in points if point not in within],
    }


# -- the page ---------------------------------------------------------------------------------------------------------


def sections(r: output.Results) -> output.Sections:
    """Sections of the page, from the results."""
    loss = (
        ""
        if r["loss"] is None
        else f" No lists with these shares are worth more by {figures.dash(r['loss'])} or more."
    )
    blocks: output.Blocks = [
        f"{r['requests']:,} requests, {r['exposures']:,} places: {figures.dash(r['value'])} completions a place "
        f"with the targets, {figures.dash(r['without'])} without.{loss}",
        figures.table(
            "Targets",
            r["plans"],
            "plan | moves | target | reached | missed | price | price of 1,000",
            "The price is what one more exposure of the plan takes from all lists, or one more completion where the "
            "weight is moved.",
            computed={"price of 1,000": lambda plan: 1000 * plan["price"]},
        ),
    ]
    if "frontier" in r:
        f = r["frontier"]
        blocks.append(
            Figure.chart(
                f"The frontier of {f['plan']}",
                _frontier_chart(f["points"]),
                "Its price, and what it takes from the value of a place, as its share rises; other targets are kept.",
            )
        )
        if f["beyond"]:
            shares = ", ".join(figures.percent(share) for share in f["beyond"])
            blocks.append(f"Beyond reach on these requests: {shares}.")
    return [("Targets", blocks)]


def _frontier_chart(points: list[dict[str, Any]]) -> Any:
    import altair as alt

    base = alt.Chart(alt.Data(values=points)).encode(
        x=alt.X("reached:Q", title="share reached", axis=alt.Axis(format="%")),
        tooltip=["reached:Q", "price:Q", "cost:Q", "value:Q"],
    )
    price = base.mark_line(point=True).encode(y=alt.Y("price:Q", title="price, completions"))
    cost = base.mark_line(point=True, strokeDash=[4, 3]).encode(y=alt.Y("cost:Q", title="cost of a place"))
    return (price.properties(width="container", height=180)) & (
        cost.properties(width="container", height=180)
    )


PAGE = output.Page("Targets and their prices", sections)
