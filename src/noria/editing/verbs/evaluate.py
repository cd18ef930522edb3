"""`noria editing evaluate`: RISEBench and KRIS-Bench on the user's copy, and the same editor without a planner."""

from __future__ import annotations

import asyncio
import contextlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import click
from pydantic import Field

from noria.core.config import Argument, Option
from noria.core.errors import ConfigError, DataError
from noria.core.progress import Progress
from noria.core.records import json_values
from noria.core.runs.outputs import results_folder
from noria.editing.benchmarks.scoring import Mode
from noria.editing.verbs.options import (
    EditorOptions,
    JudgeOptions,
    PlannerOptions,
    judge_server,
    opened_planner,
    opened_renderer,
)
from noria.verbs.command import command as make_command
from noria.verbs.options import JsonOption, OutputOption, QuietOption, SeedOption, refuse_given
from noria.verbs.tables import table

if TYPE_CHECKING:
    from noria.core.chat.settings import ChatServer
    from noria.editing.benchmarks.items import BenchItem
    from noria.editing.benchmarks.running import Comparison
    from noria.editing.benchmarks.scoring import ItemScore, Row


class EvaluateConfig(
    PlannerOptions, EditorOptions, JudgeOptions, SeedOption, OutputOption, JsonOption, QuietOption
):
    """Settings of `noria editing evaluate`."""

    data: Annotated[Path, Argument()] = Field(
        description="RISEBench's .json file, KRIS-Bench's folder of categories, or a .jsonl file of tasks."
    )
    recorded: Annotated[Path | None, Option(metavar="FILE")] = Field(
        None, description="Score these recorded judgements, and ask nobody."
    )
    mode: Mode = Field("strict", description="Scores without the released scorers' known bugs, or with them.")
    rival: Annotated[str | None, Option(metavar="NAME")] = Field(
        None, description="Another model on the planner's server, such as the untrained one, as an arm."
    )
    rewriter: bool = Field(
        False, description="Add an arm in which the planner's model rewrites the request unseen."
    )
    limit: int | None = Field(
        None, ge=1, description="Number of items to run, the first ones of the benchmark, as a trial."
    )


EDITS = {
    False: "An edit that failed has the lowest score.",
    True: "As in the released scorers, an edit that failed is left out of a mean.",
}
"""What becomes of edits that failed, by whether the released scorers are followed."""


@dataclass(frozen=True)
class EvaluateResult:
    """Scores of each arm, their comparison, and the page; a recording has one arm."""

    scores: Mapping[str, Sequence[ItemScore]]
    rows: Mapping[str, Sequence[Row]]
    comparison: Comparison | None
    page: Path


@make_command(EvaluateConfig, extra="editing")
def command(config: EvaluateConfig) -> None:
    """Edit, judge and score a benchmark, with and without the planner; or score what was recorded."""
    result = run(config, Progress(quiet=config.quiet))
    if config.as_json:
        content: dict[str, Any] = {
            "mode": config.mode,
            "arms": {arm: [vars(row) for row in rows] for arm, rows in result.rows.items()},
        }
        if result.comparison is not None:
            content["comparison"] = _comparison_json(result.comparison)
        click.echo(json.dumps(json_values(content), indent=2))
        return
    lines = [["arm", "family", "items", "edited %", "scored", "score %", "accuracy %", "95 % from", "to"]]
    for arm, rows in result.rows.items():
        for row in rows:
            score = "-" if row.score != row.score else f"{row.score:.1f}"
            shares = [f"{100 * share:.1f}" for share in (row.accuracy, row.low, row.high)]
            edited = f"{100 * row.availability:.1f}"
            lines.append([arm, row.name, str(row.items), edited, str(row.scored), score, *shares])
    click.echo(table(lines, names=2))
    if result.comparison is not None:
        click.echo(f"\n{sentence(result.comparison)}")
    click.echo(f"report  {result.page}")


def sentence(comparison: Comparison) -> str:
    """A comparison in a sentence."""
    gap = comparison.difference
    p = "no item differs" if comparison.p_value is None else f"McNemar P = {comparison.p_value:.3g}"
    return (
        f"With the planner, accuracy is {100 * gap.effect:+.1f} points ({100 * gap.low:+.1f} to "
        f"{100 * gap.high:+.1f}, {gap.n:,} items): {comparison.gained} gained, {comparison.lost} lost, {p}."
    )


def run(config: EvaluateConfig, progress: Progress) -> EvaluateResult:
    """Evaluate, and write `report.html` with `scores.json` beside it. It resumes.

    Raises:
        NoriaError: anything that a user can mend.
    """
    from noria.editing.benchmarks.items import read_items
    from noria.editing.benchmarks.running import compare, read_recorded, score_items
    from noria.editing.benchmarks.scoring import summary

    items = read_items(config.data)[: config.limit]
    if any(item.kind == "tasks" for item in items) and config.mode != "strict":
        raise ConfigError("tasks of our own have no released scorer", where="--mode", mend="leave it out")
    folder = results_folder("editing", config.output, f"evaluate-{config.data.stem}")
    if config.recorded is not None:
        groups = (PlannerOptions, EditorOptions, JudgeOptions, SeedOption)
        unused = [name for group in groups for name in group.model_fields]
        refuse_given(
            config,
            *unused,
            "rival",
            "rewriter",
            because="recorded judgements are scored alone",
        )
        arms = {"recorded": read_recorded(config.recorded)}
        unknown = set(arms["recorded"]) - {item.id for item in items}
        if unknown and config.limit is None:
            raise DataError(f"no item {sorted(unknown)[0]!r} in the benchmark", where=str(config.recorded))
    else:
        unused = ["cross_url", "cross_model", "cross_share", "editscore", "one_by_one", "canaries"]
        refuse_given(config, *unused, because="a benchmark has questions of its own, and one judge")
        server = judge_server(config)
        if server is None:
            raise ConfigError("no judge", where="--judge-url", mend="give --judge-url and --judge-model")
        with progress:
            arms = asyncio.run(_run_arms(config, server, items, folder, progress))
    scores = {arm: score_items(items, records, config.mode) for arm, records in arms.items()}
    rows = {arm: summary(one, items[0].kind) for arm, one in scores.items()}
    comparison = None
    if "planner" in scores:
        comparison = compare(scores["planner"], scores["no planner"], seed=config.seed)
    return EvaluateResult(scores, rows, comparison, _write(folder, config, scores, rows, comparison))


async def _run_arms(
    config: EvaluateConfig, server: ChatServer, items: Sequence[BenchItem], folder: Path, progress: Progress
) -> dict[str, dict[str, dict[str, Any]]]:
    from noria.core.chat import ChatClient
    from noria.editing.benchmarks.running import run_arm
    from noria.editing.types import Planner
    from noria.editing.use.planners import ChatPlanner, DirectPlanner, Rewriter
    from noria.editing.use.session import ThinkThenEdit

    arms: dict[str, dict[str, dict[str, Any]]] = {}
    async with (
        opened_planner(config) as planner,
        opened_renderer(config) as renderer,
        ChatClient(server) as judge,
        contextlib.AsyncExitStack() as stack,
    ):
        planners: dict[str, Planner] = {"no planner": DirectPlanner()}
        if not config.direct:
            planners = {"planner": planner} | planners
        if config.rival is not None:
            rival = ChatClient(config.server().model_copy(update={"model": config.rival}))
            planners["rival"] = ChatPlanner(
                await stack.enter_async_context(rival),
                config.rival,
                temperature=config.temperature,
                max_tokens=config.max_new_tokens,
            )
        if config.rewriter:
            client = await stack.enter_async_context(ChatClient(config.server()))
            planners["rewriter"] = Rewriter(client, str(config.model))
        for arm, one in planners.items():
            thinking = config.thinking and arm in ("planner", "rival")
            arms[arm] = await run_arm(
                arm,
                ThinkThenEdit(one, renderer, need_thinking=thinking),
                judge,
                items,
                folder,
                judge_name=server.model,
                seed=config.seed,
                in_flight=max(config.renders, config.in_flight),
                progress=progress,
            )
    return arms


def _comparison_json(comparison: Comparison) -> dict[str, Any]:
    return vars(comparison) | {"difference": vars(comparison.difference)}


def _write(
    folder: Path,
    config: EvaluateConfig,
    scores: Mapping[str, Sequence[ItemScore]],
    rows: Mapping[str, Sequence[Row]],
    comparison: Comparison | None,
) -> Path:
    from noria.core.files import write_atomic
    from noria.core.pages.charts import Figure
    from noria.core.pages.report import write_page
    from noria.editing.benchmarks.judging import prompts_digest
    from noria.editing.benchmarks.scoring import KNOWN_BUGS

    judge = str(config.recorded or config.judge_model)
    content = {
        "mode": config.mode,
        "judge": judge,
        "prompts": None if config.recorded else prompts_digest(),
        "arms": {arm: [vars(row) for row in one] for arm, one in rows.items()},
        "comparison": None if comparison is None else _comparison_json(comparison),
        "items": {arm: [vars(score) for score in one] for arm, one in scores.items()},
    }
    write_atomic(folder / "scores.json", json.dumps(json_values(content), indent=1) + "\n")
    lines: list[list[str | int | float | None]] = [
        [
            arm,
            r.name,
            r.items,
            100 * r.availability,
            r.scored,
            r.score,
            *(100 * v for v in (r.accuracy, r.low, r.high)),
        ]
        for arm, one in rows.items()
        for r in one
    ]
    header = ["arm", "family", "items", "edited %", "scored", "score %", "accuracy %", "95 % from", "to"]
    blocks: list[Figure | str] = [Figure.table("Scores", header, lines)]
    if comparison is not None:
        blocks.insert(0, sentence(comparison))
    bugs: list[list[str | int | float | None]] = [[name, text] for name, text in KNOWN_BUGS.items()]
    page = folder / "report.html"
    write_page(
        page,
        f"Benchmark: {config.data.stem}",
        [
            ("Scores", blocks),
            (
                "Known bugs of the released scorers",
                [Figure.table(f"Mode {config.mode}", ["name", "what"], bugs)],
            ),
        ],
        intro=f"Judge: {judge}. {EDITS[config.mode != 'strict']} What the judge failed on is left out of a mean, "
        "and is not accurate. Judges differ: compare only what one judge, with one set of prompts, has scored.",
        footer="Made by noria editing evaluate.",
    )
    return page
