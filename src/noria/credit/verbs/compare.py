"""`noria credit compare`: trainings side by side, by credit."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any

import click
from pydantic import Field

from noria.core.config import Argument, Option
from noria.core.pages.charts import Figure, lines
from noria.core.pages.report import write_page
from noria.core.runs.outputs import results_folder
from noria.credit.verbs.options import show_files, write_results
from noria.verbs.command import command as make_command
from noria.verbs.options import JsonOption, OutputOption
from noria.verbs.tables import table

__all__ = ["CompareConfig", "command", "run", "write_compare_page"]


class CompareConfig(OutputOption, JsonOption):
    """Settings of `noria credit compare`."""

    runs: Annotated[list[Path], Argument()] = Field(description="Run folders of trainings.")
    baseline: Annotated[str | None, Option(metavar="CREDIT")] = Field(
        None, description="Credit that the others are compared with (default: none, or the first)."
    )


@make_command(CompareConfig, extra="credit")
def command(config: CompareConfig) -> None:
    """Lay trainings side by side: rewards by credit, and the gain of each on the baseline with the same seeds."""
    results, page = run(config)
    if config.as_json:
        click.echo(json.dumps(results, indent=1))
        return
    pairs = {pair["credit"]: pair for pair in results["pairs"]}
    gain = f"gain on {results['baseline']}"
    rows = [["credit", "runs", "area", "last tenth", "steps to threshold", gain, "95 %"]]
    for row in results["credits"]:
        cells = [f"{row['area']:.3f}", f"{row['last']:.3f}", f"{row['reached']:.0f}"]
        rows.append([row["credit"], str(row["runs"]), *cells, *_gain(pairs.get(row["credit"]))])
    click.echo(table(rows))
    if results["cut"]:
        longer = ", ".join(map(str, results["cut"]))
        click.echo(f"\nover the first {results['steps']} steps, which all runs have (others have {longer})")
    if results["differences"]:
        click.echo(f"\nalso different: {', '.join(results['differences'])}")
    click.echo()
    show_files(page)


def _gain(pair: Mapping[str, Any] | None) -> list[str]:
    if pair is None:
        return ["", ""]
    span = "one seed" if pair["low"] is None else f"{pair['low']:+.3f} to {pair['high']:+.3f}"
    return [f"{pair['gain']:+.3f}", span]


def run(config: CompareConfig) -> tuple[dict[str, Any], Path]:
    """Compare trainings and write `compare.html`, with `compare.json` beside it.

    Raises:
        NoriaError: a user can mend the input; nothing was written then.
    """
    from noria.credit.training.comparing import compare_runs

    folder = results_folder(config.output, "compare", system="credit")
    results = compare_runs(config.runs, baseline=config.baseline)
    write_results(folder / "compare.json", results)
    return results, write_compare_page(folder / "compare.html", results)


# -- the page ---------------------------------------------------------------------------------------------------------


def write_compare_page(path: Path, results: Mapping[str, Any]) -> Path:
    """Write the page of trainings side by side.

    Raises:
        RunError: the file cannot be written.
    """
    figures: list[Figure | str] = [
        Figure.chart("Reward over training", lines(results["curves"], height=320)),
        Figure.table(
            "By credit",
            ["credit", "runs", "mean reward", "last tenth", "steps to threshold", "seconds a step"],
            [
                [row[key] for key in ("credit", "runs", "area", "last", "reached", "seconds")]
                for row in results["credits"]
            ],
            f"Means over runs. The threshold, {results['threshold']:.2f}, is midway between the lowest start and the "
            "highest end; a run that never reaches it counts with all of its steps.",
        ),
    ]
    if results["pairs"]:
        figures.append(
            Figure.table(
                f"Against {results['baseline']}, paired by seed",
                ["credit", "seeds", "gain in mean reward", "from", "to"],
                [
                    [pair[key] for key in ("credit", "seeds", "gain", "low", "high")]
                    for pair in results["pairs"]
                ],
                "Student's t interval of 95 %; one seed has none.",
            )
        )
    if results["differences"]:
        figures.append(f"Settings that differ besides credit and seed: {', '.join(results['differences'])}.")
    first = "the first " if results["cut"] else ""
    intro = f"{results['runs']} trainings with {len(results['credits'])} credits, over {first}{results['steps']} steps."
    footer = "Made by noria credit compare."
    write_page(path, "Trainings compared", [("Reward", figures)], intro=intro, footer=footer)
    return path
