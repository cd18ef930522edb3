"""`noria blending replay`: logged requests ranked again, with other plans beside."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any

import click
from pydantic import Field

from noria.blending.plans.plans import load_plans
from noria.blending.snapshot import Snapshot
from noria.blending.verbs import figures, output
from noria.blending.verbs.options import CandidateOptions, FileOption
from noria.core.config import Argument, Option
from noria.core.errors import ConfigError, DataError
from noria.core.pages.charts import Figure
from noria.verbs.command import command as make_command
from noria.verbs.options import JsonOption, OutputOption
from noria.verbs.tables import table


class ReplayConfig(CandidateOptions, OutputOption, JsonOption):
    """Settings of `noria blending replay`."""

    snapshot: Annotated[Path, Argument()] = Field(description="Snapshot that serves.")
    against: FileOption = Field(None, description="Another snapshot to compare with.")
    plans: FileOption = Field(None, description="Another plan file to compare with, on the same alignment.")
    max_value_loss: Annotated[float | None, Option(metavar="PERCENT")] = Field(
        None, ge=0, description="Exit 1 if more value than this is lost."
    )


@make_command(ReplayConfig, extra="blending")
def command(config: ReplayConfig) -> int | None:
    """Say what SNAPSHOT does on a log, and what another snapshot or plan file would change."""
    if config.max_value_loss is not None and config.against is None and config.plans is None:
        raise ConfigError(
            "there is nothing to compare with", where="--max-value-loss", mend="give --against or --plans"
        )
    result = run(config)
    output.show(result, config.as_json, _print)
    change = result.results.get("change")
    if config.max_value_loss is not None and (change is None or change["value"] is None):
        raise DataError("the lists have no value that could be lost", where="--max-value-loss")
    loss = -100 * change["value"][0] if change and change["value"] else 0.0
    if config.max_value_loss is not None and loss > config.max_value_loss:
        click.echo(f"value lost is above {config.max_value_loss:g} %", err=True)
        return 1
    return None


def _print(result: output.VerbResult) -> None:
    results, change = result.results, result.results.get("change")
    before = {plan["plan"]: plan for plan in results["before"]["plans"]}
    after = {plan["plan"]: plan for plan in results["after"]["plans"]} if change else {}
    head = ["plan", "share", "spend", "price of 1,000"]
    lines = [[*head, *(["new share", "new price"] if change else [])]]
    for plan in dict.fromkeys((*before, *after)):
        cells = [output.cell(before.get(plan, {}).get(name)) for name in ("share", "spend", "price")]
        if change:
            cells += [output.cell(after.get(plan, {}).get(name)) for name in ("share", "price")]
        lines.append([plan, *cells])
    click.echo(table(lines))
    output.leftovers(results["before"]["dropped"])
    click.echo(
        f"\nvalue   {output.cell(results['before']['value'])} a place, over {results['requests']:,} requests"
    )
    if change and change["value"]:
        effect, low, high = change["value"]
        span = "" if low is None else f" (95 %: {100 * low:+.2f} to {100 * high:+.2f})"
        click.echo(
            f"change  {100 * effect:+.2f} % of value{span}; {100 * (change['moved'] or 0):.1f} % of places"
        )
    click.echo(f"report  {result.report}")


def run(config: ReplayConfig) -> output.VerbResult:
    """Rank logged requests again, and compare with another snapshot or plan file.

    Raises:
        NoriaError: anything that a user can mend; nothing was written then.
    """
    from noria.blending.logs.comparison import change, summary
    from noria.blending.logs.replay import absent_columns, replay

    folder = output.folder_of(config.output, "replay")
    first = Snapshot.load(config.snapshot)
    second = Snapshot.load(config.against) if config.against is not None else first
    if config.plans is not None:
        plans = load_plans(config.plans)
        second = Snapshot.of(second.alignment, plans, version=second.version + 1, created=second.created)
    log = config.read()
    before = replay(log, first, config.size)
    results: dict[str, Any] = {
        "requests": len(log),
        "sampled": log.sampled,
        "candidates": len(log.score),
        "size": config.size,
        "absent": sorted({*absent_columns(log, first), *absent_columns(log, second)}),
        "before": summary(before, first),
    }
    if second is not first:
        after = replay(log, second, config.size)
        results["after"] = summary(after, second)
        results["change"] = change(before, after)
    return output.finish(folder, "replay", results, PAGE)


# -- the page ---------------------------------------------------------------------------------------------------------


def sections(r: output.Results) -> output.Sections:
    """Sections of the page, from the results."""
    blocks: output.Blocks = [
        f"{r['requests']:,} requests with {r['candidates']:,} candidates, lists of {r['size']}. "
        + _sentence(r.get("sampled", ""))
    ]
    if r["absent"]:
        blocks.append(f"The log has no column {', '.join(r['absent'])}: plans for it hit nobody.")
    blocks.append(_side(r["before"], "As served"))
    if "change" in r:
        change = r["change"]
        shares = [
            {"plan": p["plan"], **dict(zip(("change", "low", "high"), p["share"], strict=True))}
            for p in change["plans"]
            if p["share"]
        ]
        blocks += [
            _side(r["after"], "As it would be"),
            f"Value {figures.signed(change['value'], percent=True)}; {figures.percent(change['moved'])} of places "
            "change.",
            Figure.chart(
                "Change of each plan's share of exposures",
                figures.intervals(shares, "change", "change of the share"),
                "Paired by request, with 95 % intervals.",
            ),
        ]
    return [("Replay", blocks)]


def _sentence(text: str) -> str:
    return f"{text[:1].upper()}{text[1:]}." if text else ""


def _side(side: Mapping[str, Any], title: str) -> Figure:
    return figures.table(
        f"{title}: version {side['version']}",
        side["plans"],
        "plan | weight | bias | of candidates: candidates | exposures | share | spend | price of 1,000: price",
        f"Value of a place {figures.dash(side['value'])}; boosts are {figures.percent(side['inflation'])} of value; "
        f"guards took {figures.dash(-side['guard'])}.",
        computed={"exposures": lambda plan: round(plan["exposures"])},
    )


PAGE = output.Page("Replay", sections)
