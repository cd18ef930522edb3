"""The verbs of `noria routing`. They parse, call a job, and print what came of it."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from noria.core.errors import ConfigError, require
from noria.core.progress import Progress
from noria.verbs import DOWNLOAD, JSON, PATH, QUIET, SETTINGS, numbers, output, plain_warnings, table

if TYPE_CHECKING:
    from types import ModuleType

    from noria.routing.routers.metrics import Score

__all__ = ["group"]

TABLE = click.option(
    "--table", "table_file", type=PATH, metavar="FILE", help="Replay table: our own, or another's format."
)
TRADE = click.option(
    "--trade", type=float, help="How much better the dearest route must be (default: as it was saved)."
)
POOL = click.option("--pool", type=PATH, metavar="FILE", help="YAML file of the models that can be asked.")


@click.group(context_settings=SETTINGS)
def group() -> None:
    """Routers that send each request to the right model, trained with calibrated rewards (ReCal).

    ROUTER is a run folder or the folder of a saved router.
    """
    plain_warnings()


@group.command(short_help="Ask every model every question once, into a replay table.")
@click.argument("pool", type=PATH)
@click.argument("questions", type=PATH)
@output("The .jsonl table to write, or to go on with.", required=True)
@click.option("--budget", type=click.FloatRange(0), help="What all answers may cost together.")
@click.option("--cache", type=PATH, metavar="FOLDER", help="Keep answers there, and take them from there.")
@click.option("--at-once", type=click.IntRange(1), default=64, show_default=True, help="Requests under way.")
@DOWNLOAD
@QUIET
def record(
    pool: Path,
    questions: Path,
    output: str,
    budget: float | None,
    cache: Path | None,
    at_once: int,
    allow_download: bool,
    quiet: bool,
) -> None:
    """Record a replay table: POOL is a YAML file, QUESTIONS a .jsonl or .parquet one. The same command goes on."""
    from noria.routing.pool.config import read_pool

    done = _jobs().record(
        read_pool(pool),
        questions,
        output,
        cache=cache,
        budget=budget,
        at_once=at_once,
        allow_download=allow_download,
        progress=Progress(quiet=quiet),
    )
    whole = done.table
    click.echo(
        f"table  {output}   {len(whole.questions):,} questions, {len(whole.routes)} routes, "
        f"{len(whole.cells):,} answers"
    )
    paid = "unknown" if math.isnan(done.cost) else f"{done.cost:.4g}"
    click.echo(f"asked  {done.asked:,} now, {done.before:,} before; {done.failed:,} failed; cost {paid}")
    left = len(whole.questions) * len(whole.routes) - len(whole.cells)
    if left:
        click.echo(f"left   {left:,}: the budget is spent; the same command with a new one goes on")
    click.echo(f"next   noria routing compare --table {output}")


@group.command(short_help="Train a router on a replay table.")
@TABLE
@click.option(
    "--policy",
    default="network",
    show_default=True,
    help="network, writer (a language model), a baseline (random, best_single, best_per_task, knn, mf), or a route.",
)
@click.option("--model", metavar="MODEL", help="The writer's: a folder, a hub id.")
@click.option("--config", type=PATH, metavar="FILE", help="YAML file of settings.")
@TRADE
@output("Run folder (default runs/routing/NAME).")
@DOWNLOAD
@QUIET
@click.argument("settings", nargs=-1, metavar="[KEY=VALUE]...")
def train(
    table_file: Path | None,
    policy: str,
    model: str | None,
    config: Path | None,
    trade: float | None,
    output: str | None,
    allow_download: bool,
    quiet: bool,
    settings: tuple[str, ...],
) -> None:
    """Train a router; the same command goes on with a run that was stopped.

    Settings are KEY=VALUE, such as calibration=grpo or thrift=0.1; they beat the file.
    """
    named = None if table_file is None else str(table_file)
    if policy not in ("network", "writer"):
        if settings or config or named is None:
            raise ConfigError(
                "a baseline takes --table and --trade only", where="--policy", mend="leave the rest out"
            )
        goal = output or f"runs/routing/{Path(named).stem}-{policy}"
        folder, router = _jobs().fit(policy, Path(named), goal, trade=trade or 0.0)
        click.echo(f"router  {folder}   {router.kind}, {len(router.routes)} routes")
        return
    from noria.routing.config import WriterTraining
    from noria.routing.verbs.settings import resolve

    resolved, folder = resolve(
        policy, table=named, model=model, file=config, output=output, overrides=settings
    )
    progress = Progress(quiet=quiet)
    if isinstance(resolved, WriterTraining):
        lm_training = require("noria.routing.writer.lm_training", "trl")
        done = lm_training.train_writer(resolved, folder, allow_download=allow_download, progress=progress)
    else:
        learn = require("noria.routing.routers.learn", "routing")
        done = learn.train_network(resolved, folder, progress=progress)
    click.echo(f"run     {done.folder}   {done.step:,} steps")
    click.echo(f"held    {_line(done.score)}")
    click.echo(f"report  {done.report}")


@group.command("evaluate", short_help="Judge a router on a replay table.")
@click.argument("router", type=PATH)
@TABLE
@click.option("--trades", metavar="LIST", help="Also at these trades, such as 0,0.1,0.5.")
@output("Folder of evaluation.json (default: the router's).")
@JSON
def evaluate_(
    router: Path, table_file: Path | None, trades: str | None, output: str | None, as_json: bool
) -> None:
    """Judge ROUTER on every question of a table."""
    wanted = numbers(trades, "--trades", "0,0.1,0.5") or []
    result, file = _jobs().evaluate(router, _needed(table_file), trades=wanted, output=output)
    if as_json:
        click.echo(file.read_text().rstrip())
        return
    click.echo(f"{result.name}: {_line(result.score)}")
    lines = [("data set", "accuracy"), *((n, _cell(v)) for n, v in result.score.accuracy.items())]
    click.echo(table(lines))
    if result.curve:
        click.echo("")
        head = ("trade", "macro", "micro", "cost")
        rows = [(f"{t:g}", _cell(s.macro), _cell(s.micro), f"{s.cost:.4g}") for t, s in result.curve]
        click.echo(table([head, *rows], names=0))
    click.echo(f"\nresults  {file}")


@group.command(short_help="Decide about one question, with the reasons.")
@click.argument("router", type=PATH)
@click.argument("question")
@click.option("--dataset", help="Of the question, where that is known.")
@TRADE
@POOL
@DOWNLOAD
@JSON
def route(
    router: Path,
    question: str,
    dataset: str | None,
    trade: float | None,
    pool: Path | None,
    allow_download: bool,
    as_json: bool,
) -> None:
    """Say whom ROUTER would ask QUESTION, and why; with --pool also ask."""
    from noria.routing.pool.config import read_pool

    decision, reply = _jobs().route(
        router,
        question,
        dataset=dataset,
        trade=trade,
        pool=None if pool is None else read_pool(pool),
        allow_download=allow_download,
    )
    if as_json:
        ranking = [
            {"route": r.label, "utility": u} for r, u in zip(decision.ranking, decision.utility, strict=True)
        ]
        content: dict[str, Any] = {
            "route": decision.route.label, "reason": decision.reason, "ranking": ranking
        }  # fmt: skip
        if reply is not None:
            content["answer"] = reply.text
            content["failure"] = reply.failure
            content["cost"] = None if math.isnan(reply.cost) else reply.cost
        click.echo(json.dumps(content, indent=2))
        return
    click.echo(f"route   {decision.route.label}")
    click.echo(f"reason  {decision.reason}")
    rows = [(r.label, f"{u:.3f}") for r, u in zip(decision.ranking[:8], decision.utility[:8], strict=True)]
    click.echo(table([("ranking", "utility"), *rows]))
    if reply is not None:
        click.echo(f"answer  {reply.text if reply.text is not None else f'none ({reply.failure})'}")


@group.command(short_help="Judge baselines and routers side by side.")
@TABLE
@click.option("--test", type=PATH, metavar="FILE", help="A table to judge on (default: a part of --table).")
@click.option(
    "--routers",
    "kinds",
    metavar="LIST",
    help="Baselines, apart by commas (default: random, best_single, best_per_task, knn, mf, oracle).",
)
@click.option(
    "--held-out",
    type=click.FloatRange(0, 1, min_open=True, max_open=True),
    default=0.2,
    show_default=True,
    help="The part.",
)
@click.option("--seed", type=click.IntRange(0), default=0, show_default=True, help="Of the split.")
@output("Folder of the page (default runs/routing/compare-TABLE).")
@QUIET
@click.argument("sources", nargs=-1, type=PATH, metavar="[ROUTER]...")
def compare(
    table_file: Path | None,
    test: Path | None,
    kinds: str | None,
    held_out: float,
    seed: int,
    output: str | None,
    quiet: bool,
    sources: tuple[Path, ...],
) -> None:
    """Judge baselines, and any trained routers, on questions that the baselines were not fitted on."""
    from noria.routing.routers.baselines import KINDS

    chosen = [k.strip() for k in kinds.split(",") if k.strip()] if kinds else list(KINDS)
    done = _jobs().compare(
        _needed(table_file),
        sources,
        kinds=chosen,
        test=test,
        held_out=held_out,
        seed=seed,
        output=output,
        progress=Progress(quiet=quiet),
    )
    head = ("router", "macro", "micro", "cost", "regret", "AIQ", "stability")
    rows = [
        (name, _cell(s.macro), _cell(s.micro), f"{s.cost:.4g}", _cell(s.regret), _cell(area), _cell(stays))
        for name, s, area, stays in done.rows
    ]
    click.echo(table([head, *rows]))
    click.echo(f"\n{done.questions:,} questions   report  {done.report}")


@group.command("report", short_help="Write a run's page again.")
@click.argument("run", type=PATH)
def report_(run: Path) -> None:
    """Write the page of a training: learning curves, the signal by component, gradient shares by data set."""
    from noria.routing.routers.page import write_run_page

    click.echo(f"report  {write_run_page(run)}")


@group.command(short_help="Serve a router as an OpenAI-compatible API.")
@click.argument("router", type=PATH)
@POOL
@click.option(
    "--host", default="127.0.0.1", show_default=True, help="To listen on; beyond loopback it needs a token."
)
@click.option(
    "--port", type=click.IntRange(0, 65535), default=8000, show_default=True, help="0 for a free one."
)
@click.option(
    "--token-file", type=PATH, help="File of the token (default: the environment variable NORIA_TOKEN)."
)
@TRADE
@click.option("--route-only", is_flag=True, help="Answer with the decision and its reasons; ask nobody.")
@click.option("--cache", type=PATH, metavar="FOLDER", help="Keep answers there, and take them from there.")
@click.option("--budget", type=click.FloatRange(0), help="What all answers may cost together.")
@click.option(
    "--patience",
    type=click.FloatRange(0, min_open=True),
    default=120.0,
    show_default=True,
    help="Seconds for one backend, before the next is asked.",
)
@click.option(
    "--fallbacks", type=click.IntRange(0), default=2, show_default=True, help="Backends after the first."
)
@click.option(
    "--in-flight", type=click.IntRange(1), default=512, show_default=True, help="Requests under way."
)
@DOWNLOAD
def serve(
    router: Path,
    pool: Path | None,
    host: str,
    port: int,
    token_file: Path | None,
    trade: float | None,
    route_only: bool,
    cache: Path | None,
    budget: float | None,
    patience: float,
    fallbacks: int,
    in_flight: int,
    allow_download: bool,
) -> None:
    """Serve /v1/chat/completions and /v1/models: `model: auto` goes where ROUTER says."""
    from noria.routing.pool.config import read_pool

    if pool is None:
        raise ConfigError("no pool given", where="--pool", mend="give the YAML file of the models")
    serving = require("noria.routing.service.process", "serve")
    serving.serve_router(
        router,
        read_pool(pool),
        host=host,
        port=port,
        token_file=token_file,
        trade=trade,
        route_only=route_only,
        cache=cache,
        budget=budget,
        patience=patience,
        fallbacks=fallbacks,
        in_flight=in_flight,
        allow_download=allow_download,
    )


def _jobs() -> ModuleType:
    return require("noria.routing.verbs.jobs", "routing")


def _needed(file: Path | None) -> Path:
    if file is None:
        raise ConfigError("no table given", where="--table", mend="give a replay table")
    return file


def _line(score: Score) -> str:
    cost = "unknown" if math.isnan(score.cost) else f"{score.cost:.4g}"
    return (
        f"macro accuracy {_cell(score.macro)}, micro {_cell(score.micro)}, cost {cost}, regret "
        f"{_cell(score.regret)} ({score.scored:,} of {score.questions:,} questions scored)"
    )


def _cell(value: float) -> str:
    return "—" if math.isnan(value) else f"{value:.3f}"
