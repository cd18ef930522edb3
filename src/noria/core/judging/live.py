"""Judging of live traffic: rules on every trace, a panel of judges on a sampled and budgeted share.

Which traces are sampled follows from their ids, so that a restart judges the same ones. What a trace has been judged
for already, by the same version of a judge, is neither judged nor paid again, also where a panel was killed between two
of its votes. Invalid verdicts are kept: a judge that fails shows.
"""

from __future__ import annotations

import asyncio
import collections
from collections.abc import AsyncIterator, Callable, Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any

from pydantic import Field

from noria.core.chat import Image, Part, Text
from noria.core.config import Config
from noria.core.errors import ConfigError
from noria.core.experiments.assignment import position
from noria.core.judging.items import Checklist, Item, Judge, Judgement, Value, Verdict
from noria.core.judging.judges import judged
from noria.core.judging.scores import majority, score
from noria.core.traces.chats import Blobs, chat_answer, chat_span, conversation
from noria.core.traces.ids import Clock, content_id
from noria.core.traces.records import JudgementRecord, VerdictRecord
from noria.core.traces.store import TraceView

VOTE = "vote"
"""Path of a single judge's record inside of a panel."""
MOST_TEXT = 40_000
"""Most characters of a request or an answer that a judge reads."""


class LiveConfig(Config):
    """The share of traffic that a panel judges, and its money."""

    share: float = Field(0.05, ge=0, le=1, description="Share of the traces that the panel judges.")
    salt: str = Field("live judging", description="Text that draws the sample; another one draws anew.")
    most_cost: float | None = Field(
        None, ge=0, description="Most that one judge's judgement may cost, reserved before it is asked."
    )
    budget: float | None = Field(None, ge=0, description="Most that all judgements may cost; any by default.")
    quorum: int = Field(1, ge=1, description="Valid votes that an item needs.")
    seconds: float = Field(120.0, gt=0, description="Longest time of one judgement.")
    in_flight: int = Field(8, ge=1, description="Traces that are judged at once.")


@dataclass(frozen=True)
class TraceRules:
    """Rules on a whole trace.

    Attributes:
        checklist: what is asked of every trace.
        rule: answers an item with yes, no, or None where it cannot tell.
        name: name of the judge in its records.
        version: version of the rules; raise it when they change, and every trace is judged anew.
        scored: whether the share of good items says how good an answer is. Rules that only say what is broken give no
            score: else every trace would count as rated.
    """

    checklist: Checklist
    rule: Callable[[Item, TraceView], bool | None]
    name: str = "rules"
    version: str = "1"
    scored: bool = False


@dataclass(frozen=True)
class Panel:
    """Judges that judge the same checklist.

    Attributes:
        judges: one judge, or several whose majority counts.
        checklist: what is asked.
        subject: content to judge of a trace; None where there is nothing to judge.
        name: name of the panel in its records.
        path: path of the judging.
    """

    judges: Sequence[Judge]
    checklist: Checklist
    subject: Callable[[TraceView], Sequence[Part] | None] = field(
        default_factory=lambda: lambda view: chat_subject(view)
    )
    name: str = "panel"
    path: str = "judge"

    def __post_init__(self) -> None:
        names = [judge.name for judge in self.judges]
        if not names or len(set(names)) < len(names):
            raise ConfigError("a panel has judges of different names", where=self.name)


@dataclass
class LiveCounts:
    """Counts of what was seen and judged.

    Attributes:
        traces: traces that were seen.
        sampled: traces in the panel's sample.
        judgements: judgements that were made.
        repeated: judgements that were there already.
        verdicts: verdicts that were made.
        invalid: verdicts that cannot be used.
        over_budget: judgements that were not made for want of money.
        nothing: sampled traces without anything to judge.
    """

    traces: int = 0
    sampled: int = 0
    judgements: int = 0
    repeated: int = 0
    verdicts: int = 0
    invalid: int = 0
    over_budget: int = 0
    nothing: int = 0


class LiveJudging:
    """Makes judgement records of traces; it writes none of them.

    Args:
        rules: rules on every trace.
        panel: judges of the sampled share; nobody by default.
        config: the share and the money.
        spent: cost of the judgements of earlier processes, which counts against the budget.
        clock: clock of the service.

    Raises:
        ConfigError: there is a budget, and no `most_cost` to reserve.
    """

    def __init__(
        self,
        rules: Sequence[TraceRules] = (),
        panel: Panel | None = None,
        config: LiveConfig | None = None,
        *,
        spent: float = 0.0,
        clock: Clock | None = None,
    ) -> None:
        self.rules, self.panel, self.config = tuple(rules), panel, config or LiveConfig()
        if self.config.budget is not None and self.config.most_cost is None:
            raise ConfigError("a budget needs the most that a judgement may cost", where="most_cost")
        self.spent = spent
        self.counts = LiveCounts()
        self._clock = Clock() if clock is None else clock
        self._aside = 0.0

    def sampled(self, trace: str) -> bool:
        """Whether the panel judges a trace: a pure function of its id, and of the salt."""
        return position(self.config.salt, trace) < self.config.share

    async def records(self, views: Iterable[TraceView]) -> AsyncIterator[JudgementRecord]:
        """Judge traces, several at once, and yield the records in the order of the traces."""
        waiting: collections.deque[asyncio.Task[list[JudgementRecord]]] = collections.deque()
        try:
            for view in views:
                waiting.append(asyncio.ensure_future(self.judge(view)))
                while len(waiting) >= self.config.in_flight:
                    for record in await waiting.popleft():
                        yield record
            while waiting:
                for record in await waiting.popleft():
                    yield record
        finally:
            for task in waiting:
                task.cancel()

    async def judge(self, view: TraceView) -> list[JudgementRecord]:
        """Judge one trace: the records that it lacks."""
        self.counts.traces += 1
        made = [record for rules in self.rules if (record := self._by_rules(rules, view)) is not None]
        if self.panel is not None and self.sampled(view.trace.id):
            self.counts.sampled += 1
            made += await self._by_panel(self.panel, view)
        for record in made:
            self.counts.judgements += 1
            self.counts.verdicts += len(record.verdicts)
            self.counts.invalid += sum(verdict.value == "invalid" for verdict in record.verdicts)
        return made

    def _by_rules(self, rules: TraceRules, view: TraceView) -> JudgementRecord | None:
        if self._earlier(view, rules.name, rules.version, rules.checklist, "rule") is not None:
            self.counts.repeated += 1
            return None
        verdicts = []
        for item in rules.checklist.items:
            value, why = _ruled(rules, item, view)
            verdicts.append(Verdict(item.id, value, why, rules.name))
        judgement = Judgement(
            view.trace.id,
            rules.checklist.digest,
            tuple(verdicts),
            rules.name,
            rules.version,
            "rule",
            0.0,
            0.0,
        )
        return self._record(judgement, rules.checklist, scored=rules.scored)

    async def _by_panel(self, panel: Panel, view: TraceView) -> list[JudgementRecord]:
        alone = len(panel.judges) == 1
        path = panel.path if alone else VOTE
        version = "+".join(_version(judge) for judge in panel.judges)
        if not alone and self._earlier(view, panel.name, version, panel.checklist, panel.path) is not None:
            self.counts.repeated += 1
            return []
        present = [self._earlier(view, j.name, _version(j), panel.checklist, path) for j in panel.judges]
        missing = [judge for judge, there in zip(panel.judges, present, strict=True) if there is None]
        self.counts.repeated += len(panel.judges) - len(missing)
        subject = panel.subject(view) if missing else ()
        if subject is None:
            self.counts.nothing += 1
            return []
        if not self._reserve(len(missing)):
            self.counts.over_budget += len(missing)
            return []
        asked = await asyncio.gather(
            *(self._ask(judge, panel.checklist, subject, view.trace.id, path) for judge in missing)
        )
        made = [self._record(judgement, panel.checklist, scored=alone) for judgement in asked]
        if alone:
            return made
        votes = [_verdicts(record) for record in (*(p for p in present if p is not None), *made)]
        joint = Judgement(
            view.trace.id,
            panel.checklist.digest,
            tuple(majority(votes, quorum=self.config.quorum)),
            panel.name,
            version,
            panel.path,
            0.0,  # the votes' records hold the costs
            max((judgement.seconds for judgement in asked), default=0.0),
        )
        return [*made, self._record(joint, panel.checklist, scored=True)]

    async def _ask(
        self, judge: Judge, checklist: Checklist, subject: Sequence[Part], trace: str, path: str
    ) -> Judgement:
        reserved = self.config.most_cost or 0.0
        cost: float | None = None
        try:
            judgement = await judged(
                judge, checklist, subject, name=trace, path=path, seconds=self.config.seconds
            )
            cost = judgement.cost
            return judgement
        finally:
            # What may have been charged counts, also where the request was given up.
            self._aside = max(0.0, self._aside - reserved)
            self.spent += reserved if cost is None else cost

    def _reserve(self, judges: int) -> bool:
        """Set money aside for all judges of a trace, or for none: half a panel is no panel."""
        aside = judges * (self.config.most_cost or 0.0)
        if self.config.budget is not None and self.spent + self._aside + aside > self.config.budget + 1e-12:
            return False
        self._aside += aside
        return True

    def _record(self, judgement: Judgement, checklist: Checklist, *, scored: bool) -> JudgementRecord:
        parts = (judgement.subject, judgement.judge, judgement.version, judgement.checklist, judgement.path)
        return JudgementRecord(
            content_id(*parts),
            judgement.subject,
            self._clock(),
            judgement.judge,
            judgement.version,
            judgement.checklist,
            judgement.path,
            tuple(VerdictRecord(one.item, one.value, one.reason) for one in judgement.verdicts),
            score(checklist, judgement.verdicts).value if scored else None,
            judgement.seconds,
            judgement.cost,
        )

    @staticmethod
    def _earlier(
        view: TraceView, judge: str, version: str, checklist: Checklist, path: str
    ) -> JudgementRecord | None:
        sought = (judge, version, checklist.digest, path)
        return next(
            (one for one in view.judgements if (one.judge, one.version, one.checklist, one.path) == sought),
            None,
        )


def chat_subject(view: TraceView, blob: Blobs | None = None) -> list[Part] | None:
    """What a judge reads of a trace: the request, its pictures where they are there, and the answer.

    None where the trace has no answer.
    """
    span = chat_span(view)
    if span is None:
        return None
    return request_subject(conversation(span, blob), span.input, chat_answer(span))


def request_subject(messages: Any, raw: Any, answer: str) -> list[Part]:
    """The parts that a judge reads: a request, as messages or else as raw JSON values, its pictures, the answer."""
    pictures: list[Part] = []
    if messages is None:
        text = str(raw)
    else:
        text = "\n\n".join(f"{one.role}: {one.text}" for one in messages)
        pictures = [part for one in messages for part in one.parts if isinstance(part, Image)]
    return [Text(f"Request:\n{_cut(text)}"), *pictures, Text(f"Answer:\n{_cut(answer)}")]


def standard_rules(*, seconds: float = 60.0) -> TraceRules:
    """Rules that hold for every service: it answered, in words or pictures, without an error, and in time."""
    items = (
        Item("finished", "Did the request end without an error?", path="infrastructure"),
        Item("answered", "Is the answer not empty?", path="model"),
        Item("in-time", f"Did it take at most {seconds:g} s?", path="infrastructure"),
    )

    def rule(item: Item, view: TraceView) -> bool | None:
        trace = view.trace
        if item.id == "finished":
            return None if trace.status == "cancelled" else trace.status != "failed"
        if item.id == "answered":
            if trace.status in ("cancelled", "failed"):
                return None
            kinds = {span.kind for span in trace.spans}  # a tool by itself answers with what it made
            return chat_span(view) is not None or ("tool" in kinds and "chat" not in kinds)
        return (trace.ended - trace.began) / 1e9 <= seconds

    return TraceRules(Checklist(items), rule, "standard rules", f"1, {seconds:g} s")


def _ruled(rules: TraceRules, item: Item, view: TraceView) -> tuple[Value, str]:
    try:
        answer = rules.rule(item, view)
    except Exception as error:  # a trace of an unknown form must not stop the judging of all others
        return "invalid", f"the rule failed: {type(error).__name__}"
    if answer is None:
        return "invalid", "no rule applies"
    return ("yes" if answer else "no"), ""


def _version(judge: Judge) -> str:
    return str(getattr(judge, "version", ""))


def _verdicts(record: JudgementRecord) -> list[Verdict]:
    return [Verdict(one.item, one.value, one.reason, record.judge) for one in record.verdicts]


def _cut(text: str) -> str:
    half = MOST_TEXT // 2
    return text if len(text) <= MOST_TEXT else f"{text[:half]}\n[…]\n{text[-half:]}"
