"""`noria blending attribute`: accounts, returns, an A/B read-out."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from datetime import UTC, datetime
from pathlib import Path
from typing import Annotated, Any

import click
from pydantic import Field

from noria.blending.snapshot import Snapshot
from noria.blending.verbs import figures, output
from noria.blending.verbs.options import (
    ColumnOption,
    FeedOptions,
    FileOption,
    ListOptions,
    LogOption,
    MostOption,
)
from noria.core.config import Argument
from noria.core.errors import ConfigError, DataError
from noria.core.pages.charts import Figure
from noria.core.progress import Progress
from noria.verbs.command import command as make_command
from noria.verbs.options import JsonOption, OutputOption, QuietOption, SeedOption
from noria.verbs.tables import table


class AttributeConfig(
    FeedOptions, ListOptions, MostOption, SeedOption, OutputOption, JsonOption, QuietOption
):
    """Settings of `noria blending attribute`."""

    snapshots: Annotated[Path, Argument()] = Field(
        description="Snapshot, folder of those that served, or a service's folder."
    )
    candidates: Path | None = Field(None, description="Log of whole requests, for returns.")
    exposures: LogOption = Field(None, description="Log of exposures, for the accounts.")
    outcomes: LogOption = Field(None, description="Log of outcomes of the exposures.")
    gain: ColumnOption = Field(None, description="Candidates' column that predicts the plans' own figure.")
    cluster: ColumnOption = Field(None, description="Candidates' column of independent groups, such as user.")
    users: FileOption = Field(None, description="Parquet file with a row a user, for an A/B read-out.")


@make_command(AttributeConfig, extra="blending")
def command(config: AttributeConfig) -> None:
    """Account for plans. SNAPSHOTS is a snapshot, or a folder of all that served.

    Settings are KEY=VALUE, such as retire.floor=1.2; they beat the file.
    """
    output.show(run(config, Progress(quiet=config.quiet)), config.as_json, _print)


def _print(result: output.VerbResult) -> None:
    printers = {"books": _print_books, "returns": _print_returns, "experiment": _print_experiment}
    for name, printed in printers.items():
        if name in result.results:
            printed(result.results[name])
            click.echo("")
    click.echo(f"report  {result.report}")


def _print_books(books: output.Results) -> None:
    lines = [["plan", "exposures", "spend", "price of 1,000", "completions", "surplus"]]
    for plan in books["plans"]:
        cells = [output.cell(plan[name]) for name in ("spend", "price", "outcomes", "surplus")]
        lines.append([plan["plan"], f"{plan['exposures']:,}", *cells])
    click.echo(table(lines))
    output.leftovers(books["dropped"])
    if books["unknown"]:
        click.echo(f"\n{sum(books['unknown'].values()):,} exposures are of snapshots that were not given")


def _print_returns(returns: output.Results) -> None:
    output.warn(returns)
    output.leftovers(returns["dropped"])
    lines = [["plan", "regret", "bound", "lift", "return", "95 %", "p", "advice"]]
    for plan in returns["plans"]:
        roi, low, high = plan["roi"] or [None, None, None]
        span = "" if low is None else f"{output.cell(low)}-{output.cell(high)}"
        cells = [output.cell(plan[name]) for name in ("regret", "bound", "lift")]
        advice = "retire" if plan["retire"] else ""
        lines.append([plan["plan"], *cells, output.cell(roi), span, output.cell(plan["p_value"]), advice])
    click.echo(table(lines))


def _print_experiment(experiment: output.Results) -> None:
    lines = [["figure", "control", "treatment", "change", "95 %", "p"]]
    for effect in experiment["effects"]:
        ends = [None if effect[n] is None else 100 * effect[n] for n in ("relative", "low", "high")]
        change, low, high = ("-" if end is None else f"{end:+.2f}" for end in ends)
        span = "-" if effect["low"] is None else f"{low} to {high} %"
        cells = [output.cell(effect["control"]), output.cell(effect["treatment"]), f"{change} %", span]
        lines.append([effect["name"], *cells, output.cell(effect["p_value"])])
    click.echo(table(lines))
    missing = [
        f"{effect['missing']:,} of {effect['name']}" for effect in experiment["effects"] if effect["missing"]
    ]
    if missing:
        click.echo(f"\nusers without the figure, or its time before: {', '.join(missing)}")


def run(config: AttributeConfig, progress: Progress) -> output.VerbResult:
    """Work out what every plan cost and brought.

    Raises:
        NoriaError: anything that a user can mend; nothing was written then.
    """
    from noria.blending.integrations import duckdb
    from noria.blending.logs.accounts import ReturnsConfig, book_record, observed, returns_record
    from noria.blending.logs.candidates import read_candidates
    from noria.blending.logs.reading import log_files
    from noria.blending.logs.users import experiment_record

    folder = output.folder_of(config.output, "attribute")
    if config.candidates is None and config.exposures is None and config.users is None:
        raise ConfigError("nothing to attribute", mend="give --candidates, --exposures or --users")
    _check_options(config)
    served = _snapshots(config.snapshots)
    newest = max(served.values(), key=lambda one: one.version)
    results: dict[str, Any] = {"snapshots": len(served), "size": config.size}
    shown = None if config.exposures is None else log_files(config.exposures)
    came = None if config.outcomes is None else log_files(config.outcomes)
    with progress:
        if shown is not None:
            if came is not None:
                config.sample(shown, came)
            results["books"] = book_record(config.gathered(shown, came, progress, accounts=True), served)
        if config.candidates is not None:
            log = read_candidates(config.candidates, most=config.most, columns=config.columns)
            seen = None
            if shown is not None and came is not None:
                joined = duckdb.rows(shown, came, config.gather, **config.reading)
                seen = observed(joined, config.gather, log)
            how = ReturnsConfig(
                size=config.size,
                gain=config.gain,
                cluster=config.cluster,
                rule=config.retire,
                seed=config.seed,
            )
            results["returns"] = returns_record(log, newest, how, seen)
        if config.users is not None:
            results["experiment"] = experiment_record(config.users)
        return output.finish(folder, "attribute", results, PAGE)


def _check_options(config: AttributeConfig) -> None:
    """Refuse options that nothing would honour.

    Raises:
        ConfigError: there is one.
    """
    needed = dict.fromkeys(("outcomes", "memory", "engine"), "exposures")
    needed |= dict.fromkeys(("gain", "cluster", "most", "size", "seed"), "candidates")
    for name, needs in needed.items():
        if name in config.model_fields_set and getattr(config, needs) is None:
            raise ConfigError(
                f"it needs --{needs}", where=f"--{name}", mend=f"give --{needs}, or leave it out"
            )


def _snapshots(path: Path) -> dict[str, Snapshot]:
    """Snapshots by digest."""
    if (path / "versions").is_dir():  # of a service
        files = sorted(path.glob("versions/artefacts/*/files/snapshot.json"))
    else:
        files = sorted(path.glob("*.json")) if path.is_dir() else [path]
    if not files:
        raise DataError("no snapshot is there", where=str(path), mend="name a file, or a service's folder")
    loaded = [Snapshot.load(file) for file in files]
    return {one.digest: one for one in loaded}


# -- the page ---------------------------------------------------------------------------------------------------------


def sections(r: output.Results) -> output.Sections:
    """Sections of the page, from the results."""
    result: output.Sections = []
    if "books" in r:
        result.append(("Accounts of all exposures", _books(r["books"])))
    if "returns" in r:
        result.append(("What plans displace and bring", _returns(r["returns"])))
    if "experiment" in r:
        result.append(("A/B test", _experiment(r["experiment"])))
    if "books" in r:
        result.append(("Left out", [figures.dropped(r["books"]["dropped"])]))
    return result


def _books(b: Mapping[str, Any]) -> output.Blocks:
    blocks: output.Blocks = [
        f"{b['exposures']:,} exposures worth {figures.dash(b['value'])} completions; "
        f"boosts are {figures.percent(b['inflation'])} of it; guards took {figures.dash(-b['guard'])}.",
        figures.table(
            "Accounts",
            b["plans"],
            "plan | exposures | spend | price of 1,000: price | value | known | completions: outcomes | surplus | gain",
            "Spend is the sum of a plan's contributions over what was shown. Surplus is completions less value over "
            "exposures with an outcome: below zero, the plan's candidates do worse than they are priced.",
        ),
        figures.table(
            "By source",
            b["by_source"],
            "source | exposures | value | boosts over value: inflation",
        ),
    ]
    daily = [{**d, "day": _day(d["day"])} for d in b["daily"]]
    if len({d["day"] for d in daily}) > 1:
        blocks.append(Figure.chart("Spend a day", _daily(daily), "Expected effective completions."))
    if b["unknown"]:
        lost = sum(b["unknown"].values())
        blocks.append(
            f"{lost:,} exposures are of snapshots that were not given; they are in no plan's account."
        )
    return blocks


def _returns(t: Mapping[str, Any]) -> output.Blocks:
    def end(name: str, place: int) -> Callable[[Mapping[str, Any]], float | None]:
        return lambda p: p[name][place] if p[name] else None

    rule = t["rule"]
    advice = (
        f"Advice: a return below {rule['floor']:g} at {rule['alpha']:g}, corrected for all plans, with at least "
        f"{figures.percent(rule['share'])} of the spend."
        if t["advice"]
        else "No advice: the gain is the completions themselves. Give the plans' own figure with --gain."
    )
    bars = [
        {"plan": p["plan"], **dict(zip(("roi", "low", "high"), p["roi"], strict=True))}
        for p in t["plans"]
        if p["roi"]
    ]
    blocks: output.Blocks = [
        f"{t['requests']:,} requests, {t['exposures']:,} exposures. The bound on regret fails on {t['violations']:,} "
        f"of {t['requests'] * len(t['plans']):,} pairs of request and plan.",
        figures.table(
            "Displacement",
            t["plans"],
            "plan | exposures | price of 1,000: price | spend | displaced | value cost | regret | bound | "
            "Shapley a request: shapley",
            "Each plan is left out alone: displaced exposures, cost and regret do not add up over plans; spend and "
            "Shapley values do.",
            computed={
                "exposures": lambda p: round(p["exposures"]),
                "displaced": lambda p: round(p["displaced"]),
            },
        ),
        f"The gain is the {t['gain']}, observed for {t['observed']:,} candidates and predicted for the rest.",
        figures.table(
            "Returns, the surest to return little first",
            sorted(t["plans"], key=lambda p: (p["roi"] or [None] * 3)[2] or float("inf")),
            "plan | lift | surplus | return | 95 % from | to | over spend | p | advice",
            f"Return is lift over regret; over spend, lift over spend. {advice}",
            computed={
                "return": end("roi", 0),
                "95 % from": end("roi", 1),
                "to": end("roi", 2),
                "over spend": end("roi_spend", 0),
                "p": lambda p: p["p_value"] if t["advice"] else None,
                "advice": lambda p: ("retire" if p["retire"] else "keep") if t["advice"] else None,
            },
        ),
    ]
    if bars:
        blocks.append(
            Figure.chart("Return", figures.intervals(bars, "roi", "lift over regret"), "With 95 % intervals.")
        )
    return blocks


def _experiment(e: Mapping[str, Any]) -> output.Blocks:
    users = ", ".join(f"{count:,} of {name}" for name, count in e["users"].items())
    return [
        f"{users} users; the split itself has p = {figures.dash(e['split_p_value'])}.",
        figures.table(
            "Effects",
            e["effects"],
            "figure: name | CUPED: cuped | control | treatment | change | 95 % from | to | p: p_value | "
            "users without it",
            "With CUPED, what users differed in before the test is taken out. A user who lacks a figure, or its time "
            "before, is left out of it.",
            computed={
                "change": lambda f: figures.percent(f["relative"], sign=True),
                "95 % from": lambda f: figures.percent(f["low"], sign=True),
                "to": lambda f: figures.percent(f["high"], sign=True),
                "users without it": lambda f: f["missing"] or None,
            },
        ),
    ]


def _daily(rows: list[dict[str, Any]]) -> Any:
    import altair as alt

    return (
        alt.Chart(alt.Data(values=rows))
        .mark_line(point=True)
        .encode(
            x=alt.X("day:O", title=None),
            y=alt.Y("spend:Q", title="completions"),
            color=alt.Color("plan:N", title=None),
            tooltip=["plan:N", "day:O", "spend:Q", "exposures:Q"],
        )
        .properties(width="container", height=280)
    )


def _day(day: int) -> str:
    return datetime.fromtimestamp(day * 86_400, UTC).strftime("%Y-%m-%d")


PAGE = output.Page("What plans cost and bring", sections)
