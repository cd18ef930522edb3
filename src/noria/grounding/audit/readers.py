"""The reference ladder: readers with a known blindness, whose scores tell what a score is worth.

None of them sees a clip. `oracle` reads the verified observations: how far words about the clip go without any
training. What it gains over the blind readers on a category is that category's grounding headroom.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np

from noria.grounding.audit.adversary import SIMPLE, BlindResult, blind_accuracy
from noria.grounding.audit.findings import leaked_levels, reader_levels
from noria.grounding.corpus.cues import alike
from noria.grounding.corpus.questions import Place, boxes_in, overlap, spans_in, times_in, traits_in
from noria.grounding.corpus.records import Corpus, Observation, Question, Record, each_question
from noria.grounding.corpus.types import LEVELS, TRAITS
from noria.grounding.scoring.config import ScoreSettings
from noria.grounding.scoring.evaluation import evaluate, scored
from noria.grounding.scoring.predictions import Prediction

Answers = Mapping[tuple[str, int], str]


def ladder(
    corpus: Corpus, blind: BlindResult | None = None, *, seed: int = 0
) -> dict[str, dict[str, Prediction]]:
    """{reader: {video: prediction}}.

    Args:
        corpus: whole records.
        blind: classifiers that were trained already.
        seed: seed of the guesses.
    """
    blind = blind or blind_accuracy(corpus, auditors=SIMPLE)
    generator = np.random.default_rng(seed)
    medium = {r.video_id: dict.fromkeys(TRAITS, "Medium") for r in corpus}
    read_levels = reader_levels(corpus, leaked_levels(corpus))
    read = [{t: LEVELS[n] for t, n in zip(TRAITS, row, strict=True)} for row in read_levels.tolist()]
    leak = dict(zip(corpus.ids, read, strict=True))
    guessed = {r.video_id: {t: LEVELS[int(generator.integers(5))] for t in TRAITS} for r in corpus}

    def each(answer: Callable[[Record, Question], str]) -> dict[tuple[str, int], str]:
        return {(r.video_id, n): answer(r, q) for r, n, q in each_question(corpus)}

    random = each(lambda r, q: q.options[int(generator.integers(len(q.options)))].id)
    letters = Counter(q.correct_answer for _, _, q in each_question(corpus))
    best = letters.most_common(1)[0][0]
    letter = each(lambda r, q: best)
    options = dict(random) | dict(blind.chosen.get("options", {}))
    spoken = each(lambda r, q: _likest(q, r.transcription))
    seen = each(oracle_answer)
    rows: dict[str, tuple[Mapping[str, Mapping[str, str]], Answers]] = {
        "guess": (guessed, random),
        "always Medium, best letter": (medium, letter),
        "leak reader, options only": (leak, options),
        "transcript only": (medium, spoken),
        "oracle of observations": (medium, seen),
    }
    return {name: _said(corpus, levels, answers) for name, (levels, answers) in rows.items()}


def score_ladder(
    corpus: Corpus, blind: BlindResult | None, settings: ScoreSettings, *, seed: int = 0
) -> dict[str, dict[str, Any]]:
    """{reader: all its figures}, as `evaluate` gives them."""
    return {
        name: evaluate(scored(corpus, [answers], settings), settings)
        for name, answers in ladder(corpus, blind, seed=seed).items()
    }


def _said(corpus: Corpus, levels: Mapping[str, Mapping[str, str]], answers: Answers) -> dict[str, Prediction]:
    return {
        r.video_id: Prediction(
            r.video_id,
            levels[r.video_id],
            {},
            {n: answers[r.video_id, n] for n in range(1, len(r.mcq_questions) + 1)},
        )
        for r in corpus
    }


def _likest(question: Question, text: str) -> str:
    return max(question.options, key=lambda option: alike(option.text, text)).id


def oracle_answer(record: Record, question: Question) -> str:
    """What the verified observations say, by overlap of words, times and boxes; untrained."""
    stem = question.question
    spans, times, boxes = spans_in(stem), times_in(stem), boxes_in(stem)

    def score(text: str) -> float:
        if question.category == "Temporal-Spatial Joint Localization":
            when, where = times_in(text), boxes_in(text)
            return max(
                (_near(o, when, where) * alike(stem, o.description) for o in record.observations), default=0.0
            )
        if question.category == "Micro-expression Localization":
            return _interval(record, stem, spans_in(text))
        if question.category == "Spatial Localization Verification":
            return sum(_near(o, times, boxes) * alike(o.description, text) for o in record.observations)
        inside = [o for o in record.observations if not spans or _meets(o, spans[0])]
        likeness = sum(alike(o.description, text) for o in inside)
        for trait in traits_in(text):
            analysis = record.analysis(trait)
            if analysis is not None:
                likeness += sum(alike(o.description, analysis.rationale) for o in inside)
                likeness += 0.5 * (analysis.level.lower() in text.lower())
        return likeness

    return max(question.options, key=lambda option: score(option.text)).id


def _interval(record: Record, stem: str, spans: list[tuple[float, float]]) -> float:
    if not spans:
        return 0.0
    a, b = spans[0]
    total = 0.0
    for trait in traits_in(stem) or set(TRAITS):
        analysis = record.analysis(trait)
        for one in record.observations:
            both = max(0.0, min(b, one.end_time) - max(a, one.start_time)) / max(b - a, 1e-6)
            weight = 1.0 if one.dimension == "Expression" else 0.3
            total += both * weight * (0.1 + (alike(one.description, analysis.rationale) if analysis else 0.0))
    return total


def _near(one: Observation, times: list[float], boxes: list[Place]) -> float:
    """Nearness of an observation to a time and, where there is one, to a box."""
    if not times:
        return 0.0
    if boxes:
        return nearness(one, times[0], boxes[0])
    return float(np.exp(-max(0.0, one.start_time - times[0], times[0] - one.end_time)))


def nearness(one: Observation, when: float, where: Place) -> float:
    """Nearness of an observation to a time and a box: best of IoU · exp(−|Δt|) over its boxes."""
    near = (overlap(b.place, where) * float(np.exp(-abs(b.frame_time - when))) for b in one.bboxes)
    return max(near, default=0.0)


def _meets(one: Observation, span: tuple[float, float]) -> bool:
    return one.start_time < span[1] and one.end_time > span[0]
