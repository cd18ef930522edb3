"""ThinkThenEdit over tries and turns, EditScore as a judge, and a batch that is killed."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from noria.core.chat import Image as ImagePart, Part, Text
from noria.core.errors import DataError, ModelError
from noria.core.judging import RuleJudge
from noria.core.judging.items import Checklist
from noria.core.picture_files import png
from noria.editing import AtomicJudges, EditSession, Scene, ThinkThenEdit
from noria.editing.checklists.items import EditItem
from noria.editing.environment.judges import JudgeSettings
from noria.editing.integrations.editscore import EditScoreJudge
from tests.chat_server import Reply, chat_server
from tests.editing.doubles import (
    Painter,
    colour_of,
    edits_server,
    output,
    picture_answer,
    refuses,
    square,
    words_of,
)
from tests.editing.test_environment import CHECKLIST, SCENE, eye
from tests.editing.test_verbs import task, write

pytestmark = pytest.mark.anyio


class Scripted:
    """A planner that writes one output a draw, and remembers the notes that it was given."""

    name = "scripted"

    def __init__(self, *plans: str) -> None:
        self.plans, self.notes = plans, list[str]()

    async def write(
        self, images: Sequence[Image.Image], instruction: str, *, sample: int = 0, notes: str = ""
    ) -> str:
        self.notes.append(notes)
        plan = self.plans[min(sample, len(self.plans) - 1)]
        if plan == "fails":
            raise ModelError("no answer", where="planner")
        return output(plan) if plan else "no tags"


def editing(*plans: str, painter: Painter | None = None, judged: bool = True) -> ThinkThenEdit:
    judge = RuleJudge(eye)
    judges = AtomicJudges(judge, judge, JudgeSettings(canaries=0)) if judged else None
    return ThinkThenEdit(Scripted(*plans), painter or Painter(), judges=judges)


async def test_the_best_of_several_plans_comes_first() -> None:
    edit = editing("paint the square blue", "paint the square green", "no colour at all")
    results = await edit.edit(SCENE, "after the rain", checklist=CHECKLIST, samples=3)
    assert [colour_of(one.image) for one in results if one.image] == ["green", "red", "blue"]
    assert results[0].right is True
    assert results[-1].right is False


async def test_tries_end_when_all_is_right_and_read_what_was_wrong() -> None:
    edit = editing("", "paint the square blue", "paint the square green", "never asked")
    results = await edit.edit(SCENE, "after the rain", checklist=CHECKLIST, tries=4)
    planner: Any = edit.planner
    assert len(planner.notes) == 3
    assert planner.notes[0] == ""
    assert "no plan (missing <think>)" in planner.notes[1]
    assert "Is the square green? Answer: no." in planner.notes[2]
    assert colour_of(results[0].image or square()) == "green"


async def test_without_a_judge_the_first_picture_is_the_last() -> None:
    edit = editing("paint the square blue", "paint the square green", judged=False)
    assert len(await edit.edit(SCENE, "x", tries=3)) == 1
    assert len(await editing("", "paint the square green", judged=False).edit(SCENE, "x", tries=3)) == 2


async def test_a_planner_that_fails_once_is_a_try_less_and_always_an_error() -> None:
    results = await editing("fails", "paint the square green").edit(
        SCENE, "x", checklist=CHECKLIST, samples=2
    )
    assert len(results) == 1
    with pytest.raises(ModelError):
        await editing("fails").edit(SCENE, "x")
    for words in ("", "  ", "x" * 9000):
        with pytest.raises(DataError):
            await editing("x").edit(SCENE, words)


def test_a_call_is_synchronous_and_can_be_repeated() -> None:
    edit = editing("paint the square green", judged=False)
    for _ in range(2):
        assert colour_of(edit(square(), "after the rain").image or square()) == "green"


async def test_an_editor_that_refuses_says_so_in_the_result() -> None:
    (result,) = await editing("paint the square green", painter=Painter(fault=refuses)).edit(SCENE, "x")
    assert (result.image, result.why, result.visual.value) == (None, "refused: not with me", None)


async def test_turns_build_on_each_other_and_are_undone_to_the_bit() -> None:
    edit = editing("paint the square green", "paint the square blue", judged=False)
    session = EditSession(edit, Scene((square(),)))
    with pytest.raises(DataError, match="nothing to undo"):
        session.undo()
    await session.turn("green, please")
    await session.turn("blue, please", seed=1)
    assert colour_of(session.scene.source) == "blue"
    assert colour_of(session.undo()) == "green"
    assert session.undo().tobytes() == square().tobytes()
    session.edit = editing("x", painter=Painter(fault=refuses), judged=False)
    await session.turn("more")
    assert session.results == []  # a turn without a picture changes nothing


# -- EditScore --------------------------------------------------------------------------------------------------------


class Scorer:
    """What EditScore looks like from outside."""

    def __init__(self, **scores: Any) -> None:
        self.scores, self.seen = scores, list[tuple[int, str]]()

    def evaluate(self, pictures: Sequence[Image.Image], instruction: str) -> dict[str, Any]:
        self.seen.append((len(pictures), instruction))
        return self.scores


async def test_editscore_answers_items_by_their_dimension() -> None:
    scorer = Scorer(prompt_following=20.0, consistency=3.0, perceptual_quality=12.5)
    items = [
        EditItem("i", "green?", "visual", dimension="instruction"),
        EditItem("c", "gone?", "visual", dimension="consistency", good="no"),
        EditItem("r", "real?", "visual", dimension="realism"),
        EditItem("o", "fine?", "visual"),
    ]
    part = ImagePart(png(square()))
    subject: list[Part] = [Text("Request:\nafter the rain"), part, Text("After the edit:"), part]
    verdicts = await EditScoreJudge(scorer).verdicts(Checklist(tuple(items)), subject)
    assert [one.value for one in verdicts] == ["yes", "yes", "invalid", "invalid"]
    assert scorer.seen == [(2, "after the rain")]
    plan = await EditScoreJudge(scorer).verdicts(Checklist((items[0],)), subject[:2])
    assert plan[0].value == "invalid"


# -- killed -----------------------------------------------------------------------------------------------------------


def test_a_batch_killed_in_the_middle_goes_on_where_it_was(here: Path) -> None:
    """Killed −9 while its third picture is rendered; the same command edits what is not there, and nothing twice."""
    slow = [True]

    def answer(number: int, image: Image.Image) -> Any:
        if slow[0] and number == 3:
            time.sleep(20)
        return picture_answer(image)

    file = write(here, *(task(f"t{n}", f"after the rain {n}", checklist=False) for n in range(5)))

    def respond(body: Any, number: int) -> Reply:
        return Reply(output(f"paint the square green, {words_of(body).rpartition(' ')[2]}"))

    with chat_server(respond) as chat, edits_server(answer) as edits:
        command = [sys.executable, "-m", "noria.cli", "editing", "edit", str(file), "--url", chat.url, "--model", "m",
                   "--editor-url", edits.url, "-o", "out", "-q", "in_flight=1", "renders=1"]  # fmt: skip
        process = subprocess.Popen(command, cwd=here)
        log, deadline = here / "out" / "results.jsonl", time.monotonic() + 60
        while not (log.exists() and len(log.read_bytes().splitlines()) == 2 and len(edits.seen) == 3):
            assert time.monotonic() < deadline
            time.sleep(0.02)
        os.kill(process.pid, signal.SIGKILL)
        process.wait()
        before = log.read_bytes()
        slow[0] = False
        done = subprocess.run(command, cwd=here, capture_output=True, text=True, check=True)
    assert "3 edited, 0 without a picture, 2 done before" in done.stdout
    assert log.read_bytes().startswith(before)
    records = [json.loads(line) for line in log.read_text().splitlines()]
    assert sorted(one["id"] for one in records) == [f"t{n}" for n in range(5)]
    assert all((here / "out" / one["picture"]).is_file() for one in records)
    assert len(edits.seen) == 6  # five, and the one that was killed
