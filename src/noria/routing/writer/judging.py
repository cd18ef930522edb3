"""How well a router that writes does on the questions of a table."""

from __future__ import annotations

import asyncio
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from noria.core.errors import DataError
from noria.routing.config import WriterTraining
from noria.routing.pool.pool import Replayed
from noria.routing.routers.metrics import Score
from noria.routing.tables.table import Question, Table
from noria.routing.writer.environment import Environment
from noria.routing.writer.router import OpenedWriter, opened_environment, prompt_for
from noria.routing.writer.writer import Played, Writer, play

__all__ = ["Written", "evaluate_writer", "judge_writer"]


@dataclass(frozen=True)
class Written:
    """How a writing router did: its `score`, the share of well-formed rollouts, and calls a question."""

    score: Score
    form: float
    calls: float


def evaluate_writer(opened: OpenedWriter, table: Table) -> Written:
    """How it does on a table's questions, against what the table recorded.

    Raises:
        DataError: the table has no responses.
    """

    async def run() -> Written:
        environment = opened_environment(opened, Replayed(table), table.cost)
        ask = prompt_for(opened.tokenizer, environment, instruct=opened.config.instruct)
        return await judge_writer(
            opened.model, opened.tokenizer, environment, table, opened.config, prompt=ask
        )

    if not any(cell.response is not None for cell in table.cells.values()):
        raise DataError("a table without responses", where="--table", mend="record one")
    return asyncio.run(run())


async def judge_writer(
    model: Any,
    tokenizer: Any,
    environment: Environment,
    table: Table,
    config: WriterTraining,
    *,
    prompt: Callable[[Question], str],
) -> Written:
    """Play every question of a table greedily."""
    training = model.training
    model.eval()
    try:
        writer = Writer(model, tokenizer, environment.grammar.stops, turn_tokens=config.turn_tokens)
        played = await play(
            writer,
            environment,
            table.questions,
            [writer.ids(prompt(q)) for q in table.questions],
            temperature=0.0,
            seed=0,
            completion_tokens=config.completion_tokens,
        )
    finally:
        model.train(training)
    return summed(played, environment, table)


def summed(played: Sequence[Played], environment: Environment, table: Table) -> Written:
    """What rollouts of a table's questions were worth."""
    rows = np.array([environment.rewards(p.rollout) for p in played], dtype=float)
    costs = np.array([p.rollout.cost for p in played])
    names = list(dict.fromkeys(table.dataset))
    of = np.array(table.dataset)
    accuracy = {name: _mean(rows[of == name, 1]) for name in names}
    best = np.nanmax(np.where(np.isnan(table.score), -np.inf, table.score), axis=1)
    got = rows[:, 1]
    both = ~np.isnan(got) & np.isfinite(best)
    score = Score(
        accuracy=accuracy,
        macro=_mean(np.array(list(accuracy.values()))),
        micro=_mean(got),
        cost=_mean(costs),
        regret=_mean(best[both] - got[both]),
        scored=int((~np.isnan(got)).sum()),
        questions=len(got),
        costed=int((~np.isnan(costs)).sum()),
    )
    return Written(score, _mean(rows[:, 0]), float(np.mean([len(p.rollout.called) for p in played])))


def _mean(values: Any) -> float:
    there = values[~np.isnan(values)]
    return float(there.mean()) if len(there) else math.nan
