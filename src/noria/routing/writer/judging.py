"""Judging a router that writes on the questions of a table."""

from __future__ import annotations

import asyncio
import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from noria.core.errors import DataError
from noria.routing.pool.pool import ReplayPool
from noria.routing.routers.metrics import Score, known_mean, score_of
from noria.routing.routers.scores import score_record
from noria.routing.tables.table import Table
from noria.routing.writer.environment import Environment
from noria.routing.writer.policy import Prompt, WriterPolicy
from noria.routing.writer.writer import PlayedRollout


@dataclass(frozen=True)
class WriterScore:
    """Result of a router that writes: its `score`, the share of well-formed rollouts, and calls a question."""

    score: Score
    form: float
    calls: float

    def record(self) -> dict[str, Any]:
        """The score as JSON values."""
        return score_record(self.score) | {"form": self.form, "calls": self.calls}


def evaluate_writer(policy: WriterPolicy, table: Table) -> WriterScore:
    """Judge a policy on a table's questions, against what the table recorded.

    Raises:
        DataError: the table has no responses.
    """
    if not table.has_responses:
        raise DataError("a table without responses", where="--table", mend="record one")
    environment = policy.environment(ReplayPool(table), table.cost)
    return asyncio.run(judge_writer(policy, environment, table, prompt=policy.prompt(environment)))


async def judge_writer(
    policy: WriterPolicy, environment: Environment, table: Table, *, prompt: Prompt
) -> WriterScore:
    """Play every question of a table greedily, and score the rollouts."""
    questions = table.questions
    rollouts = await policy.play(environment, questions, [prompt(question) for question in questions])
    return score_rollouts(rollouts, environment, table)


def score_rollouts(rollouts: Sequence[PlayedRollout], environment: Environment, table: Table) -> WriterScore:
    """Sum up what rollouts of a table's questions earned and cost."""
    rewards = np.array([environment.rewards(played.rollout) for played in rollouts], dtype=float)
    costs = np.array([played.rollout.cost for played in rollouts])
    served = [math.nan if p.rollout.unknown else float(not p.rollout.lost) for p in rollouts]
    score = score_of(rewards[:, 1], costs, table.quality, table.dataset, np.array(served))
    calls = float(np.mean([len(played.rollout.calls) for played in rollouts]))
    return WriterScore(score, known_mean(rewards[:, 0]), calls)
