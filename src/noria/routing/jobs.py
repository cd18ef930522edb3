"""The jobs behind the verbs of `noria routing`: from what a user typed to files on disk.

Everything that a user can get wrong is checked before the first file is written. A job says how far it is on stderr and
returns what there is to tell; it prints no answer itself.
"""

from __future__ import annotations

import asyncio
import hashlib
import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from noria.core.errors import ConfigError, require
from noria.core.files import output_path, write_atomic
from noria.core.progress import Progress
from noria.core.runs.outputs import check_run_folder
from noria.core.runs.run import Run, save_settings, settled
from noria.core.training.loop import training
from noria.routing.config import NetworkTraining
from noria.routing.imports import import_table
from noria.routing.learn import NetworkTrainer
from noria.routing.metrics import Score, agreement, aiq, judge
from noria.routing.pages import write_comparison, write_run_page
from noria.routing.policy import load_router, save_router
from noria.routing.pool import PoolConfig, Reply, open_pool
from noria.routing.record import Recorded, check_pool_answers, read_questions
from noria.routing.record import record as run_record
from noria.routing.routers import KINDS, Decision, Router, fit_router
from noria.routing.table import Cell, Question, Route, Table

__all__ = [
    "Compared",
    "Evaluated",
    "Trained",
    "compare",
    "evaluate",
    "fit",
    "open_router",
    "record",
    "route",
    "train_network",
]

TRADES = (0.0, 0.01, 0.02, 0.05, 0.1, 0.2, 0.3, 0.5, 0.75, 1.0, 1.5, 2.0, 5.0)
"""Of a curve of quality against cost."""


# -- recording --------------------------------------------------------------------------------------------------------


def record(
    pool: PoolConfig,
    questions: Path,
    output: str,
    *,
    cache: Path | None = None,
    budget: float | None = None,
    at_once: int = 64,
    allow_download: bool = False,
    progress: Progress | None = None,
) -> Recorded:
    """Ask every route of a pool every question, and write what came as a replay table.

    Raises:
        NoriaError: anything that a user can mend. What was answered before is kept.
    """
    asked = read_questions(questions)
    path = output_path(output)

    async def run(said: Progress) -> Recorded:
        async with open_pool(pool, cache=cache, budget=budget, allow_download=allow_download) as opened:
            task = said.task("record", len(asked) * len(opened.routes))
            failed = 0

            def tell(question: Question, route: Route, cell: Cell) -> None:
                nonlocal failed
                failed += cell.response is None
                task.advance(note=f"{failed} failed" if failed else None)

            done = await run_record(opened, asked, path, at_once=at_once, on_cell=tell)
            task.done()
            return done

    with progress or Progress(quiet=True) as said:
        done = asyncio.run(run(said))
    check_pool_answers(done, str(path))
    return done


# -- training ---------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Trained:
    """What a training leaves: its folder, its page, the step, and the score on questions it did not see."""

    folder: Path
    report: Path
    step: int
    score: Score


def train_network(config: NetworkTraining, folder: Path, *, progress: Progress | None = None) -> Trained:
    """Train a policy that chooses once, or go on training it, in `folder`.

    Raises:
        NoriaError: anything that a user can mend; nothing was written then, or the last checkpoint is whole.
        DivergenceError: the run blew up.
    """
    check_run_folder(folder)
    table = import_table(Path(config.table or ""))
    trainer = NetworkTrainer(table, config)
    identity = settled(
        folder,
        config.model_dump(mode="json", exclude={"steps"}),
        {"table": (str(config.table), table_content(table))},
    )
    with (
        progress or Progress(quiet=True) as said,
        Run.open(folder, config=identity) as run,
    ):
        save_settings(folder, config)
        with training(run, said, config.steps, page=write_run_page) as task:

            def tell(step: int, figures: Mapping[str, float]) -> None:
                macro = figures.get("eval/macro")
                task.at(step, None if macro is None else f"macro accuracy {macro:.3f}")

            trainer.resume(run)
            trainer.run(run, on_step=tell)
        save_router(trainer.router(), folder / "router")
        score = trainer.evaluate()
        baselines = baselines_of(trainer.train, trainer.held)
        write_score(folder, score, trainer.step, baselines)
        page = write_run_page(folder)
    return Trained(folder, page, trainer.step, score)


def baselines_of(train: Table, held: Table) -> dict[str, Any]:
    """What a policy is shown beside: fitted on its own training questions, judged on the same held-out ones."""
    fitted = {k: fit_router(k, train) for k in ("random", "best_single", "best_per_task")}
    fitted["oracle"] = fit_router("oracle", held)
    return {kind: score_record(judged(router, held)) for kind, router in fitted.items()}


def fit(kind: str, table: Path, output: str, *, trade: float = 0.0, seed: int = 0) -> tuple[Path, Router]:
    """Fit a baseline on a whole table, and save it.

    Raises:
        NoriaError: anything that a user can mend.
    """
    folder = output_path(output)
    router = fit_router(kind, import_table(table), seed=seed, trade=trade)
    save_router(router, folder)
    return folder, router


def write_score(
    folder: Path,
    score: Score,
    step: int,
    baselines: Mapping[str, Any],
    record: Mapping[str, Any] | None = None,
) -> None:
    """`score.json`; `record` instead of the score's own where there is more to say."""
    own = score_record(score) if record is None else dict(record)
    content = {"step": step, "policy": own, "baselines": dict(baselines)}
    write_atomic(folder / "score.json", json.dumps(content, indent=1) + "\n")


def table_content(table: Table) -> str:
    """A hash of all questions, routes, scores and costs."""
    digest = hashlib.sha256()
    for question in table.questions:
        digest.update(json.dumps([question.id, question.dataset, question.text, question.answers]).encode())
    digest.update(json.dumps([route.label for route in table.routes]).encode())
    digest.update(table.score.tobytes() + table.cost.tobytes())
    return digest.hexdigest()[:16]


# -- judging ----------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Evaluated:
    """A router's score on a table, and its curve over trades: (trade, score)."""

    name: str
    score: Score
    curve: list[tuple[float, Score]]


def judged(router: Router, table: Table, trade: float | None = None) -> Score:
    """The score of a router's choices on a table that has its routes.

    Raises:
        ConfigError: a route of the router's is not in the table.
    """
    column = {route: n for n, route in enumerate(table.routes)}
    missing = [route.label for route in router.routes if route not in column]
    if missing:
        raise ConfigError(
            f"the table has no route {missing[0]!r}",
            where=router.kind,
            mend=f"it has {', '.join(r.label for r in table.routes)}",
        )
    own = router.choose(table.texts, table.dataset, trade=trade)
    place = [column[route] for route in router.routes]
    return judge([place[n] if n >= 0 else -1 for n in own], table.score, table.cost, table.dataset)


def open_router(folder: Path, *, trade: float | None = None) -> Router:
    """A router's folder, or that of a run that has one.

    Raises:
        CheckpointError: there is none, or it is damaged.
    """
    inner = folder / "router"
    router = load_router(inner if inner.is_dir() else folder)
    if trade is not None:
        router.trade = trade
    return router


def evaluate(
    source: Path, table: Path, *, trades: Sequence[float] = (), output: str | None = None
) -> tuple[Evaluated, Path]:
    """Judge a router on a table, and write `evaluation.json`.

    Returns:
        The result and the file.

    Raises:
        NoriaError: anything that a user can mend.
    """
    on = import_table(table)
    more: dict[str, Any] = {}
    if (source / "policy").is_dir():
        if trades:
            raise ConfigError("a router that writes has no trade", where="--trades", mend="leave it out")
        writing = require("noria.routing.writing", "routing")
        written = writing.evaluate_writer(writing.open_writer(source), on)
        result = Evaluated(source.name, written.score, [])
        more = {"form": written.form, "calls": written.calls}
    else:
        router = open_router(source)
        curve = [(trade, judged(router, on, trade)) for trade in trades]
        result = Evaluated(source.name, judged(router, on), curve)
        more = {"trade": router.trade}
    folder = output_path(output) if output else source
    content = {
        "router": str(source),
        "table": str(table),
        **more,
        "score": score_record(result.score),
        "curve": [{"trade": trade, **score_record(score)} for trade, score in result.curve],
    }
    file = folder / "evaluation.json"
    write_atomic(file, json.dumps(content, indent=1) + "\n")
    return result, file


@dataclass(frozen=True)
class Compared:
    """Routers on the same questions.

    Attributes:
        rows: name, score at no trade, AIQ over the costs that all share (NaN where no cost is known), and stability:
            how often the choice stays when one word of ten is left out.
        report: the page.
        questions: judged on.
    """

    rows: list[tuple[str, Score, float, float]]
    report: Path
    questions: int


def compare(
    table: Path,
    sources: Sequence[Path] = (),
    *,
    kinds: Sequence[str] = KINDS,
    test: Path | None = None,
    held_out: float = 0.2,
    seed: int = 0,
    output: str | None = None,
    progress: Progress | None = None,
) -> Compared:
    """Judge baselines and trained routers on questions that the baselines were not fitted on.

    Args:
        table: to fit the baselines on, all of it where `test` is given.
        sources: trained routers.
        kinds: of baselines.
        test: a table to judge on; by default a part of `table`, the one that `noria routing train` with the same
            `held_out` and `seed` does not see either.
        held_out: share of that part.
        seed: of the split and of the baselines.
        output: folder of the page.
        progress: where to say how far it is.

    Raises:
        NoriaError: anything that a user can mend.
    """
    whole = import_table(table)
    train, held = (whole, import_table(test)) if test else whole.split(1 - held_out, seed=seed)
    folder = output_path(output) if output else Path("runs") / "routing" / f"compare-{table.stem}"
    curves: dict[str, list[tuple[float, Score]]] = {}
    steady: dict[str, float] = {}
    reworded = thinned(held.texts, seed=seed)
    with progress or Progress(quiet=True) as said:
        task = said.task("compare", len(kinds) + len(sources))
        routers: list[tuple[str, Router]] = [
            (kind, fit_router(kind, held if kind == "oracle" else train, seed=seed)) for kind in kinds
        ]
        routers += [(source.name, open_router(source)) for source in sources]
        for name, router in routers:
            label = name if name not in curves else f"{name} ({sum(n.startswith(name) for n in curves) + 1})"
            curves[label] = [(trade, judged(router, held, trade)) for trade in TRADES]
            if router.kind != "oracle":  # it knows questions by heart
                choices = [router.choose(texts, held.dataset) for texts in (held.texts, reworded)]
                steady[label] = agreement(choices)
            task.advance(note=name)
        task.done()
    rows = [
        (name, curve[0][1], shared_aiq(curve, curves), steady.get(name, math.nan))
        for name, curve in curves.items()
    ]
    report = write_comparison(folder / "compare.html", str(table), rows, curves, held)
    content = [
        {"router": name, "aiq": known(area), "stability": known(stays), **score_record(score)}
        for name, score, area, stays in rows
    ]
    write_atomic(folder / "compare.json", json.dumps(content, indent=1) + "\n")
    return Compared(rows, report, len(held.questions))


def thinned(texts: Sequence[str], *, seed: int, share: float = 0.1) -> list[str]:
    """The questions with a share of their words left out, at least one where there are two."""
    generator = np.random.default_rng(seed)
    found = []
    for text in texts:
        words = text.split()
        out = set(generator.permutation(len(words))[: max(1, round(share * len(words)))].tolist())
        kept = [word for n, word in enumerate(words) if n not in out]
        found.append(" ".join(kept) if len(words) > 1 else text)
    return found


def shared_aiq(
    curve: Sequence[tuple[float, Score]], curves: Mapping[str, Sequence[tuple[float, Score]]]
) -> float:
    """AIQ over the costs from the cheapest point of all routers to the dearest."""
    costs = [s.cost for c in curves.values() for _, s in c if not math.isnan(s.cost)]
    own = [(s.cost, s.micro) for _, s in curve if not (math.isnan(s.cost) or math.isnan(s.micro))]
    if not own or not costs:
        return math.nan
    return aiq([c for c, _ in own], [q for _, q in own], low=min(costs), high=max(costs))


def score_record(score: Score) -> dict[str, Any]:
    """A score as JSON values; what is not known is null."""
    return {
        "macro": known(score.macro),
        "micro": known(score.micro),
        "cost": known(score.cost),
        "regret": known(score.regret),
        "scored": score.scored,
        "questions": score.questions,
        "accuracy": {name: known(value) for name, value in score.accuracy.items()},
    }


def known(value: float) -> float | None:
    """None for NaN."""
    return None if math.isnan(value) else float(value)


# -- routing ----------------------------------------------------------------------------------------------------------


def route(
    source: Path,
    question: str,
    *,
    dataset: str | None = None,
    trade: float | None = None,
    pool: PoolConfig | None = None,
    allow_download: bool = False,
) -> tuple[Decision, Reply | None]:
    """Decide about a question, and ask whom the router chose where there is a pool; the next one where that fails.

    Raises:
        NoriaError: anything that a user can mend.
    """
    if (source / "policy").is_dir():
        raise ConfigError(
            "a router that writes decides while it asks",
            where=str(source),
            mend="call it by noria routing serve",
        )
    router = open_router(source, trade=trade)
    if pool is None:
        return router.decide(question, dataset), None
    opened = pool

    async def run() -> tuple[Decision, Reply | None]:
        async with open_pool(opened, allow_download=allow_download) as there:
            decision = router.decide(question, dataset, among=there.routes)
            reply = None
            for chosen in decision.ranking:
                reply = await there.ask(chosen, question)
                if reply.text is not None:
                    break
            return decision, reply

    return asyncio.run(run())
