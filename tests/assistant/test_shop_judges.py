"""The shop's judges: better than guessing, not of one mind, asked as any judge is, silent on what is not theirs."""

from __future__ import annotations

import asyncio
import json

import numpy as np

from noria.assistant.world.judges.labels import drawn
from noria.assistant.world.judges.model import (
    EACH,
    LABELS,
    NAMES,
    QUESTIONS,
    WEIGHTS,
    Case,
    judged_score,
    load_judges,
)
from noria.assistant.world.judges.server import JudgeServer, read_case
from noria.core.chat import Answer, ChatRequest, Message, Text
from noria.core.completions.requests import CompletionRequest
from noria.core.judging import Checklist, Item
from noria.core.judging.judges import ChatJudge
from noria.core.judging.live import request_subject
from noria.core.records import json_records
from noria.skills.judging.judges import ChatBodyJudge
from noria.skills.judging.rubric import Rubric
from noria.skills.traffic.samples import Response, Sample

CHECKLIST = Checklist(tuple(Item(name, words, weight=WEIGHTS[name]) for name, words in QUESTIONS.items()))
REQUEST = "is teddy bear in stock, thank you"
PRICED, SILENT = "Teddy bear costs 7.25 EUR.", "Teddy bear fits your words."


class Served:
    """A chat model that is a judge of the server."""

    def __init__(self, name: str) -> None:
        self.server, self.name = JudgeServer(), name

    async def ask(self, request: ChatRequest) -> Answer:
        messages = [one.wire() for one in request.messages]
        return self.server.answer(CompletionRequest({"messages": messages}, "", False, False, {}), self.name)


def test_each_judge_knows_more_than_the_base_rate_of_labels_that_it_did_not_see_and_they_disagree() -> None:
    rows = [row for _, row in json_records(LABELS)]
    assert len(rows) == EACH * len(NAMES)
    judges = load_judges()
    said = {}
    for place, name in enumerate(NAMES):
        said[name] = np.array([judges[name].chance(Case(r["request"], r["answer"])) > 0.5 for r in rows])
        others = np.ones(len(rows), bool)
        others[place * EACH : (place + 1) * EACH] = False
        serves = np.array([row["serves"] for row in rows])[others]
        agrees = (said[name][others] == serves).mean()
        assert agrees > max(serves.mean(), 1 - serves.mean()) + 0.02  # one label in ten is wrong
    assert 0.03 < (said["judge-learner"] != said["judge-gate"]).mean() < 0.3


def test_asked_as_any_judge_it_reads_the_last_words_of_the_user_and_the_answer() -> None:
    messages = [
        Message("user", (Text("hello\n\nAnswer:\nno"),)), Message("assistant", (Text("Hi."),)),
        Message("user", (Text(REQUEST),)), Message("tool", (Text("<<<material\nTeddy bear, 7.25 EUR\nmaterial>>>"),)),
    ]  # fmt: skip
    judge = ChatJudge(Served("judge-gate"), "judge-gate")
    wire = judge.messages(CHECKLIST, request_subject(messages, None, PRICED))
    assert read_case(wire[-1].text) == Case(REQUEST, PRICED)
    score = {}
    for answer in (PRICED, SILENT):
        verdicts = asyncio.run(judge.verdicts(CHECKLIST, request_subject(messages, None, answer)))
        assert [one.item for one in verdicts] == list(QUESTIONS)
        said = {one.item: one.value for one in verdicts}
        assert said["named"] == ("yes" if answer is PRICED else "no")
        score[answer] = sum(WEIGHTS[item] * (value == "yes") for item, value in said.items()) / sum(
            WEIGHTS.values()
        )
        assert score[answer] == judged_score(load_judges()["judge-gate"], Case(REQUEST, answer)), (
            "the proof scores as a gate that asks over the wire"
        )
    other = Checklist((Item("rude", "Is it rude?"),))
    (verdict,) = asyncio.run(judge.verdicts(other, request_subject(messages, None, PRICED)))
    assert verdict.value == "invalid", "it was not made for that question"


def test_a_judge_of_bodies_says_what_is_missing_and_a_blind_one_gives_points_alone() -> None:
    served = Served("judge-learner")
    cases = [
        (Sample("1", REQUEST, "one"), Response(text)) for text in (PRICED, SILENT, "The report is ready.")
    ]

    def ask(requests: list[ChatRequest]) -> list[Answer]:
        return [asyncio.run(served.ask(one)) for one in requests]

    feedback = ChatBodyJudge(ask, Rubric()).judge(cases, {})
    assert [one.gaps for one in feedback] == [
        {}, {"CA": ("the price is missing",)}, {"CA": ("the source is missing",)},
    ]  # fmt: skip
    assert [one.points["CA"] for one in feedback] == [10, 3, 3]
    blind = ChatBodyJudge(ask, Rubric(), blind=True).judge(cases, None)
    assert [dict(one.points) for one in blind] == [dict(one.points) for one in feedback]
    assert not any(one.gaps for one in blind)
    assert json.dumps([one.why_missing for one in feedback]) == '["", "", ""]'


def test_what_is_labelled_is_drawn_for_users_whom_no_season_has() -> None:
    one, other = drawn(30), drawn(30)
    assert one == other
    assert {given.backend for _, _, given in one} == {"small", "large"}
    assert any(given.skill is None for _, _, given in one)
