"""Replies as models of many houses write them, each with its right reading: strictly, and leniently.

A row is (reply, strict, lenient); the answers of a row are written `C A -`, a letter a question and `-` for none.
"""

from __future__ import annotations

import json
from typing import Any

import pytest

from noria.grounding.asking.parsing import read_reply
from noria.grounding.corpus.letters import letter_in, letter_of
from noria.grounding.corpus.records import Corpus
from noria.grounding.scoring.predictions import STRICT_RUNG, load_predictions, marks_of
from tests.grounding.conftest import Synth


def t3(*answers: object, first: int = 1) -> str:
    rows = [{"q_idx": n, "answer": a} for n, a in enumerate(answers, start=first)]
    return json.dumps({"task3": rows}, ensure_ascii=False)


CA, BD = t3("C", "A"), t3("B", "D")

TWO = [
    # -- as asked, and in the dress of chat models
    (CA, "C A", "C A"),
    (f"```json\n{CA}\n```", "C A", "C A"),
    (f"Here is my analysis:\n\n```json\n{CA}\n```\n\nLet me know if you need more!", "C A", "C A"),
    (f"Sure! {CA}", "C A", "C A"),
    (f"{CA}\n\n**Note:** ratings are impressions.", "C A", "C A"),
    (f"```\n{CA}\n```<|im_end|>", "C A", "C A"),
    (t3("c", "a"), "C A", "C A"),
    (t3(" C ", "A"), "C A", "C A"),
    ('{"task3": ["C", "A"]}', "C A", "C A"),
    ('{"task3": {"1": "C", "2": "A"}}', "C A", "C A"),
    ('{"Task 3": {"Q1": "C", "Q2": "A"}}', "C A", "C A"),
    ('{"response": {"task3": [{"q_idx": 1, "answer": "C"}, {"q_idx": 2, "answer": "A"}]}}', "C A", "C A"),
    ('{"answers": [{"question_number": 1, "choice": "C"}, {"question_number": 2, "choice": "A"}]}', "C A", "C A"),
    ('{"q_idx": 1, "answer": "C"}\n{"q_idx": 2, "answer": "A"}', "C A", "C A"),
    ('Q1:\n```json\n{"q_idx": 1, "answer": "C"}\n```\nQ2:\n```json\n{"q_idx": 2, "answer": "A"}\n```', "C A", "C A"),
    ('{"task3": [{"q_idx": 1.0, "answer": "C"}, {"q_idx": "2", "answer": "A"}]}', "C A", "C A"),
    # -- reasoning before the answer
    (f"<think>Perhaps {BD}</think>\n\n{CA}", "C A", "C A"),
    (f"[THINK]Perhaps {BD}[/THINK]{CA}", "C A", "C A"),
    (f"<thought>Perhaps {BD}</thought>{CA}", "C A", "C A"),
    (f"◁think▷Perhaps {BD}◁/think▷{CA}", "C A", "C A"),
    (f"<seed:think>Perhaps {BD}</seed:think>{CA}", "C A", "C A"),
    (f"<|begin_of_thought|>{BD}<|end_of_thought|>{CA}", "C A", "C A"),
    (f"<|START_THINKING|>{BD}<|END_THINKING|>{CA}", "C A", "C A"),
    (f"<|channel|>analysis<|message|>{BD}<|end|><|start|>assistant<|channel|>final<|message|>{CA}", "C A", "C A"),
    (f"analysisWe need to answer. Maybe {BD}assistantfinal{CA}", "C A", "C A"),
    (f"Perhaps {BD} then</think>{CA}", "C A", "C A"),
    (f'<think time="3">{BD}</think>{CA}', "C A", "C A"),
    (f"<scratchpad>{BD}</scratchpad><answer>{CA}</answer>", "C A", "C A"),
    (f"<analysis>{BD}</analysis>\n{CA}", "C A", "C A"),
    (f"[Analysis]\nThe hand rises.\n[Answer]\n{CA}", "C A", "C A"),
    (f"<think>{CA}", "- -", "- -"),
    (f"[THINK]{CA}", "- -", "- -"),
    # -- the last word counts
    (f"{BD}\n\nWait, let me correct that:\n\n{CA}", "C A", "C A"),
    (f"```json\n{BD}\n```\nOn a second look:\n```json\n{CA}\n```", "C A", "C A"),
    (f"Draft: {t3('B', 'D')[:-1]}, \"note\": \"a longer first draft, to be corrected\"}} Final: {CA}", "C A", "C A"),
    (f'{CA}\nCorrection: {{"q_idx": 2, "answer": "F"}}', "C F", "C F"),
    (f"{BD} or {CA}", "- -", "- -"),
    (f"{BD}\n{CA}", "- -", "- -"),
    (f"{t3('C', 'D')} or {CA}", "C -", "C -"),
    (f"{CA} Wait, no: {t3('A or C', 'A')}", "- A", "- A"),
    (f'{CA} Correction: {{"task3": [{{"q_idx": 1, "answer": "B"}}, {{"q_id', "- A", "B A"),
    (f"{CA}\nActually, Q1: B.", "- A", "B A"),
    (f"{CA}\nQ1: Option A is a distractor.", "C A", "C A"),
    ('{"task3": [{"q_idx": 1, "answer": "LETTER"}, {"q_idx": 2, "answer": "LETTER"}]}\n' + CA, "C A", "C A"),
    # -- several letters are no answer
    (t3("A, C", "A"), "- A", "- A"),
    (t3("A or B", "A"), "- A", "- A"),
    (t3("A/B", "A"), "- A", "- A"),
    (t3("A and C", "A"), "- A", "- A"),
    (t3("AC", "A"), "- A", "- A"),
    (t3("A B", "A"), "- A", "- A"),
    (t3("C, D, A, B, E, F", "A"), "- A", "- A"),
    (t3("CDABEF", "A"), "- A", "- A"),
    (t3("A-F", "A"), "- A", "- A"),
    (t3(["C", "D"], "A"), "- A", "- A"),
    (t3("C (or D)", "A"), "- A", "- A"),
    (t3("C?", "A"), "- A", "- A"),
    (t3("either A or C", "A"), "- A", "- A"),
    (t3("A. B. C. D. E. F", "A"), "- A", "- A"),
    (t3("A: .6, B: .4", "A"), "- A", "- A"),
    (t3("C或D", "A"), "- A", "- A"),
    (t3("C、D", "A"), "- A", "- A"),
    (t3("C oder D", "A"), "- A", "- A"),
    (t3("C y D", "A"), "- A", "- A"),
    ('{"task3": [{"q_idx": 1, "answer": "C", "answer": "D"}, {"q_idx": 2, "answer": "A"}]}', "- A", "- A"),
    ('{"task3": {"1": "C", "1": "D", "2": "A"}}', "- A", "- A"),
    ('[{"q_idx": 1, "answer": "C"}, {"q_idx": 1, "answer": "D"}, {"q_idx": 2, "answer": "A"}]', "- A", "- A"),
    # -- one letter in some dress: leniently
    (t3("(C)", "A"), "- A", "C A"),
    (t3("C.", "A"), "- A", "C A"),
    (t3("**C**", "A"), "- A", "C A"),
    (t3("Option C", "A"), "- A", "C A"),
    (t3("C: the mouth curves upwards", "A"), "- A", "C A"),
    (t3("C. A hand rises", "A"), "- A", "C A"),
    (t3("C) [1.2s - 2.4s]", "A"), "- A", "C A"),
    (t3("The answer is C", "A"), "- A", "C A"),
    (t3("\\boxed{C}", "A"), "- A", "C A"),
    (t3("$\\text{C}$", "A"), "- A", "C A"),
    (t3("C", "Ａ"), "C -", "C A"),
    (t3("选项C", "答案：A"), "- -", "C A"),
    (t3("Ответ: C", "Réponse : A"), "- -", "C A"),
    (t3(["C"], {"letter": "A"}), "C A", "C A"),
    # -- a word is no letter
    (t3("A person smiles", "E la persona sorride"), "- -", "- -"),
    (t3("a smile", "Because"), "- -", "- -"),
    (t3("not C", "none of them"), "- -", "- -"),
    (t3("C is wrong", "All except A"), "- -", "- -"),
    (t3("G", ""), "- -", "- -"),
    (t3(3, 1), "- -", "- -"),
    (t3(None, True), "- -", "- -"),
    # -- numbers
    (t3("C", "A", first=0), "C A", "C A"),
    ('{"task3": {"0": "C", "1": "A"}}', "C A", "C A"),
    ('[{"q_idx": 0, "answer": "C"}]', "- -", "C -"),
    (t3("C", "A", "B", first=0), "- -", "- -"),
    (t3("C", "A", "B"), "C A", "C A"),
    (t3("C", "A", first=3), "- -", "- -"),
    ('{"task3": [{"answer": "C"}, {"answer": "A"}]}', "C A", "C A"),
    ('{"task3": [{"answer": "C"}]}', "- -", "- -"),
    ('{"task3": ["C", "A", "B"]}', "- -", "- -"),
    # -- cut and broken
    (CA[:-1], "- -", "C A"),
    (CA[:-2], "- -", "C A"),
    (CA[:-4], "- -", "C A"),
    ('{"task3": [{"q_idx": 1, "answer": "C"}, {"q_idx": 2, "answer": "', "- -", "C -"),
    ('[{"q_idx": 1, "answer": "C"}, {"q_idx": 2, "ans', "C -", "C -"),
    (CA.replace('"', "'"), "- -", "C A"),
    (CA.replace("}]", "},]"), "- -", "C A"),
    ("{task3: [{q_idx: 1, answer: 'C'}, {q_idx: 2, answer: 'A'}]}", "- -", "C A"),
    ("{" + CA + "}", "C A", "C A"),
    ('{"task3": "1. C, 2. A"}', "- -", "C A"),
    # -- prose
    ("1. C\n2. A", "- -", "C A"),
    ("1) C\n2) A", "- -", "C A"),
    ("1. C, 2. A", "- -", "C A"),
    ("1-C, 2-A", "- -", "C A"),
    ("Q1: C\nQ2: A", "- -", "C A"),
    ("**Question 1:** C\n**Question 2:** A", "- -", "C A"),
    ("Question 1: (C) a smile\nQuestion 2: (A) a frown", "- -", "C A"),
    ("| 1 | C |\n| 2 | A |", "- -", "C A"),
    ("Question 1\nThe hand rises at 3 s.\nAnswer: C\n\nQuestion 2\nAnswer: A", "- -", "C A"),
    ("### Question 1\n**Answer: C**\nA person smiles.\n### Question 2\n**Answer: A**", "- -", "C A"),
    ("The answer to question 1 is C. The answer to question 2 is A.", "- -", "C A"),
    ("问题1：C\n问题2：A", "- -", "C A"),
    ("第1题：C\n第2题：A", "- -", "C A"),
    ("Frage 1: C\nFrage 2: A", "- -", "C A"),
    ("Q1: C or D\nQ2: A", "- -", "- A"),
    ("Q1: C\nQ1: D\nQ2: A", "- -", "- A"),
    ("Q0: C\nQ1: A", "- -", "C A"),
    ("1. A person smiles.\n2. A hand is raised.", "- -", "- -"),
    ("1. Calm voice 2. Direct gaze", "- -", "- -"),
    ("1: **C**, 2: **A**", "- -", "C A"),
    ("(1) C (2) A", "- -", "C A"),
    ("1. C. The mouth curves.\n2. A. A hand rises.", "- -", "C A"),
    (f"{CA} The answer to question 1 is C because A and B are wrong.", "C A", "C A"),
    ('{"task3": {"answers": ["C", "A"]}}', "C A", "C A"),
    ('{"task3": [["1", "C"], ["2", "A"]]}', "- -", "- -"),
    ("C\nA", "- -", "- -"),
    ("C", "- -", "- -"),
    ("I'm sorry, but I can't assess people's personality.", "- -", "- -"),
    ("抱歉，我无法评价他人的性格。", "- -", "- -"),
    ("", "- -", "- -"),
]  # fmt: skip

ONE = [
    # -- one question alone: prose is rung 5, JSON is strict
    ("B", "-", "B"),
    ("b", "-", "B"),
    ("B.", "-", "B"),
    ("(B)", "-", "B"),
    ("**B**", "-", "B"),
    ("B) [1.2s - 2.4s]", "-", "B"),
    ("B. The person smiles.", "-", "B"),
    ("B: A hand rises at 3 s.", "-", "B"),
    ("Answer: B", "-", "B"),
    ("**Answer:** B", "-", "B"),
    ("Answer: B because the hand rises and A does not fit.", "-", "B"),
    ("The answer is (B).", "-", "B"),
    ("The correct option is **B**.", "-", "B"),
    ("Final Answer: B", "-", "B"),
    ("### Final Answer\n\n\\boxed{B}", "-", "B"),
    ("So $\\boxed{\\text{B}}$", "-", "B"),
    ("<think>A? No.</think>B", "-", "B"),
    ("<think>A? No.</think>\n\n<answer>B</answer>", "-", "B"),
    ("<|begin_of_box|>B<|end_of_box|>", "-", "B"),
    ("[THINK]A? No.[/THINK]B", "-", "B"),
    ("Option A shows a smile. Option C is too late.\n\nB", "-", "B"),
    ("I first thought of A.\nFinal answer: B", "-", "B"),
    ("答案是B。", "-", "B"),
    ("正确答案：B", "-", "B"),
    ("选B", "-", "B"),
    ("正解はBです", "-", "B"),
    ("정답: B", "-", "B"),
    ("Ответ: B", "-", "B"),
    ("La respuesta correcta es B.", "-", "B"),
    ("La bonne réponse est B.", "-", "B"),
    ("Die richtige Antwort ist B.", "-", "B"),
    ('{"answer": "B"}', "B", "B"),
    ('```json\n{"answer": "B"}\n```', "B", "B"),
    ('{"q_idx": 4, "answer": "B"}', "B", "B"),
    ('{"q_idx": 1, "answer": "B"}', "B", "B"),
    ('{"task3": [{"q_idx": 0, "answer": "B"}]}', "B", "B"),
    ('{"answer": "(B)"}', "-", "B"),
    ('{"answer": "A"} Correction: {"answer": "B"}', "B", "B"),
    ('{"answer": "A"} or {"answer": "B"}', "-", "-"),
    ('{"answer": "A"}\nSorry, the answer is B.', "-", "B"),
    ("I choose B.", "-", "B"),
    ("Answer is B, not A.", "-", "B"),
    ("B rather than C", "-", "B"),
    ("'B'", "-", "B"),
    ("1. B", "-", "B"),
    ("Answer: **B**\n\nExplanation: in option A, the hand stays; option C is too late.", "-", "B"),
    ("Answer: A or B", "-", "-"),
    ("Answer: A, B", "-", "-"),
    ("A or B", "-", "-"),
    ("A, B, C, D, E, F", "-", "-"),
    ("B, A, C, D, E, F", "-", "-"),
    ("\\boxed{A} or \\boxed{B}", "-", "-"),
    ("\\boxed{A, B}", "-", "-"),
    ("The answer is A. Wait, the answer is B.", "-", "-"),
    ("The answer is A. No, the answer is B.", "-", "B"),
    ("A person smiles", "-", "-"),
    ("A person smiles at the camera, then looks away.", "-", "-"),
    ("Answer: A person smiles", "-", "-"),
    ("The answer is a smile.", "-", "-"),
    ("Both A and B", "-", "-"),
    ("Not A", "-", "-"),
    ("It cannot be told.", "-", "-"),
    ("<think>B", "-", "-"),
    ("", "-", "-"),
]  # fmt: skip


def answers(row: str, numbers: list[int]) -> dict[int, str]:
    return {n: letter for n, letter in zip(numbers, row.split(), strict=True) if letter != "-"}


@pytest.mark.parametrize(("reply", "strict", "lenient"), TWO)
def test_two_questions(reply: str, strict: str, lenient: str) -> None:
    found = read_reply(reply, numbers=[1, 2])
    assert found.answers == answers(lenient, [1, 2])
    held = {n: letter for n, letter in found.answers.items() if found.rungs[n] <= STRICT_RUNG}
    assert held == answers(strict, [1, 2])


@pytest.mark.parametrize(("reply", "strict", "lenient"), ONE)
def test_one_question(reply: str, strict: str, lenient: str) -> None:
    found = read_reply(reply, numbers=[4])
    assert found.answers == answers(lenient, [4])
    assert {n: x for n, x in found.answers.items() if found.rungs[n] <= STRICT_RUNG} == answers(strict, [4])


@pytest.mark.parametrize(
    ("task1", "levels"),
    [
        ({"openness": "High", "neuroticism": "Low"}, {"openness": 3, "neuroticism": 1}),
        ({"openness": 4, "neuroticism": 2}, {"openness": 3, "neuroticism": 1}),
        ({"openness": 4, "neuroticism": 0}, {}),  # from 0 to 4
        ({"openness": 4, "neuroticism": 8}, {}),  # from 1 to 10
        ({"openness": "High", "neuroticism": 0}, {"openness": 3}),
        ({"openness": "Low or Medium", "neuroticism": "Low"}, {"neuroticism": 1}),
        ({"openness": "High/Very High", "neuroticism": "Low-Medium"}, {}),
        ({"Openness": "High", "openness": "Low", "neuroticism": "Low"}, {"neuroticism": 1}),
        ({"openness": ["High"], "neuroticism": {"level": "Low", "why": "calm"}}, {"neuroticism": 1}),
        ({"openness": None, "neuroticism": True}, {}),
    ],
)
def test_levels(task1: dict[str, Any], levels: dict[str, int]) -> None:
    assert read_reply(json.dumps({"task1": task1}), traits=True).levels == levels


def test_levels_in_prose_that_name_two() -> None:
    found = read_reply(
        "Openness: High or Medium. Neuroticism: **Low**. Extraversion: low-to-medium", traits=True
    )
    assert found.levels == {"neuroticism": 1}


def test_parts_of_a_reply_in_blocks_of_their_own_are_read_together() -> None:
    one, two = '{"task1": {"openness": "High"}}', '{"task2": {"openness": "She looks around."}}'
    reply = f"Task 1\n```json\n{one}\n```\nTask 2\n```json\n{two}\n```\nTask 3\n```json\n{CA}\n```"
    found = read_reply(reply, numbers=[1, 2], traits=True)
    assert (found.levels, found.rationales, found.answers) == (
        {"openness": 3},
        {"openness": "She looks around."},
        {1: "C", 2: "A"},
    )


def test_tags_of_ones_own() -> None:
    assert read_reply(f"<musing>{BD} so {CA}</musing>", numbers=[1, 2], tags=["musing"]).answers == {}
    assert read_reply(f"<musing>{BD} so {CA}</musing>", numbers=[1, 2]).answers == {1: "C", 2: "A"}


def test_a_follow_up_about_some_questions() -> None:
    assert read_reply(t3("C", "A", first=3), numbers=[3, 4]).answers == {3: "C", 4: "A"}
    assert read_reply(t3("C", "A", first=2), numbers=[3, 4]).answers == {3: "C", 4: "A"}
    assert read_reply(t3("B", "C", "A", first=2), numbers=[3, 4]).answers == {3: "C", 4: "A"}


def test_files_are_read_by_the_same_rules(synth: Synth, tmp_path: Any) -> None:
    """A line's answers strictly and leniently; zero-based, given twice and hedged ones as in a reply."""
    (record,) = corpus = Corpus(synth.corpus.records[:1])

    def read(rows: list[Any], *, lenient: bool) -> str:
        line = {"video_id": record.video_id, "task3": rows}
        (tmp_path / "p.jsonl").write_text(json.dumps(line) + "\n")
        marks = marks_of(corpus, load_predictions(tmp_path / "p.jsonl"), lenient=lenient)
        return "".join("ABCDEF-"[n] for n in marks.answers.tolist())

    def rows(text: str, first: int) -> list[Any]:
        return [{"q_idx": n, "answer": letter} for n, letter in enumerate(text, start=first)]

    for lenient in (False, True):
        assert read(rows("ABCDEFA", 1), lenient=lenient) == "ABCDEFA"
        assert read(rows("ABCDEFA", 0), lenient=lenient) == "ABCDEFA"
        assert read(rows("ABCDEFAB", 0), lenient=lenient) == "-" * 7
        assert read(list("ABCDEFA"), lenient=lenient) == "ABCDEFA"
        assert read([*rows("ABCDEFA", 1), *rows("B", 1)], lenient=lenient) == "-BCDEFA"
        assert (
            read([{"q_idx": 1, "answer": "A, C"}, {"q_idx": 2, "answer": ["A", "B"]}], lenient=lenient)
            == "-" * 7
        )
    assert read(rows("ABC", 0), lenient=False) == "-" * 7
    assert read(rows("ABC", 0), lenient=True) == "ABC----"
    assert read([{"q_idx": 1, "answer": "(C)"}], lenient=False) == "-" * 7
    assert read([{"q_idx": 1, "answer": "(C)"}], lenient=True) == "C------"


def test_letters_by_hand() -> None:
    assert [letter_of(x) for x in ("C", "c ", "C.", "CD", 3, None)] == ["C", "C", None, None, None, None]
    assert letter_in("Looking closely: the hand rises.\n\n**B**") == "B"
