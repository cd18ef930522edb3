"""Asking a model everything a plan holds, so that every sample ends in exactly one state and none is asked twice."""

from __future__ import annotations

import asyncio
import hashlib
import json
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace

from noria.core.chat import ChatModel, ChatRequest, Message, assistant, system, user
from noria.core.errors import DataError, ModelError, NoriaError
from noria.grounding.asking.config import AskSettings
from noria.grounding.asking.media import Cinema
from noria.grounding.asking.parsing import Reading, looks_refused, read_reply
from noria.grounding.asking.pool import each
from noria.grounding.asking.prompts import SYSTEM, ask
from noria.grounding.asking.protocols import ORDER, Chain, Step, dealt, permuted, plan
from noria.grounding.asking.store import Sample, SampleStore, Status, answered
from noria.grounding.corpus.records import Corpus, Question
from noria.grounding.corpus.types import LEVELS, TRAITS
from noria.grounding.scoring.predictions import Prediction

ENOUGH = 16
"""First samples after which a run ends, when all of them failed: the rest would fail, too."""


async def run_plan(
    chains: Sequence[Chain],
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
        chains: chains of steps to take.
        corpus: records of their videos.
        model: the model that answers.
        cinema: source of the clips.
        store: samples that are there, and the new ones.
        asking: settings of the requests.
        in_flight: chains under way at once.
        on_sample: called with each new sample.

    Returns:
        How many samples of the chains are in each state.

    Raises:
        ModelError: the first samples all end in an error.
    """
    questions = {record.video_id: record.mcq_questions for record in corpus}
    done = store.statuses()
    run = _Run(questions, model, cinema, store, asking, done, on_sample, min(ENOUGH, 2 * in_flight))

    async def take(chain: Chain) -> None:
        if not run.hopeless:
            await run.chain(chain)

    await each(chains, take, at_once=min(in_flight, len(chains)))
    if run.hopeless and any(step.id not in run.done for chain in chains for step in chain):
        raise ModelError(
            f"all of the first {run.asked} samples failed, the last with {run.failure}",
            where="run",
            mend="mend the server, the clips or the settings, and run the same command again",
        )
    now = store.statuses()
    return Counter(now[step.id] for chain in chains for step in chain if step.id in now)


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
        """Ask the steps of a task one after the other; a later step of a conversation sees the earlier ones."""
        before: list[Message] = []
        for step in chain:
            sample = self.store.get(step.id) if self.settled(step.id) else await self.step(step, before)
            if len(chain) > 1 and sample is not None and sample.reply:
                words = ask(rate=step.rate, reason=step.reason, questions={}, transcript=None)
                before += [user(words), assistant(sample.reply)]
            if step.part == "all" and self.asking.fallback and sample is not None:
                reading = read_sample(sample, step, self.questions[step.video], self.asking)
                for rest in _missing(step, sample, reading):
                    if not self.settled(rest.id):
                        await self.step(rest, [], own=reading.levels)

    async def step(
        self, step: Step, before: Sequence[Message], own: Mapping[str, int] | None = None
    ) -> Sample:
        """Ask it, and write down what became of it."""
        blank = Sample(step.id, step.video, step.part, "error", numbers=list(step.numbers))
        try:
            await self.open(step)
            request, blank = self._request(step, before, own, blank)
        except NoriaError as error:
            return self._keep(replace(blank, error="clip", problems=[str(error)]))
        sample = answered(blank, await self.model.ask(request))
        if sample.status == "ok":
            reading = read_sample(sample, step, self.questions[step.video], self.asking)
            problems = [*sample.problems, *reading.problems]
            sample = replace(sample, status=status_of(sample, reading), rung=reading.rung, problems=problems)
        return self._keep(sample)

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
    ) -> tuple[ChatRequest, Sample]:
        """The request, and the sample with what is known by now."""
        questions = {number: self.questions[step.video][number - 1] for number in step.numbers}
        shown = self.cinema.show(step.video, self.asking.control, self.stem(step))
        for number, question in questions.items():
            questions[number], _ = shown_as(question, step, number, self.asking.seed)
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
        return request, replace(blank, request=digest, frames=shown.digest, problems=list(shown.notes))


def shown_as(question: Question, step: Step, number: int, seed: int) -> tuple[Question, dict[str, str]]:
    """The question as a step shows it, and {letter shown: letter meant}."""
    if step.order is None:
        return question, {option.id: option.id for option in question.options}
    return permuted(question, dealt(seed, step.order, step.video, number, len(question.options)))


def _missing(step: Step, sample: Sample, reading: Reading) -> list[Step]:
    """Follow-ups for what a whole request did not bring: reasons; questions."""
    if sample.status in ("refused", "error"):
        return []
    follow_ups = []
    if step.reason and any(trait not in reading.rationales for trait in TRAITS):
        need_levels = any(trait not in reading.levels for trait in TRAITS)
        follow_ups.append(Step(step.video, "all.reason", rate=need_levels, reason=True))
    rest = tuple(n for n in step.numbers if n not in reading.answers)
    if rest:
        follow_ups.append(Step(step.video, "all.ask", numbers=rest))
    return follow_ups


# -- reading ----------------------------------------------------------------------------------------------------------


def read_sample(sample: Sample, step: Step, questions: Sequence[Question], asking: AskSettings) -> Reading:
    """What the reply of a sample says, its letters those of the corpus.

    Args:
        sample: sample with its reply as it came.
        step: the step that it is of.
        questions: all questions of the video.
        asking: settings of the run.
    """
    if sample.status == "error" or (sample.status == "refused" and not sample.finish):
        return Reading()  # nothing came, or the server itself declined
    reading = read_reply(
        sample.reply, numbers=step.numbers, traits=step.rate or step.reason, tags=asking.reasoning_tags
    )
    meant = {}
    for number, letter in reading.answers.items():
        _, back = shown_as(questions[number - 1], step, number, asking.seed)
        if letter in back:
            meant[number] = back[letter]
    reading.answers = meant
    return reading


def status_of(sample: Sample, reading: Reading) -> Status:
    """The state of a sample whose reply was read."""
    if sample.status == "error" or reading:
        return "error" if sample.status == "error" else "ok"
    return "refused" if sample.status == "refused" or looks_refused(sample.reply) else "parse_failed"


def read_samples_of(
    samples: Sequence[Sample], corpus: Corpus, asking: AskSettings
) -> list[tuple[Sample, Reading]]:
    """Every sample of a run, its state and rung as its reply is read now, and what the reply says.

    Raises:
        DataError: a sample is of another video, or of no step of the run.
    """
    questions = {record.video_id: record.mcq_questions for record in corpus}
    steps = {step.id: step for chain in plan(corpus, asking) for step in chain}
    read = []
    for sample in samples:
        if sample.video not in questions:
            raise DataError("a sample of a video that is not in the corpus", where=sample.id)
        mine = questions[sample.video]
        step = steps.get(sample.id) or _follow_up(sample, len(mine))
        reading = read_sample(sample, step, mine, asking)
        read.append((replace(sample, status=status_of(sample, reading), rung=reading.rung), reading))
    return read


def _follow_up(sample: Sample, count: int) -> Step:
    """The step of a follow-up, which no plan holds; of an early run, whose samples do not say what they ask, all."""
    if sample.part == "all.reason":
        return Step(sample.video, sample.part, rate=True, reason=True)
    if sample.part == "all.ask" and all(1 <= number <= count for number in sample.numbers):
        return Step(sample.video, sample.part, numbers=tuple(sample.numbers) or tuple(range(1, count + 1)))
    raise DataError("a sample of no step of this run", where=sample.id)


# -- putting samples together -----------------------------------------------------------------------------------------


def assemble(read: Sequence[tuple[Sample, Reading]], ids: Sequence[str]) -> list[dict[str, Prediction]]:
    """Predictions by video; one set, or one for each order of options that was asked.

    Each level and each answer keeps the rung that it was read on, so that strict scoring takes what was read strictly.

    Args:
        read: samples with what their replies say, from `read_samples_of`.
        ids: ids of the videos.
    """
    by_video: dict[str, list[tuple[Sample, Reading]]] = {name: [] for name in ids}
    for sample, reading in read:
        by_video[sample.video].append((sample, reading))
    orders = orders_in([sample for sample, _ in read])
    return [
        {
            name: _together(name, [row for row in rows if row[0].part == part or ORDER not in row[0].part])
            for name, rows in by_video.items()
        }
        for part in ([f"{ORDER}{order}" for order in orders] or [""])
    ]


def orders_in(samples: Sequence[Sample]) -> list[int]:
    """Numbers of the orders of options that questions were asked in; none where they came as they stand."""
    return sorted({int(s.part.removeprefix(ORDER)) for s in samples if s.part.startswith(ORDER)})


def _together(video: str, read: Sequence[tuple[Sample, Reading]]) -> Prediction:
    levels: dict[str, int] = {}
    rationales: dict[str, str] = {}
    answers: dict[int, str] = {}
    rungs: dict[str | int, int] = {}
    # A follow-up, whose name is longer, fills what the first reply left open.
    for _, reading in sorted(read, key=lambda row: len(row[0].part)):
        rungs = reading.rungs | rungs
        levels = reading.levels | levels
        rationales = reading.rationales | rationales
        answers = reading.answers | answers
    return Prediction(
        video,
        {trait: LEVELS[level] for trait, level in levels.items()},
        rationales,
        answers,
        level_rungs={trait: rungs[trait] for trait in levels},
        answer_rungs={number: rungs[number] for number in answers},
    )
