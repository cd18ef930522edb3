"""Timed actions in three formats, and files that are none."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from noria.core.errors import DataError
from noria.tryon.actions.reading import Action, read_actions

ACTIONS = [Action(1.25, 2.5, "She pulls the zipper down"), Action(3661.5, 3662.0, "他拉起下摆")]
SRT = """1
00:00:01,250 --> 00:00:02,500
She pulls
the zipper down

2
01:01:01,500 --> 01:01:02,000
他拉起下摆
"""
VTT = """WEBVTT

00:01.250 --> 00:02.500 align:start
She pulls the zipper down

01:01:01.500 --> 01:01:02.000
他拉起下摆
"""


@pytest.mark.parametrize("kind", ["json", "srt", "vtt"])
def test_the_formats_say_the_same(tmp_path: Path, kind: str) -> None:
    rows = json.dumps([vars(action) for action in reversed(ACTIONS)])
    path = tmp_path / f"actions.{kind}"
    path.write_text({"json": rows, "srt": SRT, "vtt": VTT}[kind], encoding="utf-8-sig")
    assert read_actions(path) == ACTIONS


@pytest.mark.parametrize(
    ("name", "text", "message"),
    [
        ("a.json", '[{"start": 1, "end": 1, "caption": "x"}]', "action 1.*ends after"),
        ("a.json", '[{"start": NaN, "end": 1, "caption": "x"}]', "action 1"),
        ("a.json", '[{"start": 0, "end": 1, "caption": " "}]', "characters"),
        ("a.json", '[{"start": true, "end": 1, "caption": "x"}]', "not a number"),
        ("a.json", "[" * 100_000, "not JSON"),
        ("a.json", json.dumps([vars(ACTIONS[0])] * 51), "at most 50"),
        ("a.srt", "1\n00:01 --> 00:02\nx\n", "a.srt:2"),
        ("a.txt", "", ".srt"),
    ],
    ids=["no length", "nan", "no caption", "bool", "deep", "many", "times", "kind"],
)
def test_what_is_no_action_is_refused_with_its_place(
    tmp_path: Path, name: str, text: str, message: str
) -> None:
    (tmp_path / name).write_text(text)
    with pytest.raises(DataError, match=message):
        read_actions(tmp_path / name)
