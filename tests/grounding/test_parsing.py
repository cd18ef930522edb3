"""Replies of every malformed kind: what can be read is read on its rung, and nothing is guessed."""

from __future__ import annotations

import json
import time

import pytest
from hypothesis import given, settings, strategies as st

from noria.core.chat.reasoning import bare_text
from noria.grounding.asking.parsing import looks_refused, read_reply
from noria.grounding.corpus.types import LETTERS, LEVELS, TRAITS

WHOLE = {
    "task1": {"extraversion": "High", "openness": "Very Low"},
    "task2": {"extraversion": "She smiles at 3s."},
    "task3": [{"q_idx": 1, "answer": "C"}, {"q_idx": 2, "answer": "A"}],
}
TEXT = json.dumps(WHOLE)


@pytest.mark.parametrize(
    ("reply", "rung"),
    [
        (TEXT, 1),
        (f"  \n{TEXT}\n", 1),
        (f"```json\n{TEXT}\n```", 2),
        (f"<think>Perhaps {{ B }} or so.</think>\n{TEXT}", 2),
        (f"the opening tag was eaten </think>{TEXT}", 2),
        (f"Here you are:\n```\n{TEXT}\n```\nGood luck!", 2),
        (f"Sure! {TEXT} Hope that helps {{:", 3),
        (f'First {{"draft": 1}}, then {TEXT}', 3),
        (TEXT[:-2], 4),
        (TEXT.replace('"', "'"), 4),
        (TEXT[:-1] + ",}", 4),
        (f"answer: {TEXT[:-3]}", 4),
        ("Extraversion: High. Openness is very low.\nQ1: C\n2. (A)", 5),
        ("**Answer 1: C**, answer to question 2 is A; extraversion: **High**, Openness - Very Low", 5),
    ],
)
def test_every_rung(reply: str, rung: int) -> None:
    found = read_reply(reply, numbers=[1, 2], traits=True)
    assert found.rung == rung
    assert found.levels == {"extraversion": 3, "openness": 0}
    assert found.answers == {1: "C", 2: "A"}
    assert found.rationales == ({} if rung == 5 else {"extraversion": "She smiles at 3s."})


@pytest.mark.parametrize(
    ("reply", "answers"),
    [
        ('{"task3": ["C", "A"]}', {1: "C", 2: "A"}),
        ('{"task3": {"1": "C", "q2": {"answer": "A"}}}', {1: "C", 2: "A"}),
        ('[{"q_idx": "2", "answer": "(a)"}, {"q_idx": 1, "answer": "C. a smile"}]', {1: "C", 2: "A"}),
        ('{"Task 3": [{"q_idx": 2, "answer": "A"}, {"q_idx": 7, "answer": "B"}]}', {2: "A"}),
        ('{"task3": [{"q_idx": 1, "answer": null}, {"q_idx": 2, "answer": "G"}]}', {}),
        ('{"task3": [{"q_idx": 1, "answer": "none of them"}]}', {}),
        ('{"task3": "C"}', {}),
        ('[{"question": 2, "answer": "A"}]', {2: "A"}),  # the second, though it comes first
        ('[{"number": "Q2", "letter": "A"}, {"number": "Q1", "choice": "C"}]', {1: "C", 2: "A"}),
        ('[{"answer": "C"}, {"answer": "A"}]', {1: "C", 2: "A"}),
        ('[{"answer": "A"}]', {}),  # of two questions: which?
        ('[{"answer": "A"}, {"answer": "C"}, {"answer": "D"}]', {}),
        ('[{"q_idx": 1, "answer": "A"}, {"q_idx": 1, "answer": "B"}, {"q_idx": 2, "answer": "A"}]', {2: "A"}),
        (
            '[{"q_idx": 1, "answer": "C"}, {"q_idx": 1, "answer": "(c)"}, {"q_idx": 2, "answer": "A"}]',
            {1: "C", 2: "A"},
        ),
        ('{"task3": {"first": "C", "second": "A"}}', {}),
        ('{"mood": "A", "weather": "B"}', {}),
        ("Question 1: A or B?\nQ1: A\nQ1: B\nQ2: A", {2: "A"}),
        ("I think A and then C.", {}),
        ("A dog. Because B-movies are fun.", {}),
        ("1. Apples 2. Candles", {}),
        ("", {}),
    ],
)
def test_answers_in_other_shapes(reply: str, answers: dict[int, str]) -> None:
    assert read_reply(reply, numbers=[1, 2]).answers == answers


@pytest.mark.parametrize(
    ("reply", "left"),
    [
        ("a<think>b</think>c", "ac"),
        ("a<think>b</THINK>c<reasoning>d</reasoning>e", "ace"),
        ("a</think>b", "b"),
        ("a</think>b</think>c<think>d", "c"),
        ("a<think>b", "a"),
        ("a<think>b<think>c</think>d", "ad"),
        ("a<think>b</reasoning>c", "a"),
        ("a < think > b", "a < think > b"),
    ],
)
def test_reasoning_is_left_out(reply: str, left: str) -> None:
    assert bare_text(reply) == left


@pytest.mark.parametrize(
    "piece", ["<think>", "[", "{", '{"a": "', "answer 1 is ", "\n1", "```", "{}", "[1,]", '"a" ', "\\ud800"]
)
def test_a_model_that_is_stuck_holds_nobody_up(piece: str) -> None:
    """200,000 characters of one thing over and over take no longer than a request."""
    began = time.process_time()
    assert not read_reply(piece * (199_000 // len(piece)), numbers=[1, 2], traits=True)
    assert time.process_time() - began < 20


@pytest.mark.parametrize(
    "reply",
    [
        '{"answer": "B"}', '{"task3": "B"}', '{"task3": [{"q_idx": 1, "answer": "B"}]}',
        '{"task3": {"q_idx": 4, "answer": "B"}}', '{"task3": {"answer": "B"}}', "The answer is B.", "Answer: **B**",
    ],
)  # fmt: skip
def test_one_question_alone_needs_no_number(reply: str) -> None:
    assert read_reply(reply, numbers=[4]).answers == {4: "B"}
    assert read_reply('{"thought": "B"}', numbers=[4]).answers == {}


def test_levels_in_other_shapes() -> None:
    reply = {"task1": [{"trait": "Openness", "level": "VH"}, {"trait": "courage", "level": "High"}]}
    assert read_reply(json.dumps(reply), traits=True).levels == {"openness": 4}
    flat = {"Extraversion": {"rating": 2}, "openness": "between Low and Medium"}
    found = read_reply(json.dumps(flat), traits=True)
    assert found.levels == {"extraversion": 1}
    assert found.problems


@pytest.mark.parametrize(
    "reply",
    [
        "{" * 100_000,
        '{"task3":' * 50_000,
        "[" * 199_999,
        '{"task3": ' + "9" * 100_000 + "}",
        "x" * 1_000_000,
        '"' * 5000 + "{" * 5000,
        "\0\0\0",
        '{"task3": [{"q_idx": NaN, "answer": Infinity}]}',
        "<think>" + TEXT,
    ],
    ids=["open", "nested", "brackets", "digits", "long", "quotes", "nul", "nan", "never done thinking"],
)
def test_bombs_are_nothing_and_quickly(reply: str) -> None:
    assert not read_reply(reply, numbers=[1, 2], traits=True)


@settings(max_examples=200, deadline=None)
@given(st.text(max_size=300))
def test_no_text_breaks_the_ladder(text: str) -> None:
    found = read_reply(text, numbers=[1, 2], traits=True)
    assert set(found.answers) <= {1, 2}
    assert set(found.answers.values()) <= set(LETTERS)
    assert set(found.levels.values()) <= set(range(5))


@settings(max_examples=100, deadline=None)
@given(
    st.dictionaries(st.sampled_from(TRAITS), st.integers(0, 4)),
    st.dictionaries(st.integers(1, 7), st.sampled_from(LETTERS), min_size=1),
)
def test_what_is_written_is_read(levels: dict[str, int], answers: dict[int, str]) -> None:
    reply = {
        "task1": {t: LEVELS[n] for t, n in levels.items()},
        "task3": [{"q_idx": n, "answer": letter} for n, letter in answers.items()],
    }
    found = read_reply(json.dumps(reply), numbers=range(1, 8), traits=True)
    assert (found.levels, found.answers, found.rung) == (levels, answers, 1)


def test_refusals() -> None:
    assert looks_refused("I'm sorry, but I can't rate people's personality.")
    assert looks_refused("As an AI, I cannot judge a person.")
    assert looks_refused("I will not do that")
    assert not looks_refused("The person looks sorry, and cannot sit still.")
    assert not looks_refused("")
