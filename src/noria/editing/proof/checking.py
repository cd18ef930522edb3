"""What must hold whatever the training does: the planted quirks, the frozen editor, the tests of checklists."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

from noria.core.judging.items import Checklist
from noria.core.proofs.proof import Check
from noria.editing.checklists.items import EditItem, items_of
from noria.editing.proof.rewarding import judge
from noria.editing.types import PATHS, Path
from noria.editing.world.editor import WorldEditor
from noria.editing.world.plans import Plan, Step, written
from noria.editing.world.tasks import WorldTask, take

TASKS = 120


def checks(table: Mapping[str, Sequence[Mapping[str, Any]]]) -> list[Check]:
    """All checks of the proof."""
    tasks = take("train", 31, TASKS)
    trained = [result for results in table.values() for result in results if "frozen" in result]
    whole = sum(bool(result["frozen"]) for result in trained)
    return [
        Check(
            "frozen",
            "The editor's digest is the same before and after every training",
            whole == len(trained),
            f"{whole} of {len(trained)} trainings",
        ),
        _right(tasks),
        _sloppy(tasks),
        _unknown(tasks),
        _null(tasks),
        _control(tasks),
    ]


def right(task: WorldTask, plan: str, editor: WorldEditor) -> dict[Path, bool]:
    """Whether every item of each path is good for a plan and its render."""
    found: dict[Path, bool] = {}
    for path in PATHS:
        edited = editor.edit(task.image, plan, 5) if path == "visual" else None
        verdicts = judge(task, path, plan, edited)
        items = items_of(task.checklist(), path)
        found[path] = all(v.value == item.good for v, item in zip(verdicts, items, strict=True))
    return found


def _right(tasks: Sequence[WorldTask]) -> Check:
    editor = WorldEditor(disturbs=0.0)
    hits = sum(all(right(task, task.reference.text, editor).values()) for task in tasks)
    return Check(
        "reference",
        "The reference as a plan passes every item of both paths",
        hits == len(tasks),
        f"{hits} of {len(tasks)} tasks",
    )


def _sloppy(tasks: Sequence[WorldTask]) -> Check:
    """What is let go and sent beyond the edge stacks up right, though the plan says no place."""
    editor, hits, count = WorldEditor(disturbs=0.0), 0, 0
    for task in (t for t in tasks if t.event.kinds == ("release",)):
        steps = [
            Step("move", s.name, s.cell, s.cell[0] + ("0" if s.name == "balloon" else "9"))
            for s in task.plan.steps
        ]
        judged = right(task, str(Plan(tuple(steps))), editor)
        count += 1
        hits += judged["visual"] and not judged["cognitive"]
    return Check(
        "repairs",
        "The editor repairs sloppy plans: right image, wrong plan",
        hits == count > 0,
        f"{hits} of {count}",
    )


def _unknown(tasks: Sequence[WorldTask]) -> Check:
    """A right plan in a word that the editor does not know changes nothing."""
    editor, hits, count = WorldEditor(disturbs=0.0), 0, 0
    for task in tasks:
        plan = written(task.fates)
        if any(
            word in editor.unknown
            for s in plan.steps
            for word in s.value.split()
            if s.action in ("turn", "paint")
        ):
            judged = right(task, str(plan), editor)
            count += 1
            hits += judged["cognitive"] and not judged["visual"]
    return Check(
        "unknown",
        "The editor does not know some words: right plan, wrong image",
        hits == count > 0,
        f"{hits} of {count}",
    )


def _null(tasks: Sequence[WorldTask]) -> Check:
    """The unedited source fails every change item and passes every other; a planted item that it passes is caught."""
    clean = caught = planted = 0
    for task in tasks:
        verdicts = judge(task, "visual", "", task.image)
        items = items_of(task.checklist(), "visual")
        clean += all(
            (v.value == i.good) == (i.role != "change") for v, i in zip(verdicts, items, strict=True)
        )
        cell, name = task.scene.things[0]
        bad = EditItem(
            "bad", f"Is there {name} at {cell}?", "visual", 1.0, "yes", "instruction", "change", "", False,
            "world.shows", {"cell": cell, "name": name},
        )  # fmt: skip
        planted += 1
        caught += _passes(task, bad)
    return Check(
        "null test",
        "The unedited source fails every change item and passes all others, and a planted bad item is caught",
        clean == len(tasks) and caught == planted,
        f"{clean} of {len(tasks)} checklists clean, {caught} of {planted} planted items caught",
    )


def _control(tasks: Sequence[WorldTask]) -> Check:
    """A planted cognitive item that the reference fails is caught by the positive control."""
    from noria.editing.checklists.verifiers import Evidence, verified

    caught = planted = 0
    for task in tasks:
        items = items_of(task.checklist(), "cognitive")
        stated = next(item for item in items if item.verifier == "world.states")
        bad = replace(stated, id="bad", arguments={**stated.arguments, "value": "nowhere"})
        found = verified(
            Checklist((bad,)), Evidence(task.instruction, [task.image], plan=task.reference.text)
        )
        planted += 1
        caught += found["bad"].value != bad.good
    return Check(
        "positive control",
        "A planted item that contradicts the reference fails on the reference as a plan",
        caught == planted,
        f"{caught} of {planted} planted items caught",
    )


def _passes(task: WorldTask, item: EditItem) -> bool:
    from noria.editing.checklists.verifiers import Evidence, verified

    evidence = Evidence(task.instruction, [task.image], edited=task.image)
    return verified(Checklist((item,)), evidence)[item.id].value == item.good
