"""Rollouts of a router that writes: it thinks, calls models of a pool, reads what they say, and answers.

What the router wrote and what the environment wrote are kept apart from the beginning, so that nothing the router
writes can pass for information. When a model fails the rollout continues, and the router may ask another one; its
answer is scored like any other, since a router that asks who does not answer serves nobody. Only where a model was not
asked at all, because a table has no reply of it or our own budget is spent, nothing is scored.
"""

from __future__ import annotations

import asyncio
import math
from collections.abc import Sequence
from dataclasses import dataclass, field

from noria.routing.pool.pool import Asker, Reply
from noria.routing.rewards.components import FORM_ANSWER_COST
from noria.routing.tables.answers import Thrift, score
from noria.routing.tables.table import Question, Route
from noria.routing.writer.grammar import Answer, BrokenTurn, Call, Flaw, Grammar, Turn, is_well_formed


@dataclass(frozen=True)
class Limits:
    """Limits of one rollout.

    Attributes:
        calls: most calls of models.
        cost: most that all calls may cost; None for any. A call that is begun is paid, and one that nobody can price
            spends the rest.
        information: most characters of a model's words that are let in.
        seconds: most seconds of a call; the pool has limits of its own.
    """

    calls: int = 4
    cost: float | None = None
    information: int = 2000
    seconds: float = 300.0


@dataclass(frozen=True)
class Segment:
    """A piece of a rollout's text, and whether the router wrote it."""

    text: str
    ours: bool


@dataclass(frozen=True)
class ModelCall:
    """A call of a model: the route, the query, and the reply."""

    route: Route
    query: str
    reply: Reply


@dataclass
class Rollout:
    """What the router and the environment wrote so far."""

    question: Question
    segments: list[Segment] = field(default_factory=list)
    turns: list[Turn] = field(default_factory=list)
    calls: list[ModelCall] = field(default_factory=list)
    done: bool = False

    @property
    def text(self) -> str:
        """Text of all segments."""
        return "".join(segment.text for segment in self.segments)

    @property
    def answer(self) -> str | None:
        """The router's answer; None where there is none."""
        last = self.turns[-1] if self.turns else None
        return last.text if isinstance(last, Answer) else None

    @property
    def flaw(self) -> Flaw | None:
        """Flaw of the rollout's form; None for a well-formed one."""
        broken = next((turn for turn in self.turns if isinstance(turn, BrokenTurn)), None)
        if broken is not None:
            return broken.flaw
        return None if is_well_formed(self.turns) else "no_answer"

    @property
    def cost(self) -> float:
        """Cost of all calls; NaN where that of one is not known, 0 where there were none."""
        return float(sum(call.reply.cost for call in self.calls if call.reply.text is not None))

    @property
    def lost(self) -> bool:
        """Whether a call failed."""
        return any(call.reply.text is None and call.reply.asked for call in self.calls)

    @property
    def unknown(self) -> bool:
        """Whether a call was not made, so that the answer cannot be scored."""
        return any(not call.reply.asked for call in self.calls)


class Environment:
    """Plays rollouts against a pool.

    Args:
        pool: models that can be asked.
        grammar: the language; by default that of the pool's routes.
        limits: limits of a rollout.
        thrift: scale of costs, for the reward.
    """

    names = tuple(FORM_ANSWER_COST)

    def __init__(
        self,
        pool: Asker,
        *,
        grammar: Grammar | None = None,
        limits: Limits | None = None,
        thrift: Thrift | None = None,
    ) -> None:
        self.pool, self.limits, self.thrift = pool, limits or Limits(), thrift
        self.routes = {route.label: route for route in pool.routes}
        self.grammar = grammar or Grammar(tuple(self.routes))

    async def step(self, rollout: Rollout, text: str) -> str | None:
        """Take in what the router wrote; return the information it reads next, None where the rollout is over."""
        rollout.segments.append(Segment(text, ours=True))
        turn = self.grammar.read(text, first=not rollout.turns)
        if isinstance(turn, Call) and len(rollout.calls) >= self.limits.calls:
            turn = BrokenTurn("too_many_calls", turn.spans)
        rollout.turns.append(turn)
        if not isinstance(turn, Call):
            rollout.done = True
            return None
        limit = self.limits.cost
        if limit is not None and not rollout.cost < limit:  # NaN, a cost that nobody knows, stops it too
            rollout.turns[-1] = BrokenTurn("over_budget", turn.spans)
            rollout.done = True
            return None
        route = self.routes[turn.route]
        try:
            async with asyncio.timeout(self.limits.seconds):
                reply = await self.pool.ask(route, turn.query, question=rollout.question)
        except TimeoutError:
            reply = Reply(None, failure="timeout: no answer in time")
        rollout.calls.append(ModelCall(route, turn.query, reply))
        words = reply.text if reply.text is not None else "(this model could not be reached)"
        information = self.grammar.inform(words, most=self.limits.information)
        rollout.segments.append(Segment(information, ours=False))
        return information

    async def step_all(self, rollouts: Sequence[Rollout], texts: Sequence[str]) -> list[str | None]:
        """Step several rollouts at once."""
        steps = (self.step(rollout, text) for rollout, text in zip(rollouts, texts, strict=True))
        return list(await asyncio.gather(*steps))

    def rewards(self, rollout: Rollout) -> tuple[float, float, float]:
        """Form, answer, thrift; NaN where a call was not made, or the right answer or a cost is not known."""
        form = float(rollout.flaw is None)
        if rollout.unknown:
            return form, math.nan, math.nan
        question, answer = rollout.question, rollout.answer
        right = math.nan
        if question.answers and question.rule:
            right = 0.0 if answer is None else score(question.rule, answer, question.answers)
        # A call that failed may have been charged.
        thrift = math.nan if self.thrift is None or rollout.lost else float(self.thrift(rollout.cost))
        return form, right, thrift
