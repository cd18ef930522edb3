"""`noria reports bench-tasks`: reports for a list of requests, their scores, and a leaderboard's row."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any

import click
from pydantic import Field

from noria.core.config import Argument, Option
from noria.core.errors import DataError, NoriaError
from noria.core.files import write_atomic
from noria.core.progress import Progress
from noria.core.records import json_values
from noria.core.runs.outputs import results_folder
from noria.reports.jobs.options import WritingOptions
from noria.reports.search.protocol import SourceRules
from noria.verbs.command import command as make_command
from noria.verbs.options import JsonOption, OutputOption, QuietOption
from noria.verbs.tables import table


class BenchTasksConfig(WritingOptions, OutputOption, JsonOption, QuietOption):
    """Settings of `noria reports bench-tasks`."""

    tasks: Annotated[Path, Argument()] = Field(description="Tasks in TVIR-Bench's form (query.json).")
    index: Annotated[Path, Option("-i", metavar="FILE")] = Field(
        description="File of the index (noria reports index)."
    )
    limit: int | None = Field(None, ge=1, description="Number of tasks, from the first (default: all).")


@make_command(BenchTasksConfig, extra="reports")
def command(config: BenchTasksConfig) -> None:
    """Write and score a report for each task; finished tasks are kept, and the same command resumes."""
    from noria.reports.evaluation.automatic import read_tasks
    from noria.reports.search.index import Index

    tasks = read_tasks(config.tasks)[: config.limit]
    with Index(config.index):  # what is wrong for every task is said once, before anything is written
        config.countries()
        config.style()
    folder = results_folder("reports", config.output, config.tasks.stem)
    scores: dict[str, Any] = {}
    failures: dict[str, str] = {}
    with Progress(quiet=config.quiet) as progress:
        job = progress.task("tasks", len(tasks))
        for task in tasks:
            try:
                scores[task["id"]] = _one(config, folder, task)
            except NoriaError as error:
                failures[task["id"]] = str(error)
            job.advance()
        job.done()
    if failures and not scores:
        task_id, why = next(iter(failures.items()))
        raise DataError(
            f"none of {len(failures)} tasks was written; {task_id}: {why}", where=str(config.tasks)
        )
    result = {"tasks": scores, "failures": failures, "means": _means(scores)}
    write_atomic(folder / "scores.json", json.dumps(json_values(result), indent=1) + "\n")
    _board(folder / "board.html", result)
    if config.as_json:
        click.echo(json.dumps(json_values(result), indent=2))
        return
    click.echo(
        table([["figure", "mean"], *[[name, f"{value:.3f}"] for name, value in result["means"].items()]])
    )
    for task_id, why in failures.items():
        click.echo(f"failed: {task_id}: {why}")
    click.echo(f"scores  {folder / 'scores.json'}\nboard   {folder / 'board.html'}")


def _one(config: BenchTasksConfig, folder: Path, task: Mapping[str, Any]) -> dict[str, Any]:
    from noria.reports.agents.contracts import requirements
    from noria.reports.evaluation.automatic import evaluate_bundle
    from noria.reports.search.index import Index

    if not task["id"].isalnum():
        raise DataError(f"the id {task['id']!r} is no plain name", where=str(config.tasks))
    home = folder / "reports" / task["id"]
    kept = home / "scores.json"
    if kept.is_file():
        loaded: dict[str, Any] = json.loads(kept.read_text())
        return loaded
    home.mkdir(parents=True, exist_ok=True)
    with Index(config.index, config.part(SourceRules)) as index:
        job = config.job(home, index, config.agents(home), "")
        bundle = job.write(task["query"])
        _, plan = job.plan(task["query"])
    measured = evaluate_bundle(home, request=task["query"])
    planned = len(requirements(plan))
    row = {
        "CS": measured["CS"],
        "CSC": measured["CSC"],
        "FLC": measured["FLC"],
        "AEC": measured["AEC"],
        "visuals": measured["visuals"],
        "integration": measured["integration"],
        "fulfilment": len(bundle.drawn) / planned if planned else None,
        "findings": measured["findings"],
        **measured["structure"],
    }
    write_atomic(kept, json.dumps(json_values(row), indent=1) + "\n")
    return row


def _means(scores: Mapping[str, Mapping[str, Any]]) -> dict[str, float]:
    names = dict.fromkeys(name for row in scores.values() for name in row)
    known = {name: [row[name] for row in scores.values() if row.get(name) is not None] for name in names}
    return {name: sum(values) / len(values) for name, values in known.items() if values}


def _board(path: Path, result: Mapping[str, Any]) -> None:
    from noria.core.pages.charts import Figure
    from noria.core.pages.report import write_page

    means, tasks = result["means"], result["tasks"]
    names = list(means)
    rows = [[task, *(row.get(name) for name in names)] for task, row in tasks.items()]
    blocks = [
        Figure.table("Means over tasks", ["figure", "mean"], [[name, means[name]] for name in names]),
        Figure.table("Each task", ["task", *names], rows, f"{len(result['failures'])} tasks failed."),
    ]
    write_page(
        path,
        "Reports",
        [("Scores", blocks)],
        intro="Figures that need no judge. A dash means that it is undefined for the task.",
    )
