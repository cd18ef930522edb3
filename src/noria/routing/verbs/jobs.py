"""The jobs behind the verbs of `noria routing`: from what a user typed to files on disk.

Everything that a user can get wrong is checked before the first file is written. A job says how far it is on stderr and
returns what there is to tell; it prints no answer itself.
"""

from __future__ import annotations

import asyncio
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
from noria.routing.pool.config import PoolConfig
from noria.routing.pool.pool import Reply, open_pool
from noria.routing.pool.record import Recorded, check_pool_answers, read_questions
from noria.routing.pool.record import record as run_record
from noria.routing.routers.baselines import KINDS, fit_router
from noria.routing.routers.files import open_router, save_router
from noria.routing.routers.metrics import Score, agreement, aiq
from noria.routing.routers.router import Decision, Router
from noria.routing.routers.scores import judged, known, score_record
from noria.routing.tables.imports import import_table
from noria.routing.tables.table import Cell, Question, Route
from noria.routing.verbs.pages import write_comparison

__all__ = ["Compared", "Evaluated", "compare", "evaluate", "fit", "record", "route"]

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


def fit(kind: str, table: Path, output: str, *, trade: float = 0.0, seed: int = 0) -> tuple[Path, Router]:
    """Fit a baseline on a whole table, and save it.

    Raises:
        NoriaError: anything that a user can mend.
    """
    folder = output_path(output)
    router = fit_router(kind, import_table(table), seed=seed, trade=trade)
    save_router(router, folder)
    return folder, router


# -- judging ----------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Evaluated:
    """A router's score on a table, and its curve over trades: (trade, score)."""

    name: str
    score: Score
    curve: list[tuple[float, Score]]


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
        from noria.routing.writer.router import open_writer

        judging = require("noria.routing.writer.judging", "routing")
        written = judging.evaluate_writer(open_writer(source), on)
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
