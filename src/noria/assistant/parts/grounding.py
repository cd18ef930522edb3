"""MM-OCEAN's question of an assistant's answers: would the answer stand without the picture?

The backend that answered is asked again with the pictures left out (the control `blind`), and a judge reads the request
with its pictures and both answers. Over the answers that need their picture, with r1 = the answer is right, r2 = what
it says of the picture can be seen in it, r3 = it would not stand without the picture:

    PR = Pr[r3=0 | r1=1]   right, though it does not rest on the picture: prejudice
    CR = Pr[r2=0 | r1=1]   right, and says what is not there: confabulation
    HR = Pr[r1=r2=r3=1]    right, for what was seen: holistic

An honest answer may agree with a guess by chance, so that PR is an upper bound; between two versions on the same
requests the difference counts. A verdict that cannot be used is missing: it is kept, counted and masked.
"""

from __future__ import annotations

import time
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from noria.assistant.config.judging import GroundingConfig
from noria.core.chat import Answer, Image, Part, Refusal, Text
from noria.core.chat.outcomes import Outcome
from noria.core.errors import needing
from noria.core.experiments.assignment import position
from noria.core.judging.items import Checklist, Item, Judgement, Verdict
from noria.core.judging.judges import ChatJudge, judged
from noria.core.statistics.intervals import Interval, proportion_interval
from noria.core.traces.blobs import blob_names, put_back_blobs
from noria.core.traces.chats import chat_answer, chat_messages, chat_span, conversation
from noria.core.traces.ids import Clock, content_id
from noria.core.traces.records import GROUNDING, JudgementRecord, VerdictRecord
from noria.core.traces.store import TraceView

with needing("grounding"):
    from noria.grounding.scoring.rates import Passes, rates

SALT = "grounding"
NOTE = "(A picture was here. It is not shown now: answer as well as you can without it.)"
"""What stands in the place of the pictures when the backend is asked again."""
CHECKLIST = Checklist(
    (
        Item("needs", "Does answering the request need something that only the picture shows?"),
        Item("right", "Is answer A right, as far as the request and the picture tell?"),
        Item("supported", "Can everything that answer A says about the picture be seen in the picture?"),
        Item("stands", "Do answer A and answer B say the same in substance?", good="no"),
    )
)
"""Questions about an answer (A), and about what was answered without the picture (B)."""
RATES = {"PR": "prejudice", "CR": "confabulation", "HR": "holistic"}
"""Name of each rate of MM-OCEAN that traffic has."""
_MOST_TEXT = 20_000

Again = Callable[[TraceView, Sequence[Mapping[str, Any]], Mapping[str, Any]], Awaitable[Outcome]]
"""Asks the bundle of a trace again, with other messages and the request's settings."""


@dataclass(frozen=True)
class Subject:
    """The part of a trace that is judged: request, pictures and answer.

    Attributes:
        request: words of the request.
        pictures: pictures of the request.
        answer: the answer that was given.
        blind: messages of the request without their pictures.
        settings: further fields of the request, such as its temperature.
    """

    request: str
    pictures: Sequence[Image]
    answer: str
    blind: Sequence[Mapping[str, Any]]
    settings: Mapping[str, Any]


class GroundingJudging:
    """Judges a sample of the answers to pictures, within the money of a day.

    Args:
        judge: model that compares the answers.
        again: asks the bundle that answered again.
        blob: content of a picture by its digest; None where it is gone.
        config: the share and the money.

    Attributes:
        spent: cost of this day's judgements.
    """

    def __init__(
        self, judge: ChatJudge, again: Again, blob: Callable[[str], bytes | None], config: GroundingConfig
    ) -> None:
        self.judge, self.again, self.blob, self.config = judge, again, blob, config
        self.spent = 0.0
        self._clock = Clock()

    async def records(self, views: Iterable[TraceView]) -> AsyncIterator[JudgementRecord]:
        """The judgements that traces lack, one after the other: it is a small share, and delays nobody."""
        for view in views:
            if position(SALT, view.trace.id) < self.config.share:
                record = await self.judged(view)
                if record is not None:
                    yield record

    async def judged(self, view: TraceView) -> JudgementRecord | None:
        """The judgement of a trace; None where there is nothing to judge, it is judged already, or money is short."""
        subject = self._subject(view)
        limit = self.config.budget_per_day
        if subject is None or self._known(view):
            return None
        if limit is not None and self.spent + self.config.most_cost > limit + 1e-12:
            return None
        began = time.perf_counter()
        outcome = await self.again(view, subject.blind, subject.settings)
        guess = outcome.text if isinstance(outcome, Answer | Refusal) else ""
        if guess.strip():
            parts: list[Part] = [
                Text(f"Request:\n{subject.request}"), *subject.pictures,
                Text(f"Answer A:\n{subject.answer}"), Text(f"Answer B:\n{guess}"),
            ]  # fmt: skip
            judgement = await judged(
                self.judge, CHECKLIST, [_cut(part) for part in parts],
                name=view.trace.id, path=GROUNDING, seconds=self.config.seconds,
            )  # fmt: skip
        else:
            why = "nothing was answered without the picture"
            verdicts = tuple(Verdict(item.id, "invalid", why, self.judge.name) for item in CHECKLIST.items)
            judgement = Judgement(
                view.trace.id,
                CHECKLIST.digest,
                verdicts,
                self.judge.name,
                self.judge.version,
                GROUNDING,
                0.0,
                0.0,
            )
        first = outcome.cost if isinstance(outcome, Answer | Refusal) else (None if outcome.attempts else 0.0)
        cost = None if first is None or judgement.cost is None else first + judgement.cost
        self.spent += self.config.most_cost if cost is None else cost
        return self._record(replace(judgement, cost=cost, seconds=time.perf_counter() - began))

    def _subject(self, view: TraceView) -> Subject | None:
        """What is judged of a trace; None without a picture in its request, with tools, or without words to answer."""
        span = chat_span(view)
        if span is None or view.trace.status != "ok" or any(one.kind == "tool" for one in view.trace.spans):
            return None
        said = conversation(span, self.blob)
        if said is None:
            return None
        pictures = [part for one in said for part in one.parts if isinstance(part, Image)]
        request = "\n\n".join(f"{one.role}: {one.text}" for one in said)
        if not pictures or not any(one.text.strip() for one in said if one.role == "user"):
            return None
        raw = chat_messages(span)
        given = span.input if isinstance(span.input, dict) else {}
        settings = {
            name: value for name, value in given.items() if name not in ("messages", "tools", "tool_choice")
        }
        contents = {name: self.blob(name) for name in blob_names(raw)}
        whole = put_back_blobs(raw, {name: one for name, one in contents.items() if one is not None})
        return Subject(request, pictures, chat_answer(span), without_pictures(whole), settings)

    def _known(self, view: TraceView) -> bool:
        sought = (self.judge.name, self.judge.version, CHECKLIST.digest, GROUNDING)
        return any((one.judge, one.version, one.checklist, one.path) == sought for one in view.judgements)

    def _record(self, judgement: Judgement) -> JudgementRecord:
        """The judgement as a record; its score says whether the answer rests on its picture, where it needs it."""
        said = {one.item: one.value for one in judgement.verdicts}
        known = said["needs"] == "yes" and said["stands"] != "invalid"
        parts = (judgement.subject, judgement.judge, judgement.version, judgement.checklist, judgement.path)
        return JudgementRecord(
            content_id(*parts), judgement.subject, self._clock(), *parts[1:],
            tuple(VerdictRecord(one.item, one.value, one.reason) for one in judgement.verdicts),
            float(said["stands"] == "no") if known else None, judgement.seconds, judgement.cost,
        )  # fmt: skip


def without_pictures(messages: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """Messages with a note in the place of each message's pictures."""
    blind = []
    for message in messages:
        content = message.get("content")
        if isinstance(content, list):
            words = [part for part in content if isinstance(part, Mapping) and part.get("type") == "text"]
            note = [] if len(words) == len(content) else [{"type": "text", "text": NOTE}]
            content = [*words, *note]
        blind.append({**message, "content": content})
    return blind


def _cut(part: Part) -> Part:
    if isinstance(part, Text) and len(part.text) > _MOST_TEXT:
        return Text(part.text[:_MOST_TEXT] + "\n[…]")
    return part


# -- rates ------------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class SkillGrounding:
    """Rates at which the answers of a skill rest on their pictures.

    Attributes:
        skill: name of the skill; empty for answers without one.
        judged: number of judged answers.
        needed: number of those that need their picture.
        invalid: number of those of which a verdict cannot be used.
        rates: prejudice, confabulation and holistic rate, each with Wilson's 95 % interval; NaN without an answer.
    """

    skill: str
    judged: int
    needed: int
    invalid: int
    rates: dict[str, Interval]


def by_skill(said: Sequence[tuple[str, Mapping[str, str]]]) -> list[SkillGrounding]:
    """The rates of each skill, those with most answers first.

    Args:
        said: skill and verdicts by item of each judged answer.
    """
    skills = dict.fromkeys(skill for skill, _ in said)
    found = [_of_skill(skill, [one for name, one in said if name == skill]) for skill in skills]
    return sorted(found, key=lambda one: (-one.judged, one.skill))


def _of_skill(skill: str, said: Sequence[Mapping[str, str]]) -> SkillGrounding:
    needed = [one for one in said if one.get("needs") == "yes"]
    invalid = sum("invalid" in one.values() for one in said)

    def column(item: str, good: str) -> tuple[Any, Any]:
        values = np.array([one.get(item, "invalid") for one in needed], dtype="U8")
        return values == good, values != "invalid"

    right, has_right = column("right", "yes")
    supported, has_supported = column("supported", "yes")
    looked, has_looked = column("stands", "no")
    nobody = np.zeros(len(needed), np.bool_)
    passed = Passes(right, supported, looked, nobody, nobody, has_right, has_supported, has_looked)
    intervals = {
        RATES[one.name]: proportion_interval(int(one.part.sum()), int(one.whole.sum()))
        for one in rates(passed)
        if one.name in RATES
    }
    return SkillGrounding(skill, len(said), len(needed), invalid, intervals)
