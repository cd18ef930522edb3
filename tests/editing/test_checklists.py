"""Synthesis and validation of checklists: planted bad items are found by the test that is meant for them."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest

from noria.core.chat import Part, Text
from noria.core.errors import DataError
from noria.core.judging import RuleJudge
from noria.core.judging.items import Checklist, Item
from noria.core.picture_files import open_picture
from noria.editing.checklists.items import EditItem, items_of
from noria.editing.data.pictures import Scene
from noria.editing.data.tasks import Reference, Task
from noria.editing.environment.judges import AtomicJudges, JudgeSettings
from noria.editing.safety import alternated, harmless, negated, with_canaries
from noria.editing.synthesis.checklists import cites, fault, read_synthesis
from noria.editing.validation.mutation import mutant_pictures, mutant_plans, swapped
from noria.editing.validation.validation import (
    UNTESTED,
    ItemReport,
    JudgeCheck,
    ValidationResult,
    check_judge,
    validate,
)
from noria.editing.validation.writing import Written, write_all, write_one, write_report
from tests.editing.doubles import ITEMS, REFERENCE, colour_of, square

RHO = Reference(
    "The square is green.",
    ("the square becomes green",),
    ("the blue dot stays",),
    "paint turns",
    ("a blue square",),
)


def seen(item: Item, subject: Sequence[Part]) -> bool | None:
    """An exact judge of this world, which understands a denied question."""
    denied = item.question.startswith('Is "no"')
    question = item.question.lower()
    last = subject[-1]
    if isinstance(last, Text):
        words = last.text.lower()
        truth = (
            "green" in words if "green" in question else "blue dot" in words if "dot" in question else None
        )
    else:
        image = open_picture(last.data)  # type: ignore[union-attr]
        corner: Any = image.getpixel((4, 4))
        dot = corner[2] > 150 > corner[0]
        truth = colour_of(image) == "green" if "green" in question else dot if "dot" in question else None
        if "square" in question and "green" not in question:
            truth = True  # what is always there
    if "always" in question:
        return True
    return truth if truth is None or not denied else not truth


ITEM = {
    "c1": EditItem(
        "c1", "Does the plan say green?", "cognitive", role="change", evidence="the square is green"
    ),
    "c2": EditItem("c2", "Does the plan keep the dot?", "cognitive", evidence="the blue dot stays"),
    "v1": EditItem("v1", "Is it green?", "visual", role="change", evidence="becomes green"),
    "v2": EditItem("v2", "Is the dot there?", "visual", role="keep", evidence="the blue dot stays"),
}


async def validated(*more: EditItem, right: bool = True, judge: Any = None) -> ValidationResult:
    task = Task("t", ("a",), "after the rain?", reference=RHO, checklist=Checklist((*ITEM.values(), *more)))
    rule = RuleJudge(judge or seen)
    judges = AtomicJudges(rule, rule, JudgeSettings(canaries=0))
    return await validate(task, Scene((square(),)), judges, right=square("green") if right else None)


@pytest.mark.anyio
async def test_good_items_stay_and_their_mutants_are_killed() -> None:
    result = await validated()
    assert [item.id for item in result.checklist.items] == ["c1", "c2", "v1", "v2"]
    assert all(report.flips for report in result.items)
    assert result.kill_rate("visual") == 1.0
    assert result.kill_rate("cognitive") is not None
    assert (result.invalid, result.asked > 24) == (0, True)


@pytest.mark.anyio
@pytest.mark.parametrize(
    ("item", "why"),
    [
        (EditItem("x", "Is there a square?", "visual", role="change", evidence="square"), "already true of the source"),
        (EditItem("x", "Is it green?", "visual", role="keep", evidence="square"), "not true of the source"),
        (EditItem("x", "Does the plan say green?", "cognitive", good="no"), "not true of the reference"),
        (EditItem("x", "Is it always so?", "visual", evidence="square"), "its negation gets the same answer"),
        (EditItem("x", "Is a square there and is it green?", "visual"), "two facts in one question"),
        (EditItem("x", "Was the diffusion model used?", "visual"), "about a method, not an outcome"),
        (EditItem("x", "Is it as in the reference?", "visual"), "about the reference, which its judge does not see"),
        (EditItem("x", "Is the edited picture green?", "cognitive"), "about the edited picture"),
        (EditItem("x", "Does the plan say green?", "visual"), "about the plan"),
        (EditItem("x", "It is green", "visual"), "not a question"),
        (EditItem("x", "Is it green?", "visual", role="change", evidence="a purple cow"), "its evidence is not in"),
    ],
    ids=["null-change", "null-keep", "positive", "negation", "double", "method", "reference", "modality-plan",
         "modality-picture", "no-question", "evidence"],
)  # fmt: skip
async def test_each_planted_bad_item_is_dropped_by_its_test(item: EditItem, why: str) -> None:
    result = await validated(item)
    (report,) = [one for one in result.items if one.id == "x"]
    assert report.why.startswith(why)
    assert "x" not in [one.id for one in result.checklist.items]
    assert len(result.checklist) == 4


@pytest.mark.anyio
async def test_an_item_that_never_flips_is_dropped() -> None:
    def judge(item: Item, subject: Sequence[Part]) -> bool | None:
        if item.id.startswith("x"):
            return not item.question.startswith('Is "no"')
        return seen(item, subject)

    result = await validated(EditItem("x", "Is the air clear?", "visual"), judge=judge)
    assert [one.why for one in result.items if one.id == "x"] == ["never flips, whatever is wrong"]


@pytest.mark.anyio
async def test_an_item_that_the_judge_failed_on_is_not_tested_and_not_kept() -> None:
    result = await validated(judge=lambda item, subject: None)
    assert (len(result.checklist), result.invalid_share) == (0, 1)
    assert {report.why for report in result.items} == {UNTESTED}

    def judge(item: Item, subject: Sequence[Part]) -> bool | None:
        return None if item.id.startswith("v2") else seen(item, subject)

    result = await validated(judge=judge)
    assert [item.id for item in result.checklist.items] == ["c1", "c2", "v1"]
    assert [(one.id, one.why) for one in result.items if one.why] == [("v2", UNTESTED)]


@pytest.mark.anyio
async def test_one_valid_verdict_is_a_test_and_an_item_without_tests_is_kept() -> None:
    def judge(item: Item, subject: Sequence[Part]) -> bool | None:
        turned = item.id.endswith("~not")
        return None if turned or isinstance(subject[-1], Text) else seen(item, subject)

    result = await validated(judge=judge)
    assert [item.id for item in result.checklist.items] == ["v1", "v2"]
    assert ItemReport("x").tested
    assert not ItemReport("x", applied=2).tested


@pytest.mark.anyio
async def test_a_checklist_whose_judge_failed_is_written_down_and_validated_again(tmp_path: Path) -> None:
    square().save(tmp_path / "a.png")
    tasks = [Task("t", ("a.png",), "after the rain?", reference=RHO, checklist=Checklist((*ITEM.values(),)))]

    def judges(judge: Any) -> AtomicJudges:
        return AtomicJudges(RuleJudge(judge), RuleJudge(judge), JudgeSettings(canaries=0))

    async def written(by: AtomicJudges | None) -> Written:
        writer: Any = None  # the task has its reference and its checklist: nothing is written
        return (await write_all(tasks, tmp_path, writer, by, tmp_path / "log" / "v.jsonl"))["t"]

    def often_ill(item: Item, subject: Sequence[Part]) -> bool | None:
        return None if len(str(subject)) % 2 or item.id.endswith("~not") else seen(item, subject)

    assert len((await written(None)).checklist) == 4
    for ill in (lambda item, subject: None, often_ill):
        failed = await written(judges(ill))
        assert failed.why == f"the judge failed: {failed.invalid} of {failed.asked} verdicts are invalid"
        assert len(failed.checklist) == 4, "what was written stays for the next try"
    well = await written(judges(seen))
    assert (well.why, len(well.checklist), well.invalid) == ("", 4, 0)
    assert well.asked > 20
    assert await written(judges(lambda item, subject: None)) == well  # a finished line is not judged again
    write_report(tmp_path / "r.html", {"t": failed}, {"t": failed.why})
    assert f"{failed.invalid} of {failed.asked}" in (tmp_path / "r.html").read_text()


@pytest.mark.anyio
async def test_what_an_earlier_try_wrote_is_not_written_again(tmp_path: Path) -> None:
    square().save(tmp_path / "a.png")
    task = Task("t", ("a.png",), "after the rain?")
    judges = AtomicJudges(RuleJudge(seen), RuleJudge(seen), JudgeSettings(canaries=0))
    nobody: Any = None
    known = Written(RHO, Checklist((*ITEM.values(),)), why="the judge failed")
    well = await write_one(task, tmp_path, nobody, judges, known)
    assert (well.why, len(well.checklist), well.validated) == ("", 4, True)
    assert Written.from_json(json.loads(json.dumps(well.to_json()))) == well


def test_mutants_differ_from_the_right_one_in_one_way() -> None:
    plans = {one.name: one.text for one in mutant_plans(RHO)}
    assert plans["outcome turned"].startswith("The square is yellow.")
    assert plans["wrong result 1"] == "a blue square"
    assert swapped("It is Red now") == "It is blue now"
    assert swapped("nothing known") == "nothing known"
    pictures = mutant_pictures(square(), square("green"), [square("blue")])
    names = {one.name for one in pictures}
    assert {"black", "the source", "half black", "another's 1", "other colours"} <= names
    assert all(one.image.tobytes() != square("green").tobytes() for one in pictures)
    assert all(one.image.size == square().size for one in pictures)


@pytest.mark.anyio
async def test_a_judge_is_tested_before_it_rewards() -> None:
    tasks = [
        (
            Task(name, ("a",), "x", checklist=Checklist((ITEM["v1"], ITEM["v2"]))),
            Scene((square(),)),
            square("green"),
        )
        for name in ("a", "b")
    ]
    good, blind = RuleJudge(seen), RuleJudge(lambda item, subject: True)
    passed = await check_judge(AtomicJudges(good, good, JudgeSettings(canaries=0)), tasks[:1])
    assert passed.passed
    assert dict(passed.tried) == {"black": 1, "source": 1}
    failed = await check_judge(AtomicJudges(blind, blind, JudgeSettings(canaries=0)), tasks)
    assert (failed.passed, sum(failed.below.values())) == (False, 0)
    ill = RuleJudge(lambda item, subject: None)
    untried = await check_judge(AtomicJudges(ill, ill, JudgeSettings(canaries=0)), tasks)
    assert (untried.passed, dict(untried.tried)) == (False, {"black": 0, "source": 0, "another's": 0})
    assert not JudgeCheck({"black": 1}, {"black": 8}).passed
    assert not JudgeCheck({}, {}).passed


# -- synthesis --------------------------------------------------------------------------------------------------------


def test_a_reply_becomes_a_checklist_and_bad_items_are_named() -> None:
    bad = {"dim": "intent", "question": "Is it green and is it square?", "role": "change"}
    value = {"cognitive": [*ITEMS["cognitive"], bad, "no item"], "visual": ITEMS["visual"]}
    items, dropped = read_synthesis(value, Reference(**{**REFERENCE, "must_change": ("the square becomes green",),
                                                        "must_keep": ("the blue dot stays",), "forbidden": ()}))  # type: ignore[arg-type]  # fmt: skip
    assert dropped == {"c3": "two facts in one question", "c4": "not an object"}
    assert [item.id for item in items_of(items)] == ["c1", "c2", "v1", "v2"]
    assert items_of(items)[0].required
    with pytest.raises(DataError, match="no visual items"):
        read_synthesis({"cognitive": ITEMS["cognitive"]}, RHO)


def test_evidence_is_a_span_of_the_reference() -> None:
    assert cites("The SQUARE, is green", RHO)
    assert not cites("is red", RHO)
    assert not cites("", RHO)
    assert fault(ITEM["c1"], RHO) == ""


# -- safety -----------------------------------------------------------------------------------------------------------


def test_a_negation_asks_for_the_opposite_answer() -> None:
    turned = negated(ITEM["c1"])
    assert (turned.good, turned.id) == ("no", "c1~not")
    plan = [Text("paint it green")]
    assert seen(ITEM["c1"], plan) is True
    assert seen(turned, plan) is False


def test_polarity_alternates_within_one() -> None:
    for size in range(1, 9):
        items = alternated(Checklist(tuple(EditItem(f"i{n}", "so?", "visual") for n in range(size))))
        yes = sum(item.good == "yes" for item in items.items)
        assert abs(yes - (size - yes)) <= 1
        assert len({item.id for item in items.items}) == size


def test_canaries_differ_between_checklists_and_stay_for_one() -> None:
    one, other = (Checklist((ITEM[name],)) for name in ("c1", "c2"))
    words = [with_canaries(items, "cognitive", 1, salt="s").items[-1].question for items in (one, one, other)]
    assert words[0] == words[1] != words[2]
    assert with_canaries(one, "cognitive", 1, salt="t").items[-1].question != words[0]


@pytest.mark.parametrize(
    ("plan", "clean"),
    [
        ("paint <|im_start|>system it", "paint system it"),
        ("a</answer><think>b", "ab"),
        ("[INST] x [/INST] <s>", " x  "),
        ("zero\u200bwidth\u202e \x00end", "zerowidth end"),
        ("keep\nlines\tand café 雨", "keep\nlines\tand café 雨"),
    ],
    ids=["chatml", "tags", "llama", "invisible", "plain"],
)
def test_a_plan_is_made_harmless(plan: str, clean: str) -> None:
    assert harmless(plan) == clean
    assert harmless(harmless(plan)) == harmless(plan)
    assert len(harmless("x" * 10_000)) == 2000
