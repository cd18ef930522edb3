"""Traffic as a system for skills reads it: cases with the skill in force, what people wished, and answers under others.

A case is a logged request whose failure, if it failed, a body could mend.
"""

from __future__ import annotations

import asyncio
from collections import defaultdict
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, replace

from noria.assistant.parts.skills import NONE, SkillsPart, with_body
from noria.core.errors import needing
from noria.core.experiments.assignment import position
from noria.core.experiments.splits import LEFT_OUT, two_way_split
from noria.core.learning.dataset import Row
from noria.core.learning.learner import LearnerRun
from noria.core.learning.routes.replay import Replay, Request
from noria.core.learning.routes.route import Route
from noria.core.learning.spending import Spending, all_of

with needing("skills"):
    from noria.skills.bank.bank import Bank
    from noria.skills.bank.editing import Edit
    from noria.skills.judging.rubric import Rubric
    from noria.skills.proposing.protocols import EditTask, Proposer
    from noria.skills.traffic.samples import Response, Sample, group_of
    from noria.skills.traffic.sources import sample_of

ROUTED = "skill"
"""Name of the corrections that are about the route, and not about the answer."""
ELSEWHERE = ("infrastructure", "routing", "tool", "safety", "grounding")
"""Causes of failures that no body can mend."""


@dataclass(frozen=True)
class Case:
    """A logged request.

    Attributes:
        row: row of the data set.
        sample: the request; its answer is there where the present bodies gave it.
        skill: skill that the present bank chooses for it; None for none.
        wished: what somebody said the answer should have been; empty where nobody did.
    """

    row: Row
    sample: Sample
    skill: str | None
    wished: str = ""


def cases_of(rows: Sequence[Row], part: SkillsPart, run: LearnerRun, bundle: str) -> list[Case]:
    """The requests whose answers say something of a body: those that stood, and failures that no other cause explains.

    Args:
        rows: rows of the data set.
        part: the present bank.
        run: run with the causes of the failures.
        bundle: content hash of the bundle whose answers count as the present bodies'.
    """
    elsewhere = {one.trace for one in run.failures if one.cause in ELSEWHERE}
    found: list[tuple[Row, Sample]] = []
    for row in rows:
        sample = sample_of(row.view)
        if row.example is None or sample is None or row.view.trace.id in elsewhere:
            continue
        recorded = sample.response if row.view.trace.bundle == bundle else None
        found.append((row, replace(sample, group=row.example.group, response=recorded)))
    chosen = part.router.choose([sample.query for _, sample in found]) if found and part.router.names else []
    return [
        Case(row, sample, None if name in (None, NONE) else name, _wished(row))
        for (row, sample), name in zip(found, chosen, strict=True)
    ]


def failing_skills(cases: Sequence[Case], run: LearnerRun, rubric: Rubric) -> dict[str, int]:
    """Skills with enough answers whose failures are their bodies', each with the leakage groups that it failed."""
    blamed = {one.trace for one in run.failures}
    answers: dict[str, int] = defaultdict(int)
    groups: dict[str, set[str]] = defaultdict(set)
    for case in cases:
        if case.skill is not None:
            answers[case.skill] += 1
            if case.sample.id in blamed:
                groups[case.skill].add(case.sample.group)
    return {
        name: len(groups[name])
        for name, number in sorted(answers.items())
        if number >= rubric.least_answers and len(groups[name]) >= rubric.least_support
    }


def drawn_skills(failing: Mapping[str, int], most: int, *, salt: str) -> list[str]:
    """At most so many skills, drawn with chances that grow with the groups that each failed (Efraimidis and Spirakis).

    Drawn and not ranked, so that a skill whose failures nothing mends does not keep the others from their turn.
    """
    places = {name: position(salt, name) ** (1 / number) for name, number in failing.items()}
    return sorted(sorted(places, key=lambda name: -places[name])[:most])


def contents_of(sample: Sample) -> tuple[str, ...]:
    """What a sample may share with others: its words without numbers, and its pictures."""
    return (group_of(" / ".join([*(turn.text for turn in sample.turns), sample.query])), *sample.images)


def dealt(samples: Sequence[Sample], shares: Mapping[str, float], *, salt: str) -> dict[str, list[Sample]]:
    """Samples by pool, dealt such that no group, words or picture lies in two; what would is in the pool `LEFT_OUT`.

    Args:
        samples: samples, whose groups are people.
        shares: share of each pool; they sum to 1.
        salt: text that deals them; another salt deals them anew.
    """
    placed = two_way_split(
        [one.group for one in samples], [contents_of(one) for one in samples], salt=salt, shares=shares
    )
    pools: dict[str, list[Sample]] = {name: [] for name in (*shares, LEFT_OUT)}
    for sample, name in zip(samples, placed, strict=True):
        pools[name].append(sample)
    return pools


def _wished(row: Row) -> str:
    """The last correction of the answer itself; one person's word, and data."""
    texts = [
        one.text.strip()
        for one in sorted(row.view.feedback, key=lambda one: one.at)
        if one.kind == "correction" and one.name != ROUTED and one.text and one.span is None
    ]
    return texts[-1] if texts else ""


class ReplayedAssistant:
    """Answers samples under the bodies of a bank as the gateway would; an answer that was given is not asked again.

    Args:
        replay: answers requests through the other parts of the pipeline.
        route: route of the bundle.
        bank: the present bank, under which the recorded answers were given.
        requests: requests by the id of their trace.
        spending: what pays.
        loop: event loop of the turn; the assistant is used from another thread.
    """

    name = "replay"

    def __init__(
        self,
        replay: Replay,
        route: Route,
        bank: Bank,
        requests: Mapping[str, Request],
        spending: Spending,
        loop: asyncio.AbstractEventLoop,
    ) -> None:
        self.replay, self.route, self.bank, self.requests = replay, route, bank, requests
        self.spending, self.loop = spending, loop

    def answer(self, samples: Sequence[Sample], skills: Sequence[str | None], bank: Bank) -> list[Response]:
        """One response a sample; an error where the request cannot be sent again, or no answer came.

        Raises:
            TurnStopped: the budget or the time is spent.
        """
        answered = all_of(
            [
                lambda s=sample, k=skill: self._answer(s, k, bank)  # type: ignore[misc]
                for sample, skill in zip(samples, skills, strict=True)
            ],
            at_once=self.replay.config.at_once,
        )
        return asyncio.run_coroutine_threadsafe(answered, self.loop).result()

    async def _answer(self, sample: Sample, skill: str | None, bank: Bank) -> Response:
        body = None if skill is None else bank.skills[skill].body
        known = None if skill is None else self.bank.skills.get(skill)  # a draft is not there yet
        present = None if known is None else known.body
        given = sample.response
        if given and not given.error and body == present and (given.skill or NONE) == (skill or NONE):
            return replace(given, skill=skill)
        if sample.id not in self.requests:
            return Response(error="it cannot be sent again", skill=skill)
        route = self.route if body is None else with_body(self.route, body)
        answer = await self.replay.answer(route, self.requests[sample.id], self.spending)
        if answer["kind"] is not None:
            return Response(error=answer["kind"], skill=skill)
        calls = () if sample.response is None else sample.response.calls
        return Response(answer["text"], calls, skill=skill, cost=answer["cost"])


class CorrectedProposer:
    """A proposer that sees what people wished, as good answers that must become possible.

    A correction is data like every answer: it is shown between markers, and what is proposed of it still has to pass
    the checks of proposals, the gate, and a person who reads the diff.
    """

    def __init__(self, proposer: Proposer, corrected: Collection[Case]) -> None:
        self._proposer, self._corrected = proposer, list(corrected)
        self.name = proposer.name
        self.author, self.causes, self.describe = proposer.author, proposer.causes, proposer.describe

    def edits(self, task: EditTask) -> list[Edit]:
        """Edits of a body by the proposer, whose good answers begin with the wished ones."""
        wished = [
            (case.sample, Response(case.wished, skill=case.skill))
            for case in self._corrected
            if case.skill == task.skill.name
        ]
        return self._proposer.edits(replace(task, good=[*wished[:6], *task.good]))
