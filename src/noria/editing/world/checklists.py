"""Exact checklists of the world: items that its rule engine writes, and the programs that answer them.

Cognitive items are about the plan's text, visual items about the picture's pixels, which :func:`scenes.read` reads.
Both words of a synonym count in a plan. Items of what changes and stays cite the step of the reference that they come
from. A checklist without its reference (`grounded=False`) is scripted: what one can ask who knows the instruction only.
"""

from __future__ import annotations

import functools
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Literal

from PIL.Image import Image, frombytes

from noria.core.judging.items import Checklist
from noria.editing.checklists.items import EditItem, Role
from noria.editing.checklists.verifiers import Evidence, register_verifier
from noria.editing.types import Path
from noria.editing.world.plans import Plan, parse, reworded, written
from noria.editing.world.rules import Fate, after
from noria.editing.world.scenes import UNKNOWN, Scene, read
from noria.editing.world.vocabulary import CELLS, EXECUTABLE

MOST_STEPS = 6
"""Steps of a plan that the editor takes, which a judge of executability knows."""


def checklist_of(scene: Scene, fates: Sequence[Fate], *, grounded: bool = True) -> Checklist:
    """The checklist of an edit.

    Args:
        scene: source.
        fates: outcome of the event.
        grounded: whether the items come from the outcome; else from the instruction alone.
    """
    if not grounded:
        return Checklist((*_blind_cognitive(), *_blind_visual(scene)))
    items = [*_cognitive(fates), *_visual(scene, fates)]
    return Checklist(tuple(_cited(items, _spans(fates))))


def _cognitive(fates: Sequence[Fate]) -> list[EditItem]:
    items = []
    for fate in fates:
        for attribute, value, words in _statements(fate):
            arguments = {"cell": fate.cell or fate.cell_after, "attribute": attribute, "value": value}
            items.append(
                _item("cognitive", f"Does the plan say that {words}?", "logic", "change", "states", arguments)
            )
    cells = [fate.cell or fate.cell_after for fate in fates if fate.changed]
    items.append(
        _item(
            "cognitive", "Does the plan touch a thing that stays as it is?", "intent", "keep", "touches",
            {"cells": cells}, good="no",
        )
    )  # fmt: skip
    items.append(
        _item(
            "cognitive",
            "Does the plan say two things about one thing?",
            "logic",
            "quality",
            "ambiguous",
            good="no",
        )
    )
    items.append(
        _item(
            "cognitive", "Is each step about a thing in the picture, within its bounds?", "executability",
            "quality", "executable",
        )
    )  # fmt: skip
    return _numbered(items)


def _visual(scene: Scene, fates: Sequence[Fate]) -> list[EditItem]:
    items, target = [], after(fates, scene.tint).by_cell
    for cell, name in target.items():
        stays = scene.by_cell.get(cell) == name
        role: Role = "keep" if stays else "change"
        dimension = "consistency" if stays else "instruction"
        question = f"Is there {name} at {cell}?"
        items.append(_item("visual", question, dimension, role, "shows", {"cell": cell, "name": name}))
    for cell in scene.by_cell:
        if cell not in target:
            items.append(
                _item(
                    "visual",
                    f"Is {cell} empty?",
                    "instruction",
                    "change",
                    "shows",
                    {"cell": cell, "name": ""},
                )
            )
    empty = [cell for cell in CELLS if cell not in target and cell not in scene.by_cell]
    items.append(
        _item(
            "visual", "Is there anything at a place that was and stays empty?", "realism", "keep", "crowded",
            {"cells": empty}, good="no",
        )
    )  # fmt: skip
    return _numbered(items)


def _statements(fate: Fate) -> list[tuple[str, str, str]]:
    """Attribute, value and words of each statement about a thing that changes."""
    thing = f"the {fate.name} at {fate.cell}"
    if not fate.changed:
        return []
    if not fate.cell:
        return [("add", fate.name_after, f"a {fate.name_after} is added at {fate.cell_after}")]
    if not fate.cell_after:
        return [("remove", fate.name, f"{thing} is removed")]
    found = []
    if fate.name != fate.name_after:
        found.append(("name", fate.name_after, f"{thing} becomes {fate.name_after}"))
    if fate.cell != fate.cell_after:
        found.append(("cell", fate.cell_after, f"{thing} moves to {fate.cell_after}"))
    return found


def _blind_cognitive() -> list[EditItem]:
    return _numbered(
        [
            _item("cognitive", "Does the plan change anything?", "intent", "change", "acts"),
            _item(
                "cognitive", "Does the plan say two things about one thing?", "logic", "quality", "ambiguous", good="no"
            ),
            _item(
                "cognitive", "Is each step about a thing in the picture, within its bounds?", "executability",
                "quality", "executable",
            ),
        ]
    )  # fmt: skip


def _blind_visual(scene: Scene) -> list[EditItem]:
    return _numbered(
        [
            _item("visual", "Is the picture another one than before?", "instruction", "change", "differs"),
            _item(
                "visual", "Are there as many things as before?", "consistency", "keep", "counts",
                {"n": len(scene.things)},
            ),
            _item("visual", "Can every thing be recognised?", "realism", "quality", "recognised"),
        ]
    )  # fmt: skip


def _item(
    path: Path, question: str, dimension: str, role: Role, program: str,
    arguments: Mapping[str, object] | None = None, *, good: Literal["yes", "no"] = "yes",
) -> EditItem:  # fmt: skip
    return EditItem(
        "x",
        question,
        path,
        1.0,
        good,
        dimension,
        role,
        "",
        False,
        f"world.{program}",
        arguments or {},
    )


def _numbered(items: list[EditItem]) -> list[EditItem]:
    return [replace(item, id=f"{item.path[:3]}-{n}") for n, item in enumerate(items, 1)]


def _spans(fates: Sequence[Fate]) -> dict[tuple[str, str], str]:
    """The reference's steps by the cell that they speak of, before the edit and after it."""
    spans: dict[tuple[str, str], str] = {}
    for fate in fates:
        steps = [str(step) for step in reworded(written([fate]), EXECUTABLE).steps]
        steps = steps if fate.changed else [f"keep {fate.name} at {fate.cell}"]
        attributes = [attribute for attribute, _, _ in _statements(fate)]
        spans |= {(fate.cell or fate.cell_after, a): step for a, step in zip(attributes, steps, strict=False)}
        spans |= {("after", fate.cell_after): steps[-1], ("left", fate.cell): steps[-1]}
    return spans


def _cited(items: list[EditItem], spans: Mapping[tuple[str, str], str]) -> list[EditItem]:
    """Items with the words of the reference that they come from."""
    cited = []
    for item in items:
        cell, attribute = str(item.arguments.get("cell", "")), str(item.arguments.get("attribute", ""))
        side = "after" if item.arguments.get("name") else "left"
        key = (cell, attribute) if item.path == "cognitive" else (side, cell)
        cited.append(replace(item, evidence=spans.get(key, "")))
    return cited


# --- programs that answer -------------------------------------------------------------------------------------


def _plan(evidence: Evidence) -> Plan | None:
    return None if evidence.plan is None else parse(evidence.plan)


def _pixels(image: Image) -> Scene:
    return _read_bytes(image.convert("RGB").tobytes(), image.size)


@functools.lru_cache(1024)
def _read_bytes(data: bytes, size: tuple[int, int]) -> Scene:
    return read(frombytes("RGB", size, data))


@register_verifier("world.states")
def _states(item: EditItem, evidence: Evidence) -> bool | None:
    plan = _plan(evidence)
    wanted = (item.arguments["attribute"], item.arguments["value"])
    return (
        None
        if plan is None
        else any(s.cell == item.arguments["cell"] and s.effect == wanted for s in plan.steps)
    )


@register_verifier("world.touches")
def _touches(item: EditItem, evidence: Evidence) -> bool | None:
    plan = _plan(evidence)
    return (
        None
        if plan is None
        else any(s.action != "keep" and s.cell not in item.arguments["cells"] for s in plan.steps)
    )


@register_verifier("world.ambiguous")
def _ambiguous(item: EditItem, evidence: Evidence) -> bool | None:
    plan = _plan(evidence)
    if plan is None:
        return None
    said: dict[tuple[str, str], set[str]] = {}
    for step in plan.steps:
        attribute, value = step.effect
        said.setdefault((step.cell, attribute), set()).add(value)
    return any(len(values) > 1 for values in said.values())


@register_verifier("world.executable")
def _executable(item: EditItem, evidence: Evidence) -> bool | None:
    plan = _plan(evidence)
    if plan is None:
        return None
    before = _pixels(evidence.sources[0]).by_cell
    acting = [step for step in plan.steps if step.action != "keep"]
    return bool(
        plan.steps
        and not plan.malformed
        and len(acting) <= MOST_STEPS
        and all(step.within(before) for step in plan.steps)
    )


@register_verifier("world.acts")
def _acts(item: EditItem, evidence: Evidence) -> bool | None:
    plan = _plan(evidence)
    return None if plan is None else any(step.action != "keep" for step in plan.steps)


@register_verifier("world.shows")
def _shows(item: EditItem, evidence: Evidence) -> bool | None:
    if evidence.edited is None:
        return None
    return bool(_pixels(evidence.edited).by_cell.get(item.arguments["cell"], "") == item.arguments["name"])


@register_verifier("world.crowded")
def _crowded(item: EditItem, evidence: Evidence) -> bool | None:
    if evidence.edited is None:
        return None
    return any(cell in item.arguments["cells"] for cell in _pixels(evidence.edited).by_cell)


@register_verifier("world.differs")
def _differs(item: EditItem, evidence: Evidence) -> bool | None:
    if evidence.edited is None:
        return None
    return _pixels(evidence.edited).things != _pixels(evidence.sources[0]).things


@register_verifier("world.counts")
def _counts(item: EditItem, evidence: Evidence) -> bool | None:
    if evidence.edited is None:
        return None
    return bool(len(_pixels(evidence.edited).things) == item.arguments["n"])


@register_verifier("world.recognised")
def _recognised(item: EditItem, evidence: Evidence) -> bool | None:
    return None if evidence.edited is None else UNKNOWN not in _pixels(evidence.edited).by_cell.values()
