"""Asking a model everything a plan holds, so that every sample ends in exactly one state and none is asked twice."""

from __future__ import annotations

import asyncio
import hashlib
import json
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace

from noria.core.chat import ChatModel, ChatRequest, Message, Outcome, assistant, system, user
from noria.core.errors import DataError, ModelError, NoriaError
from noria.grounding.asking.config import AskSettings
from noria.grounding.asking.media import Cinema
from noria.grounding.asking.parsing import Reading, looks_refused, read_reply
from noria.grounding.asking.pool import each
from noria.grounding.asking.prompts import SYSTEM, ask
from noria.grounding.asking.protocols import ORDER, Chain, Step, dealt, permuted
from noria.grounding.asking.store import Sample, SampleStore, Status, answered
from noria.grounding.corpus.records import Corpus, Question
from noria.grounding.corpus.types import LEVELS, TRAITS
from noria.grounding.scoring.predictions import Prediction

__all__ = ["assemble", "orders_in", "run_plan"]

ENOUGH = 16
"""First samples after which a run ends, when all of them failed: the rest would fail, too."""


async def run_plan(
    plan: Sequence[Chain],
    corpus: Corpus,
    model: ChatModel,
    cinema: Cinema,
    store: SampleStore,
    asking: AskSettings,
    *,
    in_flight: int = 16,
    on_sample: Callable[[Sample], None] | None = None,
) -> Counter[str]:
    """Ask what is not answered yet. What is in flight when the process dies is all that is lost.

    Args:
        plan: chains of steps to take.
        corpus: records of the plan's videos.
        model: the model that answers.
        cinema: source of the clips.
        store: samples that are there, and the new ones.
        asking: settings of the requests.
        in_flight: chains under way at once.
        on_sample: called with each new sample.

    Returns:
        How many samples of the plan are in each state.

    Raises:
        ModelError: the first samples all end in an error.
    """
    questions = {record.video_id: record.mcq_questions for record in corpus}
    done = store.statuses()
    run = _Run(questions, model, cinema, store, asking, done, on_sample, min(ENOUGH, 2 * in_flight))

    async def take(chain: Chain) -> None:
        if not run.hopeless:
            await run.chain(chain)

    await each(plan, take, at_once=min(in_flight, len(plan)))
    if run.hopeless and any(step.id not in run.done for chain in plan for step in chain):
        raise ModelError(
            f"all of the first {run.asked} samples failed, the last with {run.failure}",
            where="run",
            mend="mend the server, the clips or the settings, and run the same command again",
        )
    now = store.statuses()
    return Counter(now[step.id] for chain in plan for step in chain if step.id in now)


@dataclass
class _Run:
    questions: Mapping[str, Sequence[Question]]
    model: ChatModel
    cinema: Cinema
    store: SampleStore
    asking: AskSettings
    done: dict[str, Status]
    on_sample: Callable[[Sample], None] | None
    enough: int
    asked: int = 0
    failed: int = 0
    failure: str = ""
    opening: dict[tuple[str, str], asyncio.Lock] = field(default_factory=dict)

    @property
    def hopeless(self) -> bool:
        """Whether enough was tried, and nothing worked."""
        return self.asked >= self.enough and self.failed == self.asked

    def settled(self, identifier: str) -> bool:
        status = self.done.get(identifier)
        return status is not None and not (status == "error" and self.asking.retry_errors)

    async def chain(self, chain: Chain) -> None:
        """Its steps one after the other; a later step of a conversation sees the earlier ones."""
        before: list[Message] = []
        for step in chain:
            sample = self.store.get(step.id) if self.settled(step.id) else await self.step(step, before)
            if len(chain) > 1 and sample is not None and sample.reply:
                words = ask(rate=step.rate, reason=step.reason, questions={}, transcript=None)
                before += [user(words), assistant(sample.reply)]
            if step.part == "all" and self.asking.fallback and sample is not None:
                for rest, levels in _missing(step, sample, len(self.questions[step.video])):
                    if not self.settled(rest.id):
                        await self.step(rest, [], own=levels)

    async def step(
        self, step: Step, before: Sequence[Message], own: Mapping[str, int] | None = None
    ) -> Sample:
        """Ask it, and write down what became of it."""
        blank = Sample(step.id, step.video, step.part, "error")
        try:
            await self.open(step)
            request, backs, blank = self._request(step, before, own, blank)
        except NoriaError as error:
            return self._keep(replace(blank, error="clip", problems=[str(error)]))
        return self._keep(_judged(blank, await self.model.ask(request), step, backs))

    async def open(self, step: Step) -> None:
        """Have the clip ready: decoded once for all who want it, in a thread, so that it holds up nobody."""
        about = step.video, self.asking.control, self.stem(step)
        if self.cinema.has(*about):
            return
        async with self.opening.setdefault(self.cinema.key(*about), asyncio.Lock()):
            if not self.cinema.has(*about):
                await asyncio.to_thread(self.cinema.show, *about)

    def stem(self, step: Step) -> str:
        """Stem of the question that a step asks alone; empty where it asks several or none."""
        return self.questions[step.video][step.numbers[0] - 1].question if len(step.numbers) == 1 else ""

    def _keep(self, sample: Sample) -> Sample:
        self.store.put(sample)
        self.asked += 1
        if sample.status == "error":
            self.failed += 1
            self.failure = f"{sample.error}: {sample.problems[-1] if sample.problems else ''}"
        self.done[sample.id] = sample.status
        if self.on_sample:
            self.on_sample(sample)
        return sample

    def _request(
        self, step: Step, before: Sequence[Message], own: Mapping[str, int] | None, blank: Sample
    ) -> tuple[ChatRequest, dict[int, dict[str, str]], Sample]:
        """The request, {question: {letter shown: letter meant}}, and the sample with what is known by now."""
        questions = {number: self.questions[step.video][number - 1] for number in step.numbers}
        shown = self.cinema.show(step.video, self.asking.control, self.stem(step))
        backs: dict[int, dict[str, str]] = {}
        if step.order is not None:
            for number, question in questions.items():
                order = dealt(self.asking.seed, step.order, step.video, number, len(question.options))
                questions[number], backs[number] = permuted(question, order)
        words = ask(
            rate=step.rate,
            reason=step.reason,
            questions=questions,
            transcript=shown.transcript,
            own_levels=own,
        )
        messages = (system(SYSTEM), *before, user(*shown.parts, words))
        request = ChatRequest(
            messages,
            temperature=self.asking.temperature,
            max_tokens=self.asking.max_new_tokens,
            seed=self.asking.seed if self.asking.send_seed else None,
            response_format={"type": "json_object"} if self.asking.json_mode else None,
        )
        text = json.dumps([[m.role, m.text] for m in messages] + [shown.digest], ensure_ascii=False)
        digest = hashlib.sha256(text.encode()).hexdigest()
        return request, backs, replace(blank, request=digest, frames=shown.digest, problems=list(shown.notes))


def _missing(step: Step, sample: Sample, count: int) -> list[tuple[Step, dict[str, int]]]:
    """Follow-ups for what a whole request did not bring: reasons; questions, with the model's own levels repeated."""
    if sample.status in ("refused", "error"):
        return []
    follow_ups = []
    if step.reason and any(trait not in sample.rationales for trait in TRAITS):
        need_levels = any(trait not in sample.levels for trait in TRAITS)
        follow_ups.append((Step(step.video, "all.reason", rate=need_levels, reason=True), sample.levels))
    rest = tuple(n for n in step.numbers if str(n) not in sample.answers)
    if rest:
        follow_ups.append((Step(step.video, "all.ask", numbers=rest), sample.levels))
    return follow_ups


def _judged(blank: Sample, outcome: Outcome, step: Step, backs: Mapping[int, Mapping[str, str]]) -> Sample:
    """The sample of an outcome: exactly one of four states."""
    sample = answered(blank, outcome)
    if sample.status != "ok":
        return sample
    reading = read_reply(sample.reply, numbers=step.numbers, traits=step.rate or step.reason)
    return _read(sample, reading, backs)


def _read(sample: Sample, reading: Reading, backs: Mapping[int, Mapping[str, str]]) -> Sample:
    problems = [*sample.problems, *reading.problems]
    if not reading:
        status: Status = "refused" if looks_refused(sample.reply) else "parse_failed"
        return replace(sample, status=status, problems=problems)
    answers = {}
    for number, letter in reading.answers.items():
        meant = backs.get(number, {}).get(letter, letter if number not in backs else None)
        if meant is not None:
            answers[str(number)] = meant
    return replace(
        sample,
        status="ok",
        levels=reading.levels,
        rationales=reading.rationales,
        answers=answers,
        rung=reading.rung,
        problems=problems,
    )


# -- putting samples together -----------------------------------------------------------------------------------------


def assemble(samples: Sequence[Sample], ids: Sequence[str]) -> list[dict[str, Prediction]]:
    """Predictions by video; one set, or one for each order of options that was asked.

    Each level and each answer keeps the rung that it was read on, so that strict scoring takes what was read strictly.

    Raises:
        DataError: a sample is about none of the videos.
    """
    by_video: dict[str, list[Sample]] = {name: [] for name in ids}
    for sample in samples:
        if sample.video not in by_video:
            raise DataError("a sample of a video that is not in the corpus", where=sample.id)
        by_video[sample.video].append(sample)
    return [
        {
            name: _together(name, [s for s in rows if s.part == part or ORDER not in s.part])
            for name, rows in by_video.items()
        }
        for part in ([f"{ORDER}{order}" for order in orders_in(samples)] or [""])
    ]


def orders_in(samples: Sequence[Sample]) -> list[int]:
    """Numbers of the orders of options that questions were asked in; none where they came as they stand."""
    return sorted({int(s.part.removeprefix(ORDER)) for s in samples if s.part.startswith(ORDER)})


def _together(video: str, samples: Sequence[Sample]) -> Prediction:
    levels: dict[str, int] = {}
    rationales: dict[str, str] = {}
    answers: dict[int, str] = {}
    level_rungs: dict[str, int] = {}
    answer_rungs: dict[int, int] = {}
    # A follow-up, whose name is longer, fills what the first reply left open.
    for sample in sorted(samples, key=lambda s: len(s.part)):
        if sample.status != "ok":
            continue
        for trait, level in sample.levels.items():
            levels.setdefault(trait, level)
            level_rungs.setdefault(trait, sample.rung)
        for trait, text in sample.rationales.items():
            rationales.setdefault(trait, text)
        for number, letter in sample.answers.items():
            answers.setdefault(int(number), letter)
            answer_rungs.setdefault(int(number), sample.rung)
    named = {t: LEVELS[n] for t, n in levels.items()}
    return Prediction(video, named, rationales, answers, level_rungs=level_rungs, answer_rungs=answer_rungs)
