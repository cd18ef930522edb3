"""The gate's judge on probation: the same answers again, lengthened by empty sentences, before its word decides."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

from noria.assistant.config.judging import ProbesConfig
from noria.core.experiments.gates import Rule
from noria.core.experiments.splits import widest_contents
from noria.core.judging.probes import length_rule, length_slope, lengthened
from noria.core.learning.dataset import Row
from noria.core.learning.learner import Candidate, Comparison, Evaluator, LearnerRun, Parent
from noria.core.learning.routes.replay import Replay
from noria.core.learning.spending import Spending, all_of
from noria.core.traces.chats import chat_answer, chat_span

SALT = "probes"
LONGEST = 8000
"""Characters above which an answer is not lengthened: a judge reads only so many, and the rest would be cut."""


@dataclass(frozen=True)
class Probed:
    """Compares as another evaluator does, and lets nothing pass by the word of a judge that likes length.

    Attributes:
        evaluator: compares both sides.
        replay: has the judge of the gate.
        config: settings of the probes.
    """

    evaluator: Evaluator
    replay: Replay
    config: ProbesConfig

    def settings(self) -> Mapping[str, Any]:
        """Do what :meth:`Evaluator.settings` says."""
        return {**self.evaluator.settings(), "probes": self.config.model_dump(mode="json")}

    async def compare(
        self, rows: Sequence[Row], parent: Parent, candidate: Candidate, run: LearnerRun
    ) -> Comparison:
        """Do what :meth:`Evaluator.compare` says, with the rule and the figures of the probe beside it."""
        compared = await self.evaluator.compare(rows, parent, candidate, run)
        rule, figures = await self.probe(rows, run.spending)
        notes = {**compared.notes, "probe of the judge": [figures]}
        return replace(compared, rules=(*compared.rules, rule), notes=notes)

    async def probe(self, rows: Sequence[Row], spending: Spending) -> tuple[Rule, dict[str, Any]]:
        """Judge logged answers as they are and lengthened: the rule, and its figures as JSON values.

        Which answers are drawn follows from their ids, and not from what was said of them.

        Raises:
            TurnStopped: the budget or the time is spent.
        """
        given = {row.view.trace.id: _answer(row) for row in rows}
        usable = [row for row in rows if 0 < len(given[row.view.trace.id]) <= LONGEST]
        config = self.replay.config.model_copy(update={"most_items": self.config.answers, "salt": SALT})
        drawn = replace(self.replay, config=config)
        requests, _ = drawn.requests(usable)
        answers = [given[one.trace] for one in requests]
        asked = [*zip(requests, answers, strict=True)]
        asked += [(one, lengthened(answer)) for one, answer in zip(requests, answers, strict=True)]
        scores = await all_of(
            [partial(drawn.score, request, answer, spending) for request, answer in asked],
            at_once=self.replay.config.at_once,
        )
        before, after = scores[: len(requests)], scores[len(requests) :]
        known = sum(not math.isnan(a - b) for a, b in zip(before, after, strict=True))
        groups = [one.group for one in requests]
        slope = length_slope(answers, before, after, groups, widest_contents([r.contents for r in requests]))
        figures = {
            "judge": self.replay.judge.name,
            "answers": len(requests),
            "judged twice": known,
            "score for twice the length": slope.effect,
            "low": slope.low,
            "high": slope.high,
            "allowed": self.config.most_slope,
        }
        return length_rule(slope, len(requests), known, self.config.most_slope), figures


def _answer(row: Row) -> str:
    span = chat_span(row.view)
    return "" if span is None else chat_answer(span).strip()
