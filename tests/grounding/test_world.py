"""SynthOCEAN: what is shown causes what is rated, and only seeing answers."""

from __future__ import annotations

from collections import Counter
from pathlib import Path

import numpy as np
import pytest

from noria.grounding.corpus.clips import sample_frames
from noria.grounding.corpus.questions import levels_in, moves_in
from noria.grounding.corpus.types import CATEGORIES, LETTERS, TRAITS
from noria.grounding.synth.config import Knobs
from noria.grounding.synth.drawing import draw, frame_times, render, sound
from noria.grounding.synth.world import BEHAVIOURS, FACE, PAIRS, SEGMENTS, VOICES, make_corpus, record_of
from tests.grounding.conftest import SMALL

SCENES, CORPUS = make_corpus(1200, seed=11)


def chi_square(counts: list[int]) -> float:
    """Per degree of freedom, against equal shares."""
    mean = sum(counts) / len(counts)
    return sum((c - mean) ** 2 / mean for c in counts) / (len(counts) - 1)


def test_levels_are_caused_by_what_is_shown() -> None:
    for scene in SCENES[:200]:
        for trait in range(5):
            signs = [BEHAVIOURS[b].sign for b in scene.behaviours if BEHAVIOURS[b].trait == trait]
            assert signs, "every trait has evidence"
            assert scene.levels[trait] == 2 + sum(signs)
        assert len(scene.behaviours) == SEGMENTS


def test_levels_and_letters_are_uniform() -> None:
    levels = np.array([scene.levels for scene in SCENES])
    for trait in range(5):
        assert chi_square(np.bincount(levels[:, trait], minlength=5).tolist()) < 3
    for category in CATEGORIES:
        letters = Counter(q.correct_answer for r in CORPUS for q in r.mcq_questions if q.category == category)
        assert chi_square([letters[letter] for letter in LETTERS]) < 3
    assert len(SCENES) == 1200
    sources = Counter(CORPUS.sources)
    assert set(sources.values()) == {1, 2}


def test_options_are_as_long_as_each_other() -> None:
    """So that no length gives an answer away; the words of the world are made for it."""
    assert len({len(b.words) for b in BEHAVIOURS}) == len({len(b.feeling) for b in BEHAVIOURS}) == 1
    assert len({len(words) for words, _ in VOICES}) == len({len(feeling) for _, feeling in VOICES}) == 1
    for record in CORPUS.records[:100]:
        for question in record.mcq_questions:
            assert len({len(option.text) for option in question.options}) == 1, question.category
            assert len({option.text for option in question.options}) == 6


def test_the_right_option_is_the_one_that_is_shown() -> None:
    """Re-derived from the observations, which are the scene itself."""
    for scene, record in zip(SCENES[:150], CORPUS, strict=False):
        by = {q.category: q for q in record.mcq_questions}
        spatial = by["Spatial Localization Verification"]
        segment = int(float(spatial.question.split("around ")[1].split("s")[0]) / 1.2)
        assert spatial.correct is not None
        assert spatial.correct.text == BEHAVIOURS[scene.behaviours[segment]].words
        chain = by["Temporal-Causal Reasoning"].correct
        assert chain is not None
        told = (
            [part.split(" ", 1)[1] for part in chain.text.split(", ")] if chain.text.count(",") == 2 else None
        )
        if told is not None:
            words = [BEHAVIOURS[b].words for b in scene.behaviours]
            places = [words.index(w) for w in told]
            assert places == sorted(places)
        micro = by["Micro-expression Localization"]
        trait = next(t for t in range(5) if TRAITS[t].capitalize() in micro.question)
        for option in micro.options:
            at = round(float(option.text[1:5]) / 1.2)
            assert (BEHAVIOURS[scene.behaviours[at]].trait == trait) == (option.id == micro.correct_answer)


def test_opposites_lie_side_by_side() -> None:
    assert len(PAIRS) == 6
    for up, down in PAIRS:
        assert (up.sign, down.sign) == (1, -1)
        assert up.trait == down.trait
    assert len(FACE) == 6


def test_the_same_seed_is_the_same_world_at_any_size() -> None:
    again, records = make_corpus(20, Knobs(width=64, height=48, fps=5), seed=11)
    assert again == SCENES[:20]
    assert records.records == CORPUS.records[:20]
    assert make_corpus(20, seed=12)[0] != again


# -- the knobs --------------------------------------------------------------------------------------------------------


def test_the_confounder_is_as_strong_as_told() -> None:
    for strength in (0.0, 0.5, 0.9):
        scenes, _ = make_corpus(800, Knobs(confounder=strength), seed=1)
        same = np.mean([np.array(s.stripes) == np.array(s.levels) for s in scenes])
        assert same == pytest.approx(strength + (1 - strength) / 5, abs=0.03)


def test_the_leak_names_true_levels_and_is_off_by_default() -> None:
    _, leaky = make_corpus(100, Knobs(leak=True), seed=1)
    found = 0
    for record, levels in zip(leaky, leaky.levels(), strict=True):
        for question in record.mcq_questions:
            for text in (question.question, *(o.text for o in question.options)):
                for trait, level in {**levels_in(text), **moves_in(text)}.items():
                    assert levels[TRAITS.index(trait)] == level
                    found += 1
    assert found > 300
    for record in CORPUS.records[:100]:
        for question in record.mcq_questions:
            assert not any(
                levels_in(t) or moves_in(t) for t in (question.question, *(o.text for o in question.options))
            )


def test_a_tell_marks_the_right_option_and_noise_moves_levels() -> None:
    _, told = make_corpus(60, Knobs(solvable=1.0), seed=1)
    for record in told:
        for question in record.mcq_questions:
            longest = max(question.options, key=lambda o: len(o.text))
            assert longest.id == question.correct_answer
    scenes, _ = make_corpus(400, Knobs(label_noise=0.3), seed=1)
    off = [
        scene.levels[t] - 2 - sum(BEHAVIOURS[b].sign for b in scene.behaviours if BEHAVIOURS[b].trait == t)
        for scene in scenes
        for t in range(5)
    ]
    assert set(off) == {-1, 0, 1}
    assert np.mean(np.array(off) != 0) == pytest.approx(0.3, abs=0.03)


def test_invisible_behaviour_leaves_no_trace() -> None:
    scene = SCENES[0]
    hidden = draw(scene, Knobs(visibility=0.0, width=64, height=48), np.array([0.6, 0.61]))
    shown = draw(scene, Knobs(width=64, height=48), np.array([0.6, 0.61]))
    still = scene.__class__(**{**vars(scene), "behaviours": (11 - scene.behaviours[0],) * SEGMENTS})
    other = draw(still, Knobs(visibility=0.0, width=64, height=48), np.array([0.6, 0.61]))
    assert (hidden == other).all()
    assert (hidden != shown).any()


# -- pictures and sound -----------------------------------------------------------------------------------------------


def test_a_clip_on_disk_shows_what_was_drawn(tmp_path: Path) -> None:
    """Real H.264: decoded frames are the drawn ones but for the coder's loss."""
    scene = SCENES[3]
    render(scene, SMALL, tmp_path / "clip.mp4")
    found = sample_frames(tmp_path / "clip.mp4", 20)
    times = frame_times(SMALL)
    drawn = draw(scene, SMALL)
    nearest = [int(np.searchsorted(times, t + 1e-6) - 1) for t in found.seconds]
    error = np.abs(found.pixels.astype(int) - drawn[nearest]).mean()
    assert found.duration == pytest.approx(12.0, abs=0.05)
    assert error < 6
    wrong = np.abs(found.pixels.astype(int) - drawn[nearest[::-1]]).mean()
    assert wrong > 2 * error


def test_the_voice_says_its_state() -> None:
    scene = SCENES[0]
    wave = sound(scene)
    assert wave.shape == (192_000,)
    power = np.array([np.abs(part).mean() for part in np.split(wave, SEGMENTS)])
    loud = {v: [p for p, w in zip(power, scene.voices, strict=True) if w == v] for v in range(4)}
    if loud[0] and loud[1]:
        assert min(loud[0]) > 2 * max(loud[1])


def test_records_do_not_depend_on_the_knobs_of_the_picture() -> None:
    record = record_of(SCENES[0], Knobs(), np.random.default_rng(0))
    same = record_of(SCENES[0], Knobs(width=320, height=240), np.random.default_rng(0))
    assert record == same
