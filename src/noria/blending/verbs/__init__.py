"""The verbs of `noria blending`. They parse, call a job, and print what came of it."""

from __future__ import annotations

import importlib
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import click

from noria.blending.verbs.serve import log, serve
from noria.core.errors import ConfigError
from noria.core.progress import Progress
from noria.verbs import JSON, PATH, QUIET, SETTINGS, output, plain_warnings, table

if TYPE_CHECKING:
    from noria.blending.verbs.results import Done

__all__ = ["group"]

SIZE = click.option(
    "--size", "-k", type=click.IntRange(1, 10_000), default=10, show_default=True, help="Places of a list."
)
MOST = click.option(
    "--most", type=click.IntRange(1), metavar="ROWS", help="Read so many candidates, of whole requests."
)
CANDIDATES = click.option(
    "--candidates", type=PATH, required=True, metavar="PATH", help="Log of whole requests, in Parquet."
)
FOLDER = output("Folder of the results (default runs/blending/VERB).")
CONFIG = click.option("--config", type=PATH, metavar="FILE", help="YAML file of settings.")
ENGINE = click.option(
    "--engine",
    type=click.Choice(["duckdb", "spark"]),
    default="duckdb",
    show_default=True,
    help="What reads the logs.",
)
MEMORY = click.option("--memory", metavar="SIZE", help="What DuckDB may take, such as 4GB.")


@click.group(context_settings=SETTINGS)
def group() -> None:
    """Traffic allocation where every boost is priced and accounted for (Uniboost)."""
    plain_warnings()


@group.command(short_help="Write logs of a world to try the other verbs on.")
@click.option("--output", "--out", "-o", type=PATH, required=True, metavar="PATH", help="Folder to write.")
@click.option("--seed", type=click.IntRange(0), default=0, show_default=True, help="Of everything.")
@click.option(
    "--requests", type=click.IntRange(1, 1_000_000), default=2000, show_default=True, help="In all."
)
@click.option(
    "--candidates", type=click.IntRange(2, 10_000), default=100, show_default=True, help="A request."
)
@click.option(
    "--days", type=click.IntRange(1, 365), default=3, show_default=True, help="They are spread over."
)
@click.option("--overwrite", is_flag=True, help="Replace an earlier world.")
@SIZE
def simulate(
    output: Path, seed: int, requests: int, candidates: int, days: int, overwrite: bool, size: int
) -> None:
    """Write candidates, exposures, outcomes, a plan file and a snapshot of a simulated feed."""
    from noria.blending.world.simulate import simulate as run
    from noria.core.files import check_output, output_path

    folder = output_path(str(output))
    check_output(folder, Path(__file__), overwrite=overwrite, marks=["plans.yaml"])
    done = run(folder, seed=seed, requests=requests, candidates=candidates, days=days, size=size)
    click.echo(
        f"candidates  {done.candidates:,}\nexposures   {done.exposures:,}\noutcomes    {done.outcomes:,}"
    )
    click.echo(
        f"next        noria blending fit --exposures {folder}/exposures --outcomes {folder}/outcomes "
        f"--plans {folder}/plans.yaml"
    )


@group.command(short_help="Align scores on outcomes and write the snapshot that serves.")
@click.option("--exposures", required=True, metavar="PATH", help="What was shown: file, folder or pattern.")
@click.option("--outcomes", required=True, metavar="PATH", help="What came of it: file, folder or pattern.")
@click.option("--plans", type=PATH, metavar="FILE", help="The plan file (default: that of --previous).")
@click.option(
    "--previous", type=PATH, metavar="FILE", help="The snapshot before: to fall back on, to count on."
)
@click.option("--state", type=PATH, metavar="FOLDER", help="An earlier fit, whose outcomes are added.")
@click.option("--now", type=float, metavar="SECONDS", help="Since 1970 (default: the last exposure's time).")
@ENGINE
@MEMORY
@CONFIG
@FOLDER
@JSON
@QUIET
@click.argument("settings", nargs=-1, metavar="[KEY=VALUE]...")
def fit(
    exposures: str,
    outcomes: str,
    plans: Path | None,
    previous: Path | None,
    state: Path | None,
    now: float | None,
    engine: Literal["duckdb", "spark"],
    memory: str | None,
    config: Path | None,
    output: str | None,
    as_json: bool,
    quiet: bool,
    settings: tuple[str, ...],
) -> None:
    """Fit an aligner for every scene, source and model version.

    Settings are KEY=VALUE, such as fit.aligner=auto or gather.absent=zero; they beat the file.
    """
    done = _job("fit").fit(
        exposures,
        outcomes,
        plans,
        output,
        _settings(config, settings),
        previous=previous,
        state=state,
        engine=engine,
        now=now,
        memory=memory,
        progress=Progress(quiet=quiet),
    )
    if _told(done, as_json):
        return
    r = done.results
    lines = [["scene", "source", "version", "aligner", "from", "fitted on", "exposures", "rate"]]
    lines += [
        [
            k["scene"],
            k["source"],
            k["version"],
            k["kind"],
            k["origin"],
            k["population"],
            f"{k['exposures']:,.0f}",
            _cell(k["rate"]),
        ]
        for k in r["keys"]
    ]
    click.echo(table(lines, names=6))
    _leftovers(r["dropped"])
    click.echo(f"\nsnapshot  {done.folder / 'snapshot.json'}   version {r['version']}, {r['digest'][:12]}")
    click.echo(f"report    {done.report}")


@group.command(short_help="Rank logged requests again, and compare with other plans.")
@click.argument("snapshot", type=PATH)
@CANDIDATES
@click.option("--against", type=PATH, metavar="FILE", help="Another snapshot.")
@click.option("--plans", type=PATH, metavar="FILE", help="Another plan file, on the same alignment.")
@click.option(
    "--max-value-loss",
    type=click.FloatRange(0),
    metavar="PERCENT",
    help="Exit 1 if more value than this is lost.",
)
@SIZE
@MOST
@FOLDER
@JSON
def replay(
    snapshot: Path,
    candidates: Path,
    against: Path | None,
    plans: Path | None,
    max_value_loss: float | None,
    size: int,
    most: int | None,
    output: str | None,
    as_json: bool,
) -> None:
    """Say what SNAPSHOT does on a log, and what another snapshot or plan file would change."""
    if max_value_loss is not None and against is None and plans is None:
        raise ConfigError(
            "there is nothing to compare with", where="--max-value-loss", mend="give --against or --plans"
        )
    done = _job("replay").replay_log(
        snapshot, candidates, output, size=size, against=against, plans=plans, most=most
    )
    r = done.results
    _absent(r["absent"])
    change = r.get("change")
    if not _told(done, as_json):
        before = {p["plan"]: p for p in r["before"]["plans"]}
        after = {p["plan"]: p for p in r["after"]["plans"]} if change else {}
        head = ["plan", "share", "spend", "price of 1,000"]
        lines = [[*head, *(["new share", "new price"] if change else [])]]
        for plan in dict.fromkeys((*before, *after)):
            one, two = before.get(plan, {}), after.get(plan, {})
            cells = [_cell(one.get("share")), _cell(one.get("spend")), _cell(one.get("price"))]
            lines.append(
                [plan, *cells, *([_cell(two.get("share")), _cell(two.get("price"))] if change else [])]
            )
        click.echo(table(lines))
        _leftovers(r["before"]["dropped"])
        click.echo(f"\nvalue   {_cell(r['before']['value'])} a place, over {r['requests']:,} requests")
        if change and change["value"]:
            effect, low, high = change["value"]
            span = "" if low is None else f" (95 %: {100 * low:+.2f} to {100 * high:+.2f})"
            click.echo(
                f"change  {100 * effect:+.2f} % of value{span}; {100 * (change['moved'] or 0):.1f} % of places"
            )
        click.echo(f"report  {done.report}")
    if (
        max_value_loss is not None
        and change
        and change["value"]
        and -100 * change["value"][0] > max_value_loss
    ):
        click.echo(f"value lost is above {max_value_loss:g} %", err=True)
        click.get_current_context().exit(1)


@group.command(short_help="Say what each plan cost and brought, and which to retire.")
@click.argument("snapshots", type=PATH)
@click.option("--candidates", type=PATH, metavar="PATH", help="Log of whole requests, for returns.")
@click.option("--exposures", metavar="PATH", help="What was shown, for the accounts.")
@click.option("--outcomes", metavar="PATH", help="What came of it.")
@click.option("--gain", metavar="COLUMN", help="Of the candidates: a prediction of the plans' own figure.")
@click.option("--cluster", metavar="COLUMN", help="Of the candidates: what is independent, such as the user.")
@click.option("--users", type=PATH, metavar="FILE", help="A row a user, for an A/B read-out.")
@click.option("--seed", type=click.IntRange(0), default=0, show_default=True, help="Of resamples.")
@SIZE
@MOST
@ENGINE
@MEMORY
@CONFIG
@FOLDER
@JSON
@QUIET
@click.argument("settings", nargs=-1, metavar="[KEY=VALUE]...")
def attribute(
    snapshots: Path,
    candidates: Path | None,
    exposures: str | None,
    outcomes: str | None,
    gain: str | None,
    cluster: str | None,
    users: Path | None,
    seed: int,
    size: int,
    most: int | None,
    engine: Literal["duckdb", "spark"],
    memory: str | None,
    config: Path | None,
    output: str | None,
    as_json: bool,
    quiet: bool,
    settings: tuple[str, ...],
) -> None:
    """Account for plans. SNAPSHOTS is a snapshot, or a folder of all that served.

    Settings are KEY=VALUE, such as retire.floor=1.2; they beat the file.
    """
    done = _job("attribute").attribute(
        snapshots,
        candidates,
        exposures,
        outcomes,
        output,
        _settings(config, settings),
        size=size,
        gain=gain,
        cluster=cluster,
        users=users,
        most=most,
        engine=engine,
        memory=memory,
        seed=seed,
        progress=Progress(quiet=quiet),
    )
    if _told(done, as_json):
        return
    r = done.results
    if "books" in r:
        b = r["books"]
        lines = [["plan", "exposures", "spend", "price of 1,000", "completions", "surplus"]]
        for p in b["plans"]:
            cells = [_cell(p[name]) for name in ("spend", "price", "outcomes", "surplus")]
            lines.append([p["plan"], f"{p['exposures']:,}", *cells])
        click.echo(table(lines))
        _leftovers(b["dropped"])
        if b["unknown"]:
            click.echo(f"\n{sum(b['unknown'].values()):,} exposures are of snapshots that were not given")
        click.echo("")
    if "returns" in r:
        _absent(r["returns"]["absent"])
        lines = [["plan", "regret", "bound", "lift", "return", "95 %", "p", "advice"]]
        for p in r["returns"]["plans"]:
            roi = p["roi"] or [None, None, None]
            span = "" if roi[1] is None else f"{_cell(roi[1])}-{_cell(roi[2])}"
            cells = [_cell(p[name]) for name in ("regret", "bound", "lift")]
            lines.append(
                [p["plan"], *cells, _cell(roi[0]), span, _cell(p["p_value"]), "retire" if p["retire"] else ""]
            )
        click.echo(table(lines))
        click.echo("")
    if "experiment" in r:
        lines = [["figure", "control", "treatment", "change", "95 %", "p"]]
        for e in r["experiment"]["effects"]:
            ends = [None if e[name] is None else 100 * e[name] for name in ("relative", "low", "high")]
            change, low, high = ("-" if end is None else f"{end:+.2f}" for end in ends)
            span = "-" if e["low"] is None else f"{low} to {high} %"
            cells = [_cell(e["control"]), _cell(e["treatment"]), f"{change} %", span]
            lines.append([e["name"], *cells, _cell(e["p_value"])])
        click.echo(table(lines))
        missing = {e["name"]: e["missing"] for e in r["experiment"]["effects"] if e["missing"]}
        if missing:
            told = ", ".join(f"{count:,} of {name}" for name, count in missing.items())
            click.echo(f"\nusers without the figure, or its time before: {told}")
        click.echo("")
    click.echo(f"report  {done.report}")


@group.command(short_help="Set the boosts that reach every plan's target.")
@click.argument("snapshot", type=PATH)
@CANDIDATES
@click.option(
    "--plans", type=PATH, metavar="FILE", help="The plan file with the targets (default: the snapshot's)."
)
@click.option(
    "--daily-exposures",
    type=click.FloatRange(min=0, min_open=True),
    help="Of all traffic, for targets a day.",
)
@click.option("--frontier", metavar="PLAN", help="Tell the price of this plan as its target rises.")
@SIZE
@MOST
@FOLDER
@JSON
def solve(
    snapshot: Path,
    candidates: Path,
    plans: Path | None,
    daily_exposures: float | None,
    frontier: str | None,
    size: int,
    most: int | None,
    output: str | None,
    as_json: bool,
) -> None:
    """Solve the targets of the plan file on a log, and write the snapshot with the boosts they need."""
    done = _job("solve").solve_targets(
        snapshot,
        candidates,
        output,
        size=size,
        plans=plans,
        daily_exposures=daily_exposures,
        frontier_of=frontier,
        most=most,
    )
    if _told(done, as_json):
        return
    r = done.results
    lines = [["plan", "moves", "target", "reached", "price of 1,000"]]
    lines += [
        [p["plan"], p["moves"], _cell(p["target"]), _cell(p["reached"]), _cell(1000 * p["price"])]
        for p in r["plans"]
    ]
    click.echo(table(lines, names=2))
    if "frontier" in r:
        f = [["share", "reached", "price of 1,000", "cost of a place"]]
        f += [
            [_cell(p["target"]), _cell(p["reached"]), _cell(1000 * p["price"]), _cell(p["cost"])]
            for p in r["frontier"]["points"]
        ]
        click.echo(f"\n{table(f, names=0)}")
    click.echo(f"\nvalue     {_cell(r['value'])} a place, {_cell(r['without'])} without targets")
    click.echo(f"snapshot  {done.folder / 'snapshot.json'}   version {r['version']}, {r['digest'][:12]}")
    click.echo(f"report    {done.report}")
    missed = [p["plan"] for p in r["plans"] if p["missed"] > 0.001]
    if missed:
        click.echo(f"not reached: {', '.join(missed)}", err=True)
        click.get_current_context().exit(1)


@group.command("import", short_help="Bring over another system's boosts without their inflation.")
@click.argument("source", type=PATH)
@click.option(
    "--snapshot", type=PATH, required=True, metavar="FILE", help="Whose alignment gives scores a unit."
)
@CANDIDATES
@SIZE
@MOST
@FOLDER
@JSON
def import_(
    source: Path,
    snapshot: Path,
    candidates: Path,
    size: int,
    most: int | None,
    output: str | None,
    as_json: bool,
) -> None:
    """Write plans that keep the shares of SOURCE: a table of multipliers (.yaml) or a function_score query (.json)."""
    done = _job("import_legacy").import_legacy(source, snapshot, candidates, output, size=size, most=most)
    if _told(done, as_json):
        return
    r = done.results
    lines = [["plan", "bias", "exposures before", "after"]]
    lines += [[p["plan"], _cell(p["bias"]), f"{p['before']:,}", f"{p['after']:,}"] for p in r["plans"]]
    click.echo(table(lines))
    removed = "" if r["removed"] is None else f"{100 * r['removed']:.1f} % of the boosts' magnitude is gone; "
    click.echo(f"\n{removed}value of a place {_cell(r['value'][0])} before, {_cell(r['value'][1])} after")
    click.echo(f"plans     {done.folder / 'plans.yaml'}\nsnapshot  {done.folder / 'snapshot.json'}")
    click.echo(f"report    {done.report}")


@group.command(short_help="Draw one page of the results of several verbs.")
@click.argument("folders", type=PATH, nargs=-1, required=True)
@output("The page to write (default: report.html in the first folder).")
def report(folders: tuple[Path, ...], output: str | None) -> None:
    """Draw the page of FOLDERS, which other verbs wrote."""
    click.echo(f"report  {_job('results').report(folders, output)}")


group.add_command(serve)
group.add_command(log)


def _job(name: str) -> Any:
    """A module of jobs, imported when a verb runs."""
    return importlib.import_module(f"noria.blending.verbs.{name}")


def _settings(file: Path | None, overrides: Sequence[str]) -> Any:
    from noria.blending.verbs.settings import settings

    return settings(file, overrides)


def _told(done: Done, as_json: bool) -> bool:
    if as_json:
        click.echo(json.dumps(done.results, indent=1))
    return as_json


def _cell(value: float | None) -> str:
    return "-" if value is None else f"{value:.4g}"


def _absent(columns: Sequence[str]) -> None:
    if columns:
        click.echo(
            f"noria: warning: the candidates have no column {', '.join(columns)}: plans for it hit nobody",
            err=True,
        )


def _leftovers(reasons: Mapping[str, int]) -> None:
    if reasons:
        click.echo("\nleft out: " + ", ".join(f"{count:,} {reason}" for reason, count in reasons.items()))
