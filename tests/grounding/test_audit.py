"""What the audit finds: planted faults are found, and a world made without any has none."""

from __future__ import annotations

import functools

import msgspec
import numpy as np
import pytest

from noria.grounding.audit.adversary import BlindResult, blind_accuracy, solvable
from noria.grounding.audit.findings import (
    audit,
    clean_subset,
    leaked_levels,
    letter_balance,
    polarity,
    reader_levels,
)
from noria.grounding.audit.readers import ladder
from noria.grounding.corpus.records import Corpus, Option
from noria.grounding.corpus.types import TRAITS
from noria.grounding.scoring.predictions import marks_of, truth_of
from noria.grounding.scoring.rates import measures
from noria.grounding.synth.config import Knobs
from noria.grounding.synth.world import make_corpus

FAST = ("letter", "length", "options")
HONEST = make_corpus(72, seed=21)[1]
TOLD = make_corpus(72, Knobs(solvable=0.7), seed=21)[1]
LEAKY = make_corpus(72, Knobs(leak=True), seed=21)[1]


@functools.cache
def told_blind() -> BlindResult:
    return blind_accuracy(TOLD, auditors=FAST)


def t1(corpus: Corpus, said: object) -> float:
    found = {r.name: r.value for r in measures(truth_of(corpus), marks_of(corpus, said))}  # type: ignore[arg-type]
    value = found["T1"]
    assert value is not None
    return value


def test_who_does_not_see_is_at_chance_in_an_honest_world_and_not_where_there_is_a_tell() -> None:
    honest, told = blind_accuracy(HONEST, auditors=FAST), told_blind()
    for name in FAST:
        fair, unfair = honest.accuracy["all"][name], told.accuracy["all"][name]
        assert fair is not None
        assert fair == pytest.approx(1 / 6, abs=0.06)
        if name != "letter":
            assert unfair is not None
            assert unfair > 0.6
            assert (told.p["all"][name] or 0) < 1e-9
    assert len(solvable(told, least=2)) > 0.5 * 504
    assert len(solvable(honest, least=2)) < 0.15 * 504


def test_a_source_is_never_in_two_folds() -> None:
    """Three clips of a source share their words, and no two sources do: parted, the third would be known by heart."""
    first = HONEST.records[0]
    clips = []
    for n in range(16):
        for part in range(3):
            question = msgspec.structs.replace(
                first.mcq_questions[0], correct_answer="ABCDEF"[(n + part) % 6]
            )
            texts = [
                f"right{n}" if o.id == question.correct_answer else f"wrong{n}" + "xyzuvw"[k]
                for k, o in enumerate(question.options)
            ]
            options = tuple(Option(o.id, text) for o, text in zip(question.options, texts, strict=True))
            question = msgspec.structs.replace(question, options=options)
            clips.append(
                msgspec.structs.replace(first, video_id=f"s{n}.{part:03d}.mp4", mcq_questions=(question,))
            )
    found = blind_accuracy(Corpus(tuple(clips)), auditors=("options",))
    value = found.accuracy["all"]["options"]
    assert value is not None
    assert value < 0.45


def test_too_few_questions_say_nothing() -> None:
    found = blind_accuracy(Corpus(HONEST.records[:10]), auditors=FAST)
    assert all(value is None for row in found.accuracy.values() for value in row.values())
    assert solvable(found) == set()


def test_leaked_levels_are_read_and_scored() -> None:
    told = leaked_levels(LEAKY)
    said = reader_levels(LEAKY, told)
    assert (said == LEAKY.levels()).mean() > 0.7
    found = audit(LEAKY)["leaks"]
    assert found["pairs_right"] == 1.0
    assert found["T1_of_reading_them"] == pytest.approx((said == LEAKY.levels()).mean())
    quiet = audit(HONEST)["leaks"]
    assert quiet["stems"] == quiet["pairs"] == 0
    assert quiet["T1_of_reading_them"] == pytest.approx(0.2, abs=0.05)


def test_uneven_letters_are_noticed() -> None:
    assert letter_balance(HONEST)["all"]["p"] > 1e-3
    lazy = Corpus(
        tuple(
            msgspec.structs.replace(
                r,
                mcq_questions=tuple(msgspec.structs.replace(q, correct_answer="F") for q in r.mcq_questions),
            )
            for r in HONEST
        )
    )
    found = letter_balance(lazy)["all"]
    assert found["p"] < 1e-12
    assert found["always_best"] == 1.0


def test_a_score_that_goes_with_the_other_four_looks_inverted() -> None:
    generator = np.random.default_rng(0)

    def made(sign: float) -> Corpus:
        records = []
        for record in HONEST:
            mood = generator.normal()
            scores = {t: float(np.clip(0.5 + 0.15 * mood + 0.05 * generator.normal(), 0, 1)) for t in TRAITS}
            scores["neuroticism"] = float(np.clip(0.5 + sign * 0.15 * mood, 0, 1))
            records.append(msgspec.structs.replace(record, original_scores=scores))
        return Corpus(tuple(records))

    assert polarity(made(1.0))["verdict"] == "inverted"
    assert polarity(made(-1.0))["verdict"] == "as_named"
    assert polarity(HONEST)["verdict"] == "unclear"
    assert polarity(Corpus(HONEST.records[:3]))["correlations"] is None


def test_the_clean_part_leaves_out_what_leaks_and_what_is_solved() -> None:
    assert sum(map(len, clean_subset(HONEST, None).values())) == 504
    kept = clean_subset(LEAKY, None)
    numbers = {number for row in kept.values() for number in row}
    assert 5 not in numbers  # every micro-expression stem names a level
    blind = told_blind()
    assert sum(map(len, clean_subset(TOLD, blind).values())) <= 504 - len(solvable(blind))


def test_the_ladder_of_readers() -> None:
    """A guesser at chance, a reader of leaks above every constant, and an oracle whose gain is in what was seen."""
    blind = blind_accuracy(LEAKY, auditors=("options",))
    rungs = ladder(LEAKY, blind)
    assert t1(LEAKY, rungs["guess"]) == pytest.approx(0.2, abs=0.05)
    assert t1(LEAKY, rungs["leak reader, options only"]) > 0.7
    by = {
        name: {r.name: r.value or 0 for r in measures(truth_of(LEAKY), marks_of(LEAKY, rungs[name]))}
        for name in ("oracle of observations", "guess")
    }
    for category in ("Spat", "TSJnt", "Micro"):
        assert by["oracle of observations"][f"T3 {category}"] > 0.8
        assert by["guess"][f"T3 {category}"] < 0.4
