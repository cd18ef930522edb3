"""A vision-language model as annotator and judge: what it may say, and what happens when it says nothing."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

pytest.importorskip("torch")
pytest.importorskip("openai")

from noria.core.chat import ChatServer
from noria.core.errors import DataError
from noria.tryon.actions.reading import Action
from noria.tryon.integrations.annotator import parse_actions
from noria.tryon.integrations.judge import screen, success_rate
from noria.tryon.video.clips import Clip
from tests.chat_server import Reply, chat_server

CLIP = Clip(np.zeros((20, 16, 16, 3), np.uint8), np.arange(20) / 10, 2.0, Path("clip.mp4"))


def answers(*values: str) -> Reply:
    rows = [{"number": n, "answer": value, "reason": "seen"} for n, value in enumerate(values, 1)]
    return Reply(json.dumps({"answers": rows}))


def server(url: str) -> ChatServer:
    return ChatServer(url=url, model="m", attempts=1)


def test_a_clip_is_cleared_by_the_right_answers_alone() -> None:
    with chat_server(lambda body, number: answers("no", "no")) as double:
        screen(CLIP, server(double.url))
    for reply, failed in (
        (answers("yes", "no"), "minor"),
        (answers("no"), "nudity"),
        (Reply("I cannot say."), "minor, nudity"),
        (Reply(status=500), "minor, nudity"),
    ):
        expected = pytest.raises(DataError, match=f"not cleared by m: {failed}$")
        with chat_server(lambda body, number, reply=reply: reply) as double, expected:
            screen(CLIP, server(double.url))


def test_the_majority_of_the_votes_counts_and_an_invalid_one_is_no_failure() -> None:
    said = iter(["yes", "yes", "no", "no", "no", "yes", "perhaps", "perhaps", "perhaps"])
    actions = [Action(0.2, 0.6, "lifts"), Action(0.8, 1.2, "zips"), Action(1.4, 1.8, "pats")]
    with chat_server(lambda body, number: answers(next(said))) as double:
        found = success_rate(CLIP, actions, server(double.url))
    assert (found.shown, found.judged, found.invalid) == (1, 2, 1)
    assert found.rate == 0.5


@pytest.mark.parametrize(
    "text", ["none", "{}", '{"a": [}', "[" * 10_000 + "]"], ids=["words", "object", "broken", "deep"]
)
def test_an_answer_that_is_no_list_is_refused(text: str) -> None:
    with pytest.raises(DataError, match="no list"):
        parse_actions(text, 2.0)


def test_a_list_inside_of_words_is_read() -> None:
    text = 'Here: [{"start": 0.5, "end": 1, "caption": "She lifts the hem"}] as asked'
    assert parse_actions(text, 2.0) == [Action(0.5, 1.0, "She lifts the hem")]
    assert parse_actions("[]", 2.0) == []
    assert parse_actions(f"[THINK][]{text}[/THINK] {text}", 2.0) == parse_actions(text, 2.0)
    assert parse_actions(f"No action: []. Wait, corrected: {text}, see [1]", 2.0) == parse_actions(text, 2.0)
    assert parse_actions('{"actions": [{"start": 0, "end": 9, "caption": "x"}]}', 8.5) == [
        Action(0, 8.5, "x")
    ]


@pytest.mark.parametrize(
    "fields",
    [
        {"start": float("nan")}, {"end": float("nan")}, {"end": float("inf")}, {"start": True}, {"end": "3"},
        {"caption": None}, {"caption": 7}, {"caption": " "}, {"start": None}, {"start": 4, "end": 3},
    ],
)  # fmt: skip
def test_an_action_without_finite_times_and_words_is_left_out(fields: dict[str, Any]) -> None:
    rows = [{"start": 1, "end": 2, "caption": "lifts"} | fields, {"start": 2, "end": 3, "caption": "zips"}]
    with pytest.warns(UserWarning, match="action 1 of the model is left out"):
        assert parse_actions(json.dumps(rows), 5.0) == [Action(2, 3, "zips")]


def test_times_that_are_no_seconds_are_refused() -> None:
    for start, end in ((0, 1500), (0, 11), (0, 10**200)):
        with pytest.raises(DataError, match="another unit"):
            parse_actions(json.dumps([{"start": start, "end": end, "caption": "lifts"}]), 5.0)
    assert parse_actions('[{"start": 0, "end": 10, "caption": "lifts"}]', 5.0) == [Action(0, 5, "lifts")]
    assert parse_actions('[{"start": 0, "end": 1, "caption": "lifts"}]', 0.2) == [Action(0, 0.2, "lifts")]
    with pytest.raises(DataError, match="no list"):
        parse_actions(f'[{{"start": {"9" * 400}, "end": 3, "caption": "lifts"}}]', 5.0)
