"""A benchmark from one's own consented clips: Observer, Psychologist, Examiner, Aligner, and an adversary.

The first three are a chat model with three briefs (`writer`); the Aligner is code. When all questions stand,
classifiers that do not see the clips try to answer them, and what they can answer is written anew. Every reply is kept,
so a build that was killed resumes where it was.
"""

from __future__ import annotations

import asyncio
import json
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import msgspec
import numpy as np

from noria.core.chat import ChatModel
from noria.core.errors import DataError
from noria.core.judging import quoted
from noria.core.records import json_records
from noria.grounding.asking.media import Cinema
from noria.grounding.asking.pool import each
from noria.grounding.asking.store import SampleStore
from noria.grounding.audit.adversary import SIMPLE, BlindResult, blind_accuracy, solvable
from noria.grounding.building.aligner import deal_letters, with_letter
from noria.grounding.building.config import BuildSettings
from noria.grounding.building.writer import Writer
from noria.grounding.corpus.records import Corpus, Record
from noria.grounding.corpus.types import CATEGORIES
from noria.grounding.scoring.predictions import whole_text

Records = dict[str, Record]
"""Records by video."""


@dataclass
class BuildResult:
    """A build's outcome.

    Attributes:
        corpus: the records that stand.
        dropped: {video or video/category: why it is not in it}.
        rounds: blind accuracy over all before each round of rewriting, and after the last.
        rewritten: number of questions that each round wrote anew.
    """

    corpus: Corpus
    dropped: dict[str, str] = field(default_factory=dict)
    rounds: list[float | None] = field(default_factory=list)
    rewritten: list[int] = field(default_factory=list)


def read_clips(path: Path) -> list[Record]:
    """One's own clips, a line each: `{"video_id", "video_path", "transcription", "original_scores", "consent": true}`.

    A line may bring `observations` that people have verified; the Observer then leaves the clip alone.

    Raises:
        DataError: with file and line: a field is absent, a score is not in [0, 1], the person did not consent, or an
            id comes twice.
    """
    records: list[Record] = []
    ids: set[str] = set()
    for where, line in json_records(path):
        if line.get("consent") is not True:
            raise DataError(
                "no consent on record",
                where=where,
                mend='write "consent": true when the person in the clip has consented, else leave the clip out',
            )
        values = {"observations": [], "personality_analyses": [], "mcq_questions": []} | whole_text(
            dict(line)
        )
        try:
            record = msgspec.convert(values, Record, strict=True)
        except (msgspec.ValidationError, TypeError) as error:
            raise DataError(f"not a clip: {error}", where=where) from None
        scores = record.scores()
        if any(not 0 <= score <= 1 for score in scores):
            raise DataError("every trait needs a score in [0, 1]", where=where)
        if record.video_id in ids:
            raise DataError(f"{record.video_id!r} comes twice", where=where)
        if not re.fullmatch(r"[^/\\\0]{1,200}", record.video_id) or record.video_id.strip(". ") == "":
            raise DataError(
                f"the id {record.video_id!r} names no file", where=where, mend="give a plain name"
            )
        ids.add(record.video_id)
        records.append(record)
    if not records:
        raise DataError("no clips", where=str(path))
    return records


async def build(
    clips: Sequence[Record],
    model: ChatModel,
    cinema: Cinema,
    store: SampleStore,
    settings: BuildSettings,
    *,
    in_flight: int = 8,
    on_step: Callable[[str], None] | None = None,
) -> BuildResult:
    """Build records of clips.

    Args:
        clips: records of the clips, from `read_clips`.
        model: writes the records; it should see frames.
        cinema: opens the clips.
        store: keeps every reply.
        settings: categories, rounds and seed.
        in_flight: requests under way, and clips held in memory, at once.
        on_step: called with the name of each step done.
    """
    writer = Writer(model, cinema, store, settings, asyncio.Semaphore(in_flight), on_step)
    result = BuildResult(Corpus(()), writer.dropped)
    drafts: dict[str, Record | None] = {}

    async def draft(clip: Record) -> None:
        drafts[clip.video_id] = await writer.draft(clip)

    await each(clips, draft, at_once=in_flight)
    records = {clip.video_id: record for clip in clips if (record := drafts[clip.video_id]) is not None}
    records = await _challenged(_dealt(records, settings), writer, settings, result)
    kept = []
    for name, record in sorted(records.items()):
        if len(record.mcq_questions) < settings.fewest:
            stand = f"{len(record.mcq_questions)} questions stand"
            result.dropped[name] = f"{stand}, fewer than {settings.fewest}"
        else:
            kept.append(record)
    result.corpus = Corpus(tuple(kept))
    return result


async def _challenged(
    records: Records, writer: Writer, settings: BuildSettings, result: BuildResult
) -> Records:
    """The records after the adversary's rounds: what it solves is written anew, and dropped after the last round."""
    for number in range(settings.rounds + 1):
        corpus = Corpus(tuple(records.values()))
        blind = await asyncio.to_thread(blind_accuracy, corpus, auditors=SIMPLE, seed=settings.seed)
        shares = [value for value in blind.accuracy["all"].values() if value is not None]
        result.rounds.append(max(shares) if shares else None)
        bad = sorted(_guilty(blind, records))
        if not bad or not settings.rounds:
            break
        if number == settings.rounds:
            for video, place in bad:
                category = records[video].mcq_questions[place - 1].category
                result.dropped[f"{video}/{category}"] = "solved without seeing"
            return {
                name: _without(record, {n for v, n in bad if v == name}) for name, record in records.items()
            }
        await asyncio.gather(*(_rewrite(records, video, place, number + 1, writer) for video, place in bad))
        result.rewritten.append(len(bad))
        records = _dealt(records, settings)
    return records


def _guilty(blind: BlindResult, records: Mapping[str, Record]) -> set[tuple[str, int]]:
    """The solved questions of categories in which some auditor is better than chance, Bonferroni over auditors."""
    bad = {
        category
        for category in CATEGORIES
        if any(p is not None and p * len(blind.p[category]) < 0.01 for p in blind.p[category].values())
    }
    solved = solvable(blind, least=2)
    return {(v, n) for v, n in solved if records[v].mcq_questions[n - 1].category in bad}


def _without(record: Record, numbers: set[int]) -> Record:
    kept = tuple(q for n, q in enumerate(record.mcq_questions, start=1) if n not in numbers)
    return msgspec.structs.replace(record, mcq_questions=kept)


def _dealt(records: Mapping[str, Record], settings: BuildSettings) -> Records:
    """The records with their right letters dealt anew, even in every category."""
    generator = np.random.default_rng(settings.seed)
    questions = {name: list(record.mcq_questions) for name, record in sorted(records.items())}
    for category in CATEGORIES:
        mine = [(row, n) for row in questions.values() for n, q in enumerate(row) if q.category == category]
        for (row, n), letter in zip(mine, deal_letters(len(mine), generator), strict=True):
            row[n] = with_letter(row[n], letter, generator)
    return {
        name: msgspec.structs.replace(records[name], mcq_questions=tuple(row))
        for name, row in questions.items()
    }


async def _rewrite(records: Records, video: str, place: int, number: int, writer: Writer) -> None:
    """Have a question written anew; the old one stays where the new one is faulty."""
    record = records[video]
    old = record.mcq_questions[place - 1]
    duration = max(one.end_time for one in record.observations)
    text = json.dumps(
        {"question": old.question, "options": [o.text for o in old.options]}, ensure_ascii=False
    )
    note = (
        "The last version of this question was answered by programs that had not seen the clip. Write it anew so that "
        f"its options are alike in style, length, words and plausibility:\n{quoted(text)}"
    )
    question, complaints = await writer.question(
        record, old.category, duration, note=note, suffix=f".round{number}"
    )
    if question is not None and not complaints:
        row = list(records[video].mcq_questions)
        row[place - 1] = question
        records[video] = msgspec.structs.replace(records[video], mcq_questions=tuple(row))
