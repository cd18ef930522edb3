"""`noria reports evaluate`: scores of reports, without judges or with two."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any, Literal

import click
from pydantic import Field

from noria.core.config import Argument, Option
from noria.core.errors import ConfigError, RunError
from noria.core.files import read_text, write_atomic
from noria.core.records import json_values
from noria.verbs.command import command as make_command
from noria.verbs.options import JsonOption, ServerOptions
from noria.verbs.tables import table


class EvaluateConfig(ServerOptions, JsonOption):
    """Settings of `noria reports evaluate`."""

    report: Annotated[Path, Argument()] = Field(
        description="Folder of a report, or a Markdown file of any system."
    )
    tasks: Annotated[Path | None, Option(metavar="FILE")] = Field(
        None, description="Tasks in TVIR-Bench's form (query.json)."
    )
    task: str | None = Field(None, description="Id of the report's task.")
    second_model: Annotated[str | None, Option(metavar="NAME")] = Field(
        None, description="Name of a second judge on the server."
    )
    repeats: int = Field(1, ge=1, le=20, description="Times that each rubric is asked of each judge.")
    compat: Literal["official"] | None = Field(
        None, description="Follow the order and the counting of the released evaluator."
    )
    output: Annotated[Path | None, Option("-o", metavar="FILE")] = Field(
        None, description="File of the scores as JSON."
    )


@make_command(EvaluateConfig, extra="reports")
def command(config: EvaluateConfig) -> None:
    """Score a report. The report is not changed; without --model only what needs no judge is scored."""
    from noria.reports.evaluation.automatic import evaluate_bundle, evaluate_text

    if not (config.url or config.model):
        if config.second_model or config.repeats > 1:
            raise ConfigError(
                "there is no judge", where="--second-model, --repeats", mend="give --url and --model"
            )
        if config.compat:
            raise ConfigError(
                "the released evaluator needs a judge", where="--compat", mend="give --url and --model"
            )
    task = _task(config)
    folder = config.report if config.report.is_dir() else config.report.parent
    file = config.report / "report.md" if config.report.is_dir() else config.report
    markdown = read_text(file, limit=16_000_000)
    request = task.get("query", "") if task else ""
    bundle = config.report.is_dir() and (config.report / "report.json").is_file()
    result: dict[str, Any] = {
        "automatic": evaluate_bundle(folder, request=request)
        if bundle
        else evaluate_text(markdown, folder, request=request)
    }
    if config.url or config.model:
        result["judged"] = judged = asyncio.run(_judged(config, markdown, folder, task))
        if all(judged["scores"][name] is None for name in ("WQ", "ADB", "FLC")):
            why = judged["questions"]["reason"] or "no reply could be read"
            raise RunError(f"no judge gave an answer: {why}", where="--url", mend="look at the server")
    if config.output is not None:
        write_atomic(config.output, json.dumps(json_values(result), indent=1, ensure_ascii=False) + "\n")
    if config.as_json:
        click.echo(json.dumps(json_values(result), indent=2, ensure_ascii=False))
        return
    _print(result)


def _task(config: EvaluateConfig) -> Mapping[str, Any]:
    from noria.reports.evaluation.automatic import read_tasks

    if config.tasks is None:
        if config.task:
            raise ConfigError("no file of tasks", where="--task", mend="give --tasks")
        return {}
    found = [entry for entry in read_tasks(config.tasks) if entry["id"] == config.task]
    if not found:
        raise ConfigError(f"no task {config.task!r}", where="--task", mend="give one of the file's ids")
    return found[0]


async def _judged(
    config: EvaluateConfig, markdown: str, folder: Path, task: Mapping[str, Any]
) -> dict[str, Any]:
    from noria.core.chat import ChatClient
    from noria.reports.checking.findings import Verification
    from noria.reports.checking.verify import _cited_texts
    from noria.reports.document.bundle import read_bundle
    from noria.reports.document.numbering import number
    from noria.reports.document.parsing import parse_report
    from noria.reports.evaluation.dual import evaluate_judged

    server = config.server()
    if (folder / "report.json").is_file():
        bundle = read_bundle(folder)
        numbering = number(bundle.report, bundle.book)
        sources = {
            n: read_text(folder / "archive" / f"{s.sha256}.txt", limit=64_000_000)
            for n, s in enumerate(numbering.order, 1)
        }
    else:
        sources = _cited_texts(parse_report(markdown), Verification(), folder)
    questions = [question for listed in task.get("checklist", {}).values() for question in listed]
    async with ChatClient(server) as first:
        judges = [first]
        if config.second_model:
            judges.append(ChatClient(server.model_copy(update={"model": config.second_model})))
        try:
            return await evaluate_judged(
                markdown,
                judges,
                folder=folder,
                sources=sources,
                checklist=questions,
                repeats=config.repeats,
                compat=config.compat is not None,
            )
        finally:
            for judge in judges[1:]:
                await judge.aclose()


def _print(result: Mapping[str, Any]) -> None:
    rows = [["figure", "value"]]
    for name, value in result["automatic"].items():
        if isinstance(value, dict):
            rows += [[f"{name}: {key}", _word(inner)] for key, inner in value.items()]
        else:
            rows.append([name, _word(value)])
    click.echo(table(rows))
    if "judged" in result:
        scores, questions = (
            result["judged"]["scores"] | result["judged"]["totals"],
            result["judged"]["questions"],
        )
        click.echo(
            "\n"
            + table(
                [
                    ["metric", "score"],
                    *[[name, _word(None if v is None else 100 * v)] for name, v in scores.items()],
                ]
            )
        )
        click.echo(f"questions: {questions['put']:,}, of which {questions['unanswered']:,} without an answer")
        if questions["unanswered"]:
            click.echo(f"the first: {questions['reason']}")


def _word(value: Any) -> str:
    return (
        "-"
        if value is None
        else f"{value:.3f}".rstrip("0").rstrip(".")
        if isinstance(value, float)
        else str(value)
    )
