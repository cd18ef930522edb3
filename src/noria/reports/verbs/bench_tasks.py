"""`noria reports bench-tasks`: reports for a list of requests, their scores, and a leaderboard's row."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any

import click
from pydantic import Field

from noria.core.config import Argument, Option
from noria.core.digests import digest_of
from noria.core.errors import DataError, NoriaError, RunError
from noria.core.files import read_text, write_atomic
from noria.core.progress import Progress
from noria.core.records import json_object, json_values
from noria.core.runs.outputs import results_folder
from noria.reports.jobs.options import WritingOptions
from noria.reports.search.protocol import SourceRules
from noria.reports.verbs.writing import prepare_fonts
from noria.verbs.command import command as make_command
from noria.verbs.options import JsonOption, OutputOption, QuietOption
from noria.verbs.tables import table

SETTINGS = "settings.json"
"""File of what the reports of a folder are made from."""
VARYING = {"tasks", "limit", "output", "as_json", "quiet", "index", "url", "key_env", "prices", "in_flight", "timeout",
           "requests_per_minute", "budget"}  # fmt: skip
"""Settings that change nothing of a report: where and how fast its server is asked, and what may be spent."""
VISUAL = ("CSC", "visuals", "integration", "fulfilment")
"""Figures that a report has where its request demands visuals."""


class BenchTasksConfig(WritingOptions, OutputOption, JsonOption, QuietOption):
    """Settings of `noria reports bench-tasks`."""

    tasks: Annotated[Path, Argument()] = Field(description="Tasks in TVIR-Bench's form (query.json).")
    index: Annotated[Path, Option("-i", metavar="FILE")] = Field(
        description="File of the index (noria reports index)."
    )
    limit: int | None = Field(None, ge=1, description="Number of tasks, from the first (default: all).")


@make_command(BenchTasksConfig, extra="reports")
def command(config: BenchTasksConfig) -> int:
    """Write and score a report for each task; finished tasks are kept, and the same command resumes.

    A task that failed has the lowest score, 0, in each figure that it would have had; exit code 1 where one did.
    """
    from noria.reports.evaluation.automatic import read_tasks
    from noria.reports.search.index import Index

    tasks = read_tasks(config.tasks)[: config.limit]
    with Index(config.index):  # what is wrong for every task is said once, before anything is written
        config.countries()
        config.style()
    folder = results_folder("reports", config.output, config.tasks.stem)
    prepare_fonts(config, "\n".join(task["query"] for task in tasks))
    settings = _settings(config, tasks, folder)
    scores: dict[str, dict[str, Any]] = {}
    failures: dict[str, str] = {}
    with Progress(quiet=config.quiet) as progress:
        job = progress.task("tasks", len(tasks))
        for task in tasks:
            try:
                scores[task["id"]] = _one(config, folder, task)
                write_atomic(folder / SETTINGS, settings, sync=False)
            except NoriaError as error:
                failures[task["id"]] = str(error)
                scores[task["id"]] = _failed(task["query"])
            job.advance()
        job.done()
    if len(failures) == len(scores):
        task_id, why = next(iter(failures.items()))
        raise DataError(
            f"none of {len(failures)} tasks was written; {task_id}: {why}", where=str(config.tasks)
        )
    means, counts = _means(scores)
    result = {
        "tasks": scores,
        "failures": failures,
        "written": len(scores) - len(failures),
        "means": means,
        "counts": counts,
    }
    write_atomic(folder / "scores.json", json.dumps(json_values(result), indent=1) + "\n")
    _board(folder / "board.html", result)
    if config.as_json:
        click.echo(json.dumps(json_values(result), indent=2))
        return 1 if failures else 0
    rows = [[name, f"{value:.3f}", str(counts[name])] for name, value in means.items()]
    click.echo(table([["figure", "mean", "tasks"], *rows]))
    click.echo(_written(result))
    for task_id, why in failures.items():
        click.echo(f"failed: {task_id}: {why}")
    click.echo(f"scores  {folder / 'scores.json'}\nboard   {folder / 'board.html'}")
    return 1 if failures else 0


def _settings(config: BenchTasksConfig, tasks: Sequence[Mapping[str, Any]], folder: Path) -> str:
    """What the reports of a folder are made from, which is kept beside them; tasks may be added.

    Raises:
        DataError: an id is no plain name.
        RunError: the folder holds reports of other settings, of another index, or of another query of the same id.
    """
    from noria.reports.evidence.records import encode
    from noria.reports.jobs.making import check_folder

    for task in tasks:
        if not task["id"].isalnum() or len(task["id"]) > 100:
            raise DataError(f"the id {task['id'][:100]!r} is no plain name", where=str(config.tasks))
        check_folder(folder / "reports" / task["id"], task["query"])
    dumped = config.model_dump(mode="json", exclude=VARYING)
    named = {"index": config.index, "borders": config.borders, "css": config.css}
    contents = {name: digest_of(path) for name, path in named.items() if path is not None}
    settings = encode(dumped | contents)
    path = folder / SETTINGS
    if path.is_file() and read_text(path) != settings:
        raise RunError(
            "the folder holds reports of other settings or another index",
            where=str(folder),
            mend="give another --output",
        )
    return settings


def _one(config: BenchTasksConfig, folder: Path, task: Mapping[str, Any]) -> dict[str, Any]:
    from noria.reports.agents.contracts import requirements
    from noria.reports.evaluation.automatic import evaluate_bundle
    from noria.reports.search.index import Index

    home = folder / "reports" / task["id"]
    kept = home / "scores.json"
    if kept.is_file():
        return json_object(kept, "the scores of a task", mend="remove it, and the task is written again")
    home.mkdir(parents=True, exist_ok=True)
    with Index(config.index, config.part(SourceRules)) as index:
        job = config.job(home, index, config.agents(home), digest_of(config.index))
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


def _failed(query: str) -> dict[str, Any]:
    """Scores of a task without a report: 0, the lowest; those of visuals only where the request demands some.

    Counts of errors have no lowest score, and stay missing.
    """
    from noria.reports.agents.requests import demands_of

    visual = 0.0 if demands_of(query) else None
    return dict.fromkeys(("CS", "FLC", "AEC"), 0.0) | dict.fromkeys(VISUAL, visual)


def _means(scores: Mapping[str, Mapping[str, Any]]) -> tuple[dict[str, float], dict[str, int]]:
    """Mean of each figure over the tasks that have it, and the number of these tasks."""
    names = dict.fromkeys(name for row in scores.values() for name in row)
    known = {name: [row[name] for row in scores.values() if row.get(name) is not None] for name in names}
    means = {name: sum(values) / len(values) for name, values in known.items() if values}
    return means, {name: len(known[name]) for name in means}


def _written(result: Mapping[str, Any]) -> str:
    """Availability: how many tasks have a report."""
    failed = len(result["failures"])
    counted_as = "; each that failed counts as 0 in every score that it would have had" if failed else ""
    return f"written: {result['written']} of {result['written'] + failed} tasks{counted_as}"


def _board(path: Path, result: Mapping[str, Any]) -> None:
    from noria.core.pages.charts import Figure
    from noria.core.pages.report import write_page

    means, counts, tasks = result["means"], result["counts"], result["tasks"]
    names = list(means)
    rows = [[task, *(row.get(name) for name in names)] for task, row in tasks.items()]
    blocks = [
        Figure.table(
            "Means over tasks",
            ["figure", "mean", "tasks"],
            [[name, means[name], counts[name]] for name in names],
            f"{_written(result)}.",
        ),
        Figure.table("Each task", ["task", *names], rows, f"{len(result['failures'])} tasks failed."),
    ]
    write_page(
        path,
        "Reports",
        [("Scores", blocks)],
        intro="Figures that need no judge. A dash means that it is undefined for the task.",
    )
