"""Reading, checking and counting records; the released scorer's definitions beside the strict ones."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from noria.core.errors import DataError
from noria.grounding.corpus.checks import check, statistics
from noria.grounding.corpus.files import load_corpus, load_keys, save_corpus
from noria.grounding.corpus.questions import boxes_in, levels_in, moves_in, spans_in, times_in, traits_in
from noria.grounding.corpus.records import Corpus
from noria.grounding.corpus.types import CATEGORIES, LEVELS, TRAITS
from noria.grounding.scoring.official import read_lines, read_truth, score_official
from noria.grounding.scoring.predictions import (
    Prediction,
    letter_of,
    load_predictions,
    marks_of,
    save_predictions,
    truth_of,
)
from noria.grounding.scoring.rates import measures, passes, rates
from tests.grounding.conftest import Synth


def edited(synth: Synth, folder: Path, change: Any) -> Corpus:
    """The first record with a change, on its own."""
    name = synth.corpus.ids[0]
    record = json.loads((synth.annotations / f"{name}.json").read_bytes())
    change(record)
    folder.mkdir(exist_ok=True)
    (folder / f"{name}.json").write_text(json.dumps(record))
    return load_corpus(folder)


# -- reading ----------------------------------------------------------------------------------------------------------


def test_records_come_back_as_they_were(synth: Synth, tmp_path: Path) -> None:
    read = load_corpus(synth.annotations)
    assert read.records == tuple(sorted(synth.corpus.records, key=lambda r: r.video_id))
    save_corpus(read, tmp_path / "data" / "test")
    assert load_corpus(tmp_path).records == read.records  # a checkout of the release is found, too
    keys = load_keys(synth.annotations)
    assert keys.ids == read.ids
    assert keys.records[0].mcq_questions == read.records[0].mcq_questions


@pytest.mark.parametrize(
    ("raw", "told"),
    [
        (b"", "truncated"),
        (b"[]", "Expected `object`"),
        (b'{"video_id": 3}', "Expected `str`"),
        (b'{"video_id": "a"}', "missing required field"),
        (b"\xff\xfe", "not a record"),
        (b'{"a":' * 20_000, "not a record"),
    ],
)
def test_a_file_that_is_no_record_is_named(tmp_path: Path, raw: bytes, told: str) -> None:
    (tmp_path / "bad.json").write_bytes(raw)
    with pytest.raises(DataError, match=told) as caught:
        load_corpus(tmp_path)
    assert "bad.json" in str(caught.value)


def test_folders_without_records_and_twins_are_refused(synth: Synth, tmp_path: Path) -> None:
    with pytest.raises(DataError, match="no annotations"):
        load_corpus(tmp_path)
    with pytest.raises(DataError, match="cannot be read"):
        load_corpus(tmp_path / "none")
    for name in ("a.json", "b.json"):
        raw = (synth.annotations / f"{synth.corpus.ids[0]}.json").read_bytes()
        (tmp_path / name).write_bytes(raw)
    with pytest.raises(DataError, match=r"a\.json, too"):
        load_corpus(tmp_path)


@pytest.mark.parametrize("name", ["../out", "/etc/x", "a/../../b"])
def test_an_id_that_leaves_its_folder_is_not_written(synth: Synth, tmp_path: Path, name: str) -> None:
    import msgspec

    record = msgspec.structs.replace(synth.corpus.records[0], video_id=name)
    with pytest.raises(DataError, match="stay inside"):
        save_corpus(Corpus((record,)), tmp_path / "here")


# -- checking ---------------------------------------------------------------------------------------------------------


def set_score(record: Any, value: float) -> None:
    record["original_scores"]["openness"] = value


def swap_options(record: Any) -> None:
    options = record["mcq_questions"][0]["options"]
    options[4], options[5] = options[5], options[4]


def contradict(record: Any) -> None:
    scores = record["original_scores"]
    scores["extraversion"] = 0.05 if scores["extraversion"] > 0.5 else 0.95


def repeat_option(record: Any) -> None:
    options = record["mcq_questions"][0]["options"]
    options[1]["text"] = options[0]["text"]


CHANGES: list[tuple[Any, str, bool]] = [
    (lambda r: set_score(r, 1.2), "score_range", True),
    (lambda r: r["original_scores"].pop("openness"), "no_score", True),
    (lambda r: r["original_scores"].update(courage=0.2), "unknown_trait", False),
    (lambda r: r["observations"][0].update(dimension="Smell"), "unknown_dimension", False),
    (lambda r: r["observations"][0].update(start_time=5.0, end_time=2.0), "time_order", False),
    (lambda r: r["observations"][0]["bboxes"][0].update(x=0.95), "box_range", False),
    (lambda r: r["observations"][0]["bboxes"][0].update(frame_time=9.0), "box_time", False),
    (lambda r: r["personality_analyses"].pop(), "analysis_count", False),
    (lambda r: r["personality_analyses"][0].update(level="Tall"), "unknown_level", False),
    (contradict, "level_disagrees", False),
    (lambda r: r["personality_analyses"][0].update(evidence=[99]), "evidence_range", False),
    (lambda r: r.update(mcq_questions=[]), "no_questions", True),
    (lambda r: r["mcq_questions"].append(r["mcq_questions"][0]), "category_twice", False),
    (lambda r: r["mcq_questions"][0].update(category="Riddles"), "unknown_category", False),
    (lambda r: r["mcq_questions"][0]["options"].pop(0), "option_ids", True),
    (swap_options, "option_order", False),
    (lambda r: r["mcq_questions"][0].update(correct_answer="G"), "no_answer", True),
    (lambda r: r["mcq_questions"][0].update(question="During 40.0s - 90.0s, what?"), "question_time", False),
    (lambda r: r["mcq_questions"][0].update(question="At x=0.9, y=0.1, w=0.3, h=0.1?"), "question_box", False),
    (repeat_option, "same_options", True),
]  # fmt: skip


@pytest.mark.parametrize(("change", "kind", "grave"), CHANGES, ids=[kind for _, kind, _ in CHANGES])
def test_every_fault_is_found(synth: Synth, tmp_path: Path, change: Any, kind: str, grave: bool) -> None:
    problems = check(edited(synth, tmp_path, change))
    assert (kind, grave) in {(p.kind, p.grave) for p in problems}


def test_what_we_make_has_no_fault(synth: Synth) -> None:
    assert check(load_corpus(synth.annotations)) == []


def test_statistics_count(synth: Synth) -> None:
    found = statistics(synth.corpus)
    assert found["videos"] == 6
    assert found["questions"] == 42
    assert found["questions_by_category"] == dict.fromkeys(CATEGORIES, 6)
    assert found["observations_by_dimension"]["Audio"] == 60
    assert sum(found["levels"].values()) == pytest.approx(1)


def test_polarity_turns_neuroticism_alone(synth: Synth) -> None:
    plain, turned = synth.corpus.levels(), synth.corpus.levels(polarity="flipped")
    assert (plain[:, [0, 1, 2, 4]] == turned[:, [0, 1, 2, 4]]).all()
    assert (plain[:, 3] + turned[:, 3] == 4).all()


# -- words of questions -----------------------------------------------------------------------------------------------


def test_what_stems_hold() -> None:
    """Shapes of the released stems, in words of ours."""
    stem = "Around 4.9s a region (x=0.137, y=0.045, w=0.262, h=0.476) was found. What is in it?"
    assert boxes_in(stem) == [(0.137, 0.045, 0.262, 0.476)]
    assert times_in(stem) == [4.9]
    assert spans_in("During 11.6s - 14.8s, and [2s – 3.5s]") == [(11.6, 14.8), (2.0, 3.5)]
    assert levels_in("relevant to their Very High Neuroticism level and low openness") == {
        "neuroticism": 4,
        "openness": 1,
    }
    assert moves_in("Openness would shift from High to Medium.") == {"openness": 3}
    assert traits_in("Her openness, not Extraversion") == {"openness", "extraversion"}


@pytest.mark.parametrize(
    ("given", "strict", "lenient"),
    [
        ("C", "C", "C"), (" c ", "C", "C"), ("(C)", None, "C"), ("C.", None, "C"), ("**C**", None, "C"),
        ("Option C", None, "C"), ("The correct answer is C", None, "C"), ("C) a smile", None, "C"),
        ("A smile", None, None), ("G", None, None), ("", None, None), (None, None, None), (3, None, None),
        ("AB", None, None), ("answer: F.", None, "F"), ("C" * 3000, None, None),
    ],
)  # fmt: skip
def test_letters_in_any_dress(given: object, strict: str | None, lenient: str | None) -> None:
    assert letter_of(given) == strict
    assert letter_of(given, lenient=True) == lenient


# -- predictions ------------------------------------------------------------------------------------------------------


def perfect(corpus: Corpus) -> dict[str, Prediction]:
    found = {}
    for record, levels in zip(corpus, corpus.levels("official"), strict=True):
        found[record.video_id] = Prediction(
            record.video_id,
            {t: LEVELS[n] for t, n in zip(TRAITS, levels, strict=True)},
            dict.fromkeys(TRAITS, "because"),
            {n: q.correct_answer for n, q in enumerate(record.mcq_questions, start=1)},
            {
                t: dict.fromkeys(
                    ("evidence_coverage", "logical_coherence", "grounding_accuracy", "directional_accuracy"),
                    8,
                )
                for t in TRAITS
            },
        )
    return found


def test_predictions_come_back_and_score_perfectly(synth: Synth, tmp_path: Path) -> None:
    said = perfect(synth.corpus)
    save_predictions(tmp_path / "p.jsonl", said.values())
    assert load_predictions(tmp_path / "p.jsonl") == said
    truth, marks = truth_of(synth.corpus, "official"), marks_of(synth.corpus, said)
    by = {r.name: r.value for r in [*measures(truth, marks), *rates(passes(truth, marks))]}
    assert (by["T1"], by["MAE"], by["T2"], by["T3"], by["PR"], by["CR"], by["IR"], by["HR"]) == (
        1,
        0,
        8,
        1,
        0,
        0,
        0,
        1,
    )
    official = score_official(read_truth(synth.annotations), read_lines(tmp_path / "p.jsonl"))
    assert (official["task1_accuracy"], official["task3_accuracy"], official["HR"]) == (100.0, 100.0, 100.0)


@pytest.mark.parametrize(
    ("line", "told"),
    [
        ("{broken", "not JSON"),
        ('{"task1": {}}', "no video_id"),
        ('{"video_id": "a", "task3": {}}', "task3 is no list"),
        ('{"video_id": "a"}\n{"video_id": "a"}', "twice"),
        ("", "no predictions"),
        ('{"video_id": "a", "task1": 3}', "task1"),
    ],
)
def test_strict_reading_refuses_what_the_released_scorer_skips(tmp_path: Path, line: str, told: str) -> None:
    (tmp_path / "p.jsonl").write_text(line + "\n")
    with pytest.raises(DataError, match=told):
        load_predictions(tmp_path / "p.jsonl")


def test_where_strict_and_official_part(synth: Synth, tmp_path: Path) -> None:
    """Each documented difference, one by one, on predictions that are else perfect."""
    said = perfect(synth.corpus)
    first, second = synth.corpus.ids[:2]
    del said[first]
    said[second] = replace(said[second], levels={"extraversion": said[second].levels["extraversion"]})
    save_predictions(tmp_path / "p.jsonl", said.values())
    text = (tmp_path / "p.jsonl").read_text() + "{broken\n" + json.dumps({"video_id": "elsewhere"}) + "\n"
    (tmp_path / "q.jsonl").write_text(text)
    official = score_official(read_truth(synth.annotations), read_lines(tmp_path / "q.jsonl"))
    truth, marks = truth_of(synth.corpus, "official"), marks_of(synth.corpus, said)
    strict = {r.name: r.value for r in measures(truth, marks)}
    assert official["task1_accuracy"] == 100.0  # silence leaves the denominator
    assert strict["T1"] == pytest.approx((4 * 5 + 1) / 30)
    assert official["task3_accuracy"] == 100.0
    assert strict["T3"] == pytest.approx(5 / 6)
    assert official["HR"] == 80.0
    (tmp_path / "r.jsonl").write_text(
        json.dumps({"video_id": first, "task3": [{"q_idx": 1, "answer": None}]}) + "\n"
    )
    with pytest.raises(DataError, match="ends the released scorer"):
        score_official(read_truth(synth.annotations), read_lines(tmp_path / "r.jsonl"))
    assert marks_of(synth.corpus, load_predictions(tmp_path / "r.jsonl")).answers[0] == -1


def test_lenient_answers_count_in_lenient_scores_only(synth: Synth, tmp_path: Path) -> None:
    """Question by question: what was read strictly beside it stays, in the file, too."""
    name = synth.corpus.ids[0]
    whole = perfect(synth.corpus)[name]
    said = replace(whole, answer_rungs={2: 5}, level_rungs=dict.fromkeys(whole.levels, 4))
    save_predictions(tmp_path / "p.jsonl", [said])
    (line,) = (tmp_path / "p.jsonl").read_text().splitlines()
    assert json.loads(line)["parse"]["task1"] == 4
    assert load_predictions(tmp_path / "p.jsonl") == {name: said}
    strict, lenient = (marks_of(synth.corpus, {name: said}, lenient=flag) for flag in (False, True))
    assert (strict.levels[0] == -1).all()
    assert (lenient.levels[0] >= 0).all()
    assert (strict.answers[:7] >= 0).tolist() == [True, False, True, True, True, True, True]
    assert (lenient.answers[:7] >= 0).all()
    assert (strict.answers[7:] == -1).all()
