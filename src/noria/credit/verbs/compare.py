"""`noria credit compare`: trainings side by side, by credit."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any

import click
from pydantic import Field

from noria.core.config import Argument, Option
from noria.core.files import write_atomic
from noria.core.pages.charts import Figure, lines
from noria.core.pages.report import write_page
from noria.core.runs.outputs import results_folder
from noria.verbs.command import command as make_command
from noria.verbs.options import JsonOption, OutputOption
from noria.verbs.tables import table

__all__ = ["CompareConfig", "command", "run", "write_compare_page"]


class CompareConfig(OutputOption, JsonOption):
    """Settings of `noria credit compare`."""

    runs: Annotated[list[Path], Argument()] = Field(description="Run folders of trainings.")
    baseline: Annotated[str | None, Option(metavar="CREDIT")] = Field(
        None, description="Credit that the others are compared with (default none, or the first)."
    )


@make_command(CompareConfig, extra="credit")
def command(config: CompareConfig) -> None:
    """Lay trainings side by side: rewards by credit, and what each gained on the baseline with the same seeds."""
    results, page = run(config)
    if config.as_json:
        click.echo(json.dumps(results, indent=1))
        return
    pairs = {pair["credit"]: pair for pair in results["pairs"]}
    gain = f"gain on {results['baseline']}"
    rows = [["credit", "runs", "area", "last tenth", "steps to threshold", gain, "95 %"]]
    for row in results["credits"]:
        pair = pairs.get(row["credit"])
        cells = [f"{row['area']:.3f}", f"{row['last']:.3f}", f"{row['reached']:.0f}"]
        gained = ["", ""] if pair is None else [f"{pair['gain']:+.3f}", _span(pair)]
        rows.append([row["credit"], str(row["runs"]), *cells, *gained])
    click.echo(table(rows))
    if results["cut"]:
        longer = ", ".join(map(str, results["cut"]))
        click.echo(f"\nover the first {results['steps']} steps, which all runs have (others have {longer})")
    if results["differences"]:
        click.echo(f"\nalso different: {', '.join(results['differences'])}")
    click.echo(f"\npage  {page}\ndata  {page.with_suffix('.json')}")


def run(config: CompareConfig) -> tuple[dict[str, Any], Path]:
    """Compare trainings and write `compare.html`, with `compare.json` beside it.

    Raises:
        NoriaError: anything that a user can mend; nothing was written then.
    """
    from noria.credit.training.comparing import compare_runs

    folder = results_folder(config.output, "compare", system="credit")
    results = compare_runs(config.runs, baseline=config.baseline)
    folder.mkdir(parents=True, exist_ok=True)
    write_atomic(folder / "compare.json", json.dumps(results, indent=1) + "\n")
    return results, write_compare_page(folder / "compare.html", results)


def _span(pair: dict[str, Any]) -> str:
    return "one seed" if pair["low"] is None else f"{pair['low']:+.3f} to {pair['high']:+.3f}"


# -- the page ---------------------------------------------------------------------------------------------------------


def write_compare_page(path: Path, results: Mapping[str, Any]) -> Path:
    """Write the page of trainings side by side.

    Raises:
        RunError: the disk refuses.
    """
    told = f"Over the first {results['steps']} steps, which all runs have." if results["cut"] else ""
    figures: list[Figure | str] = [
        Figure.chart("Reward over training", lines(results["curves"], height=320), told)
    ]
    figures.append(
        Figure.table(
            "By credit",
            ["credit", "runs", "area under the curve", "last tenth", "steps to threshold", "seconds a step"],
            [
                [row["credit"], row["runs"], row["area"], row["last"], row["reached"], row["seconds"]]
                for row in results["credits"]
            ],
            f"Means over runs. Threshold: {results['threshold']:.2f}, midway between the lowest start and the highest "
            "end; a run that never reaches it counts with all of its steps.",
        )
    )
    if results["pairs"]:
        figures.append(
            Figure.table(
                f"Against {results['baseline']}, paired by seed",
                ["credit", "seeds", "area gained", "from", "to"],
                [[p["credit"], p["seeds"], p["gain"], p["low"], p["high"]] for p in results["pairs"]],
                "Student's t interval of 95 %.",
            )
        )
    if results["differences"]:
        figures.append(
            "Settings that differ besides credit and seed: " + ", ".join(results["differences"]) + "."
        )
    write_page(
        path,
        "Trainings compared",
        [("Reward", figures)],
        intro=f"{results['runs']} runs of {len(results['credits'])} credits.",
        footer="Made by noria credit compare.",
    )
    return path
