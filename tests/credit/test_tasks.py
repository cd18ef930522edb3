"""Questions whose answers are right, whose solutions end in them, and of which it is known what leads where."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import pytest

from noria.core.errors import ConfigError, DataError
from noria.core.models.lm import small_lm
from noria.credit.responses.answers import hashes
from noria.credit.tasks.chains import STEP, chains, labels_of_chain
from noria.credit.tasks.files import read_questions
from noria.credit.tasks.gym import FAMILIES, gym
from noria.credit.tasks.questions import Question, prompt_ids, same


def test_a_chain_s_solution_is_its_question_worked_out() -> None:
    for question in chains(200, seed=3, steps=(1, 4)):
        prompt = str(question.prompt)
        values = {
            letter: int(value)
            for letter, value in re.findall(r"([w-z])(\d)(?=[ ;])", prompt.split(";")[0] + ";")
        }
        moves = re.findall(r"([A-P]) ([w-z])([+-])(\d)", prompt)
        steps = STEP.findall(question.solution)
        assert len(steps) == len(moves)
        for (_, letter, sign, by), step in zip(moves, steps, strict=True):
            after = (values[letter] + (int(by) if sign == "+" else -int(by))) % 10
            assert step == (letter, sign, by, str(values[letter]), str(after))
            values[letter] = after
        span = hashes(question.solution)
        assert span is not None
        assert (
            question.solution[slice(*span)] == question.answer == f"{question.asked}{values[question.asked]}"
        )
        assert question.score(question.answer) == 1
        assert (
            question.score(f"{question.asked}{(values[question.asked] + 1) % 10}")
            == question.score(None)
            == 0
        )


def test_what_a_number_is_for_is_known_from_who_asked() -> None:
    text = "A x+4 x3 = x7; so B y-2 y7 = y5; #### x7"
    labels = labels_of_chain(text, "x")
    assert [text[n] for n, label in enumerate(labels) if label == "relevant"] == ["4", "3", "7"]
    assert [text[n] for n, label in enumerate(labels) if label == "dead"] == ["2", "7", "5"]
    assert [text[n] for n, label in enumerate(labels) if label == "filler"] == ["s", "o"]
    assert set(labels[text.index("####") :]) == {"form"}


def test_questions_are_those_of_their_seed() -> None:
    assert chains(5, seed=1) == chains(5, seed=1) != chains(5, seed=2)


@pytest.mark.parametrize("family", FAMILIES)
def test_worked_solutions_satisfy_reasoning_gym_s_own_verifier(family: str) -> None:
    questions = gym(family, 60, seed=4)
    for question in questions:
        span = hashes(question.solution)
        assert span is not None
        assert question.score(question.solution[slice(*span)]) == 1
        assert question.score("no number") < 1
        for step in re.findall(r"(-?\d+)([-+*])(\d+)=(-?\d+)", question.solution):
            left, sign, right, result = int(step[0]), step[1], int(step[2]), int(step[3])
            assert {"+": left + right, "-": left - right, "*": left * right}[sign] == result


def test_families_without_worked_solutions_can_still_be_verified_and_unknown_ones_are_told() -> None:
    (question,) = gym("gcd", 1, seed=1)
    assert question.solution == ""
    assert question.score(question.answer) == 1
    for family, settings in (("nothing", {}), ("gcd", {"size_of_hat": 3})):
        with pytest.raises(ConfigError, match=f"reasoning-gym {family}"):
            gym(family, 1, seed=1, **settings)


@pytest.mark.parametrize(
    ("given", "answer", "alike"),
    [
        ("7", "7.0", True),
        ("1,234", "1234", True),
        ("x 7", "X7", True),
        ("7", "8", False),
        ("seven", "7", False),
    ],
)
def test_answers_are_compared_as_text_or_numbers(given: str, answer: str, alike: bool) -> None:
    assert same(given, answer) is alike


def write(path: Path, *records: Any) -> str:
    path.write_text("".join(json.dumps(record) + "\n" for record in records))
    return str(path)


def test_questions_come_from_files_as_people_write_them(tmp_path: Path) -> None:
    chat = [{"role": "user", "content": "2+2?"}]
    worked = "Half of 48 is 24, and 48 + 24 is 72 clips in all.\n#### 72"
    file = write(
        tmp_path / "q.jsonl",
        {"prompt": "1+1?", "answer": "2"},
        {"question": "clips?", "answer": worked},
        {"prompt": chat, "answer": 4, "response": "It is 4."},
    )
    plain, gsm, talked = read_questions(file, number=10)
    assert (plain.prompt, plain.answer, plain.given) == ("1+1?", "2", False)
    assert (gsm.answer, gsm.solution, gsm.given) == ("72", worked, True)
    assert (talked.prompt, talked.answer, talked.solution) == (tuple(chat), "4", "It is 4.")
    assert len(read_questions(file, number=2)) == 2
    assert read_questions("chains", number=3, seed=1) == chains(3, seed=1)
    assert read_questions("gym:chain_sum", number=2)[0].task == "chain_sum"


@pytest.mark.parametrize(
    ("record", "told"),
    [
        ({"answer": "2"}, r"q.jsonl:1: no prompt"),
        ({"prompt": "", "answer": "2"}, "no prompt"),
        ({"prompt": "1+1?"}, "no answer"),
        ({"prompt": "1+1?", "answer": True}, "no answer"),
        ({"prompt": "1+1?", "answer": " "}, "no answer"),
        ({"prompt": "1+1?", "answer": [2]}, "no answer"),
        ({"prompt": "1+1?", "answer": float("nan")}, "the answer is nan, which is no number"),
        ({"prompt": "1+1?", "answer": float("inf")}, "the answer is inf, which is no number"),
        ({"prompt": "1+1?", "answer": "2", "response": 7}, r"the response \(or solution\) is not text"),
        ({"prompt": 5, "answer": "2"}, "no prompt"),
        ({"prompt": [{"role": "user", "content": None}], "answer": "2"}, "role or content is not text"),
        ({"prompt": [{"role": "user", "content": [{"type": "text"}]}], "answer": "2"}, "is not text"),
        ({"prompt": [{"role": "user"}], "answer": "2"}, "role or content is not text"),
    ],
)
def test_records_that_are_no_questions_are_told_with_their_line(
    tmp_path: Path, record: Any, told: str
) -> None:
    with pytest.raises(DataError, match=told):
        read_questions(write(tmp_path / "q.jsonl", record), number=1)
    with pytest.raises(DataError, match="no questions"):
        read_questions(write(tmp_path / "empty.jsonl"), number=1)


def test_chats_go_through_the_tokenizer_s_template() -> None:
    _, tokenizer = small_lm()
    (chat,) = (q for q in [chains(1, seed=0)[0]])
    assert prompt_ids(chat, tokenizer) == tokenizer(chat.prompt)["input_ids"]
    talked = type(chat)(({"role": "user", "content": "2+2?"},), "4")
    with pytest.raises(DataError, match="no template"):
        prompt_ids(talked, tokenizer)
    messages = "{% for m in messages %}<{{ m.role }}>{{ m.content }}{% endfor %}"
    tokenizer.chat_template = messages + "{% if add_generation_prompt %}<me>{% endif %}"
    assert tokenizer.decode(prompt_ids(talked, tokenizer)) == "<user>2+2?<me>"
    with pytest.raises(DataError, match="no token"):
        prompt_ids(type(chat)("", "4"), tokenizer)


def read_or_told(path: Path) -> tuple[Question | None, str]:
    """The question in a file, or the error that refuses it; anything else is a fault."""
    try:
        (question,) = read_questions(str(path), number=1)
    except DataError as error:
        return None, str(error)
    return question, ""


VALUES = [None, True, 7, 1.5, float("nan"), "x", "", [1], ["x"], {"a": 1}, [{"role": 1}], [[]], {}, 10**400]


@pytest.mark.parametrize("field", ["prompt", "question", "answer", "response", "solution"])
def test_any_value_of_any_field_is_read_or_refused_with_its_line(tmp_path: Path, field: str) -> None:
    for value in VALUES:
        path = tmp_path / "q.jsonl"
        path.write_text(json.dumps({"prompt": "1+1?", "answer": "2"} | {field: value}) + "\n")
        question, told = read_or_told(path)
        assert question or told.startswith(f"{path}:1: ")
        assert not question or {type(question.answer), type(question.solution)} == {str}


@pytest.mark.parametrize("kind", ["timestamp", "decimal", "binary", "date", "list", "nan", "dictionary"])
def test_any_type_of_a_parquet_column_is_read_or_refused(tmp_path: Path, kind: str) -> None:
    from datetime import date, datetime
    from decimal import Decimal

    import pyarrow as pa
    from pyarrow import parquet

    value: Any = {
        "timestamp": datetime(2026, 1, 2),
        "decimal": Decimal("1.50"),
        "binary": b"\xff",
        "date": date(2026, 1, 2),
        "list": [1],
        "nan": float("nan"),
        "dictionary": "x",
    }[kind]
    column = pa.array([value])
    column = column.dictionary_encode() if kind == "dictionary" else column
    for field in ("prompt", "answer", "response"):
        columns = {"prompt": pa.array(["1+1?"]), "answer": pa.array(["2"])} | {field: column}
        parquet.write_table(pa.table(columns), tmp_path / "q.parquet")
        question, told = read_or_told(tmp_path / "q.parquet")
        assert question or "q.parquet: row 1: " in told
        assert bool(question) == ((field, kind) == ("answer", "decimal") or kind == "dictionary")


def test_a_template_that_refuses_the_messages_is_told() -> None:
    _, tokenizer = small_lm()
    tokenizer.chat_template = "{{ raise_exception('roles must alternate') }}"
    with pytest.raises(DataError, match=r"template refuses the messages .*roles must alternate"):
        prompt_ids(Question(({"role": "user", "content": "x"},), "2"), tokenizer)
