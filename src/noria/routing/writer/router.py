"""A router that writes, as a chat model and as a router that a service can use."""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from noria.core.chat import Answer as ChatAnswer, ChatRequest, Failure, Outcome, Usage
from noria.routing.pool.batching import Batcher
from noria.routing.pool.pool import Asker, Pool
from noria.routing.routers.baselines import Fixed
from noria.routing.routers.router import Router
from noria.routing.tables.table import Question, Route
from noria.routing.writer.policy import WriterPolicy, open_writer
from noria.routing.writer.writer import PlayedRollout


class WritingRouter:
    """A router that writes as a chat model: it thinks, calls models of a pool, and its answer is the answer.

    A rollout that is malformed is a `Failure` of kind garbage, which a service answers by asking someone else. Of a
    request it follows the question alone: how it samples was trained.

    Args:
        policy: the language model.
        pool: the models that it can call.
        batch_size: most rollouts that are played together.
    """

    takes: frozenset[str] = frozenset()

    def __init__(self, policy: WriterPolicy, pool: Asker, *, batch_size: int = 16) -> None:
        self.policy, self.environment = policy, policy.environment(pool)
        self.prompt = policy.prompt(self.environment)
        self._batcher: Batcher[str, PlayedRollout] = Batcher(self._play, key=lambda _: 0, most=batch_size)

    async def play(self, question: str) -> PlayedRollout:
        """Play a rollout of a question."""
        return await self._batcher.ask(question)

    async def ask(self, request: ChatRequest) -> Outcome:
        """Answer the last message of the user."""
        words = [message.text for message in request.messages if message.role == "user"]
        played = await self.play(words[-1] if words else "")
        rollout = played.rollout
        if rollout.answer is None or rollout.flaw is not None:
            return Failure("garbage", f"the router's rollout is malformed ({rollout.flaw})")
        usage = Usage(len(played.prompt), sum(played.ours))
        cost = None if math.isnan(rollout.cost) else rollout.cost
        return ChatAnswer(rollout.answer, "stop", usage, cost)

    async def _play(self, texts: Sequence[str]) -> list[PlayedRollout]:
        questions = [Question(f"live-{n}", "", text) for n, text in enumerate(texts)]
        return await self.policy.play(self.environment, questions, [self.prompt(q) for q in questions])


def writer_router(source: Path, pool: Pool) -> Router:
    """Make the router of a run one of the pool's models, and the first choice before all others.

    Raises:
        CheckpointError: the run has no policy.
    """
    callable_routes = Pool(pool.models, pool.routes, strategies=pool.strategies, about=pool.about)
    route = Route(source.resolve().name)
    pool.models[route.model] = WritingRouter(open_writer(source), callable_routes)
    pool.add(route)
    return Fixed(pool.routes, np.full(len(pool.routes), np.nan), route=len(pool.routes) - 1)
