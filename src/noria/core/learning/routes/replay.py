"""Replay: logged requests answered again by a route, and judged blind. Each answer and verdict is paid once."""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray
from pydantic import Field

from noria.core.chat import Answer, Message, Refusal
from noria.core.chat.wire import read_messages
from noria.core.config import Config
from noria.core.experiments.assignment import position
from noria.core.experiments.gates import PairedScores, Rule
from noria.core.experiments.splits import widest_contents
from noria.core.judging import Checklist, Judge, Value, Verdict, judged, quoted, score
from noria.core.judging.live import request_subject
from noria.core.learning.dataset import Row
from noria.core.learning.learner import Candidate, Comparison, LearnerRun, Parent
from noria.core.learning.routes.backends import Backend, backend_of, cost_of, read_route
from noria.core.learning.routes.route import KIND, Route
from noria.core.learning.spending import Spending, all_of
from noria.core.traces.chats import Blobs, chat_span, conversation, tool_rounds
from noria.core.traces.store import TraceView

OUTAGES = ("timeout", "connection", "rate_limit", "server", "auth", "quota", "budget", "busy")
"""Failures that are no fault of a route: the score is missing. Another failure is a hard error of the route, too."""


ASKED = ("temperature", "top_p", "max_tokens", "max_completion_tokens", "seed", "stop")
"""Settings of a logged request that go before the route's."""


class ReplayConfig(Config):
    """The requests that are replayed, and what the candidate may cost."""

    most_items: int = Field(400, ge=1, description="Most requests that are replayed.")
    salt: str = Field("replay", description="Text that draws the requests where there are more.")
    at_once: int = Field(8, ge=1, description="Requests under way at once.")
    judge_cost: float | None = Field(
        None, ge=0, description="Most that one judgement may cost; a budget needs it."
    )
    judge_seconds: float = Field(120.0, gt=0, description="Longest time of one judgement.")
    most_cost_ratio: float | None = Field(
        None, gt=0, description="Largest mean cost of the candidate by that of its parent; any by default."
    )
    slice_label: str = Field("skill", description="Label of the traces whose values are the slices.")


@dataclass(frozen=True)
class Request:
    """A logged request that can be sent again.

    Attributes:
        trace: id of its trace.
        group: leakage group that it is in.
        slice: slice that it counts for.
        messages: the conversation.
        asked: sampling settings that the caller set.
        contents: what it may share with requests of other groups.
    """

    trace: str
    group: str
    slice: str
    messages: tuple[Message, ...]
    asked: Mapping[str, Any]
    contents: tuple[str, ...] = ()


@dataclass(frozen=True)
class Scored:
    """A route's answer to a request, judged.

    Attributes:
        score: share of the checklist that is good; NaN where it could not be had.
        error: whether it broke a hard rule: a bad verdict on safety, or no answer by the route's own fault.
        cost: cost of the answer; NaN where it is not known.
        why: why there is no score; empty where there is one.
    """

    score: float
    error: bool
    cost: float
    why: str


@dataclass(frozen=True)
class Replay:
    """Answers logged requests by routes and judges the answers.

    Attributes:
        backends: backends that routes may name, by name.
        judge: judge of the answers; it sees neither the route nor which side an answer is of.
        checklist: items to judge; a bad verdict on an item of the path `safety` is a hard error.
        config: the requests, and what the candidate may cost.
        blob: contents of the pictures in the requests.
        through: what a pipeline makes of a route for a conversation, such as a skill's body behind its system message.
    """

    backends: Mapping[str, Backend]
    judge: Judge
    checklist: Checklist
    config: ReplayConfig = field(default_factory=ReplayConfig)
    blob: Blobs | None = None
    through: Callable[[Route, Sequence[Message]], Route] | None = None

    def settings(self) -> dict[str, Any]:
        """What decides the scores: judge, checklist, backends and the requests."""
        return {
            "judge": [self.judge.name, str(getattr(self.judge, "version", ""))],
            "checklist": self.checklist.digest,
            "backends": sorted(self.backends),
            "config": self.config.model_dump(mode="json"),
        }

    def requests(self, rows: Sequence[Row]) -> tuple[list[Request], int]:
        """Requests that can be sent again, at most so many, and how many cannot.

        Where the pipeline called tools, their calls and results stand behind the request: a replay calls none, and
        compares what is made of the same results. Requests are drawn by their ids, whatever was said about their
        answers: a draw by score would favour a side.
        """
        found, lost = [], 0
        for row in rows:
            if row.example is None:
                continue
            span = chat_span(row.view)
            messages = None if span is None else _with_rounds(conversation(span, self.blob), row.view)
            if span is None or messages is None:
                lost += 1
                continue
            given = span.input if isinstance(span.input, dict) else {}
            asked = {name: given[name] for name in ASKED if given.get(name) is not None}
            name = row.view.trace.labels.get(self.config.slice_label, "all")
            one = row.example
            found.append(Request(one.trace, one.group, name, messages, asked, one.contents))
        return self.drawn(found), lost

    def drawn(
        self, requests: Sequence[Request], first: Callable[[Request], bool] | None = None
    ) -> list[Request]:
        """At most as many requests as may be replayed, oldest first.

        Args:
            requests: requests that can be sent again.
            first: whether a request goes before the others; all are alike by default.
        """
        by_id = sorted(requests, key=lambda one: position(self.config.salt, one.trace))
        ordered = by_id if first is None else sorted(by_id, key=lambda one: not first(one))
        return sorted(ordered[: self.config.most_items], key=lambda one: one.trace)

    async def scores(self, route: Route, requests: Sequence[Request], spending: Spending) -> list[Scored]:
        """Score a route on requests, in order.

        Raises:
            TurnStopped: the budget or the time is spent.
        """
        return await all_of(
            [lambda one=one: self._score(route, one, spending) for one in requests],  # type: ignore[misc]
            at_once=self.config.at_once,
        )

    async def _score(self, route: Route, request: Request, spending: Spending) -> Scored:
        answer = await self.answer(route, request, spending)
        cost = math.nan if answer["cost"] is None else float(answer["cost"])
        if answer["kind"] is not None:
            return Scored(math.nan, answer["kind"] not in OUTAGES, cost, answer["kind"])
        verdicts = await self._verdicts(request, answer["text"], spending)
        bad_safety = any(
            item.path == "safety" and verdicts[item.id] not in ("invalid", item.good)
            for item in self.checklist.items
        )
        value = score(self.checklist, _as_verdicts(verdicts)).value
        if value is None:
            return Scored(math.nan, bad_safety, cost, "no valid verdict")
        return Scored(value, bad_safety, cost, "")

    async def answer(self, route: Route, request: Request, spending: Spending) -> dict[str, Any]:
        """Text and cost of a route's answer, or the kind of the failure, as JSON values; asked once.

        Raises:
            TurnStopped: the budget or the time is spent.
        """
        if self.through is not None:
            route = self.through(route, request.messages)
        backend = backend_of(route, self.backends)
        asked = route.request(request.messages, request.asked)

        async def make() -> tuple[Any, float | None]:
            outcome = await backend.model.ask(asked)
            if isinstance(outcome, Answer | Refusal):  # a refusal is judged: it can be right
                values = {"text": outcome.text, "cost": outcome.cost, "kind": None}
                return values, outcome.cost
            return {"text": "", "cost": None, "kind": outcome.kind}, cost_of(outcome)

        key = _key("answer", route.id, asked.encoded("").decode())
        answer: dict[str, Any] = await spending.once(key, backend.most_cost(asked), make)
        return answer

    async def score(self, request: Request, answer: str, spending: Spending) -> float:
        """Score of a given answer to a request; NaN where the judge says nothing valid. It is paid once.

        Raises:
            TurnStopped: the budget or the time is spent.
        """
        verdicts = await self._verdicts(request, answer, spending)
        value = score(self.checklist, _as_verdicts(verdicts)).value
        return math.nan if value is None else value

    async def _verdicts(self, request: Request, answer: str, spending: Spending) -> dict[str, Value]:
        """Verdicts by item on an answer; the same answer to the same request is judged once, whoever gave it."""
        subject = request_subject(request.messages, None, answer)

        async def make() -> tuple[Any, float | None]:
            judgement = await judged(
                self.judge, self.checklist, subject, name=request.trace, seconds=self.config.judge_seconds
            )
            return {one.item: one.value for one in judgement.verdicts}, judgement.cost

        content = json.dumps([one.wire() for one in request.messages], sort_keys=True)
        version = str(getattr(self.judge, "version", ""))
        key = _key("verdicts", self.judge.name, version, self.checklist.digest, content, answer)
        verdicts: dict[str, Value] = await spending.once(key, self.config.judge_cost, make)
        return verdicts

    # -- the gate's comparison ----------------------------------------------------------------------------------------

    async def compare(
        self, rows: Sequence[Row], parent: Parent, candidate: Candidate, run: LearnerRun
    ) -> Comparison:
        """Score parent and candidate on the same requests (see :class:`noria.core.learning.learner.Evaluator`)."""
        folder = parent.folder(KIND)
        assert folder is not None, "the learner of routes proposes none where there was none"
        before, after = read_route(folder), read_route(candidate.folder)
        requests, lost = self.requests(rows)
        old = await self.scores(before, requests, run.spending)
        new = await self.scores(after, requests, run.spending)
        notes = {
            "parent": before.id,
            "candidate": after.id,
            "judge of the learner": candidate.notes.get("judge"),
            "requests that cannot be sent again": lost,
        }
        return self.comparison(requests, old, new, notes)

    def comparison(
        self,
        requests: Sequence[Request],
        old: Sequence[Scored],
        new: Sequence[Scored],
        notes: Mapping[str, Any],
    ) -> Comparison:
        """The comparison of two sides on the same requests, with what it rests on in the notes."""
        scores = PairedScores(
            [one.trace for one in requests],
            [one.group for one in requests],
            np.array([one.score for one in old]),
            np.array([one.score for one in new]),
            [one.slice for one in requests],
            np.array([one.error for one in old], dtype=bool),
            np.array([one.error for one in new], dtype=bool),
            widest_contents([one.contents for one in requests]),
        )
        paired = paired_costs(old, new)
        means = paired.mean(axis=0).tolist() if len(paired) else [None, None]
        found = {
            "judge": self.judge.name,
            "requests": len(requests),
            "mean cost of the parent": means[0],
            "mean cost of the candidate": means[1],
            "without a score": [*_why("parent", old), *_why("candidate", new)],
        }
        return Comparison(scores, self._cost_rule(paired), {**notes, **found})

    def _cost_rule(self, paired: Any) -> tuple[Rule, ...]:
        limit = self.config.most_cost_ratio
        if limit is None:
            return ()
        if not len(paired):
            return (Rule("cost", "missing", "no request has a known cost on both sides"),)
        before, after = paired.mean(axis=0)
        words = f"{after:.4g} a request, {before:.4g} before, {limit:g} times that allowed"
        return (Rule("cost", "passed" if after <= limit * before else "failed", words),)


def _with_rounds(messages: tuple[Message, ...] | None, view: TraceView) -> tuple[Message, ...] | None:
    """A request with the logged rounds of tools behind it; None where these cannot be told."""
    rounds = tool_rounds(view)
    if messages is None or rounds is None:
        return None
    fenced = [{**one, "content": quoted(one["content"])} if one["role"] == "tool" else one for one in rounds]
    return (*messages, *read_messages(fenced)) if fenced else messages


def paired_costs(old: Sequence[Scored], new: Sequence[Scored]) -> NDArray[np.float64]:
    """[requests, 2] costs of both sides, where both are known."""
    costs = [(o.cost, n.cost) for o, n in zip(old, new, strict=True)]
    return np.array([pair for pair in costs if not any(map(math.isnan, pair))], np.float64).reshape(-1, 2)


def _why(side: str, scored: Sequence[Scored]) -> list[dict[str, Any]]:
    """Numbers of a side's answers without a score, by reason."""
    reasons = sorted({one.why for one in scored if one.why})
    return [{"side": side, "why": why, "answers": sum(one.why == why for one in scored)} for why in reasons]


def _as_verdicts(verdicts: dict[str, Value]) -> list[Verdict]:
    return [Verdict(item, value) for item, value in verdicts.items()]


def _key(*parts: str) -> str:
    return hashlib.sha256(json.dumps(parts).encode()).hexdigest()
