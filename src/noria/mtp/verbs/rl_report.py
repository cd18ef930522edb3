"""`noria mtp rl-report`: was it entropy that moved the accept length of an RL run, or the head?"""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import click
from pydantic import Field

from noria.core.config import Argument, Option
from noria.core.files import write_atomic
from noria.core.pages.charts import Figure, lines, series
from noria.core.pages.report import write_page
from noria.core.records import json_values
from noria.core.runs.outputs import results_folder
from noria.mtp.config import refuse_unused
from noria.verbs.command import command as make_command
from noria.verbs.options import JsonOption, OutputOption

if TYPE_CHECKING:
    from noria.mtp.rl.rl_log import RLDiagnosis, RLLog


class RLReportConfig(OutputOption, JsonOption):
    """Settings of `noria mtp rl-report`."""

    log: Annotated[Path, Argument()] = Field(
        description="Log with a record a step: .jsonl, .parquet, or the trainer_state.json of transformers and TRL."
    )
    entropy_field: Annotated[str | None, Option(metavar="NAME")] = Field(
        None, description="Field of the policy's entropy, nats (default: the first usual name)."
    )
    length_field: Annotated[str | None, Option(metavar="NAME")] = Field(
        None, description="Field of the accept length (default: the first usual name)."
    )
    early: int | None = Field(None, ge=1, description="First steps that the slope is fitted on.")
    slope: float | None = Field(None, description="Slope in tokens a nat, instead of fitting it.")


@make_command(RLReportConfig, extra="mtp", needs=("torch", "transformers"))
def command(config: RLReportConfig) -> None:
    """Split the change of accept length over an RL run in entropy's part and the head's."""
    results, page = run(config)
    if config.as_json:
        click.echo(json.dumps(results, indent=1))
        return
    click.echo(results["verdict"])
    click.echo(f"report  {page}\ndata    {page.with_suffix('.json')}")


def run(config: RLReportConfig) -> tuple[dict[str, Any], Path]:
    """Read an RL run's log and write `rl-report.html`, with `rl-report.json` beside it.

    Returns:
        The results as they are in `rl-report.json`, and the page.

    Raises:
        NoriaError: anything that a user can mend.
    """
    from noria.mtp.rl.rl_log import diagnose, read_rl_log

    if config.slope is not None:
        refuse_unused(config, ("early",), "with --slope")
    folder = results_folder("mtp", config.output, f"rl-report-{config.log.stem}")
    log = read_rl_log(config.log, entropy=config.entropy_field, length=config.length_field)
    diagnosis = diagnose(log, early=config.early, slope=config.slope)
    results = json_values({"name": config.log.stem} | _values(log, diagnosis))
    folder.mkdir(parents=True, exist_ok=True)
    write_atomic(folder / "rl-report.json", json.dumps(results, indent=1) + "\n")
    return results, write_rl_page(folder / "rl-report.html", results)


def _values(log: RLLog, diagnosis: RLDiagnosis) -> dict[str, Any]:
    parts, fit = diagnosis.decomposition, diagnosis.regression
    columns = {
        "step": log.steps,
        "entropy": log.entropy,
        "accept_length": log.length,
        "change": parts.change,
        "entropy_part": parts.entropy_part,
        "mismatch": parts.mismatch,
    }
    return {
        "verdict": diagnosis.text,
        "regression": {
            "slope": fit.slope.effect,
            "low": fit.slope.low,
            "high": fit.slope.high,
            "intercept": fit.intercept.effect,
            "correlation": fit.correlation,
            "spread": fit.spread,
            "n": fit.n,
        },
        "decomposition": {
            "identifiable": parts.identifiable,
            "slope": parts.slope.effect,
            "reason": parts.reason,
        },
        "steps": [dict(zip(columns, row, strict=True)) for row in zip(*columns.values(), strict=True)],
    }


# -- the page ---------------------------------------------------------------------------------------------------------


def write_rl_page(path: Path, results: Mapping[str, Any]) -> Path:
    """Write the page of a reinforcement-learning run's accept length against its entropy.

    Raises:
        RunError: the disk refuses.
    """
    steps: list[dict[str, Any]] = results["steps"]
    points = [s for s in steps if s["entropy"] is not None and s["accept_length"] is not None]
    blocks: list[Figure | str] = [
        results["verdict"],
        Figure.chart(
            "Accept length against entropy",
            _scatter(points, results["regression"]),
            "A point is a step. The line is the least-squares fit over all of them.",
        ),
    ]
    if results["decomposition"]["identifiable"]:
        parts = {
            "change": "change",
            "entropy_part": "explained by entropy",
            "mismatch": "mismatch of the head",
        }
        blocks.append(
            Figure.chart(
                "What changed the accept length",
                lines(series(steps, parts), y="tokens a round"),
                "ΔL = b (H − H₀) + mismatch (Bebop, Eq. 16).",
            )
        )
    write_page(
        path,
        f"Acceptance over {results['name']}",
        [("Entropy and acceptance", blocks)],
        footer="Made by noria mtp rl-report.",
    )
    return path


def _scatter(points: list[dict[str, Any]], line: Mapping[str, Any]) -> Any:
    import altair as alt

    dots = (
        alt.Chart(alt.Data(values=points))
        .mark_circle(size=50)
        .encode(
            x=alt.X("entropy:Q", title="policy entropy, nats", scale=alt.Scale(zero=False)),
            y=alt.Y("accept_length:Q", title="accept length, tokens a round", scale=alt.Scale(zero=False)),
            tooltip=["step:Q", "entropy:Q", "accept_length:Q"],
        )
    )
    slope, start = line["slope"], line["intercept"]
    if slope is None or start is None:
        return dots.properties(width="container", height=300)
    ends = [min(p["entropy"] for p in points), max(p["entropy"] for p in points)]
    values = [{"entropy": h, "accept_length": start + slope * h} for h in ends]
    fit = alt.Chart(alt.Data(values=values)).mark_line().encode(x="entropy:Q", y="accept_length:Q")
    return (dots + fit).properties(width="container", height=300)
