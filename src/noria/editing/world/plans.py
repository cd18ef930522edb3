"""The language of plans: constrained English, parsed by a grammar.

```
plan  = step { (";" | "." | newline) step }
step  = "turn" thing "into" name | "paint" thing [colour] | "move" thing "to" cell
      | "remove" thing | "add" name "at" cell | "keep" thing
thing = name "at" cell
```

Articles may stand before a name, upper case is lower case. All steps speak of the scene as it is before the
edit, so their order does not matter, and a step that is said twice counts once. A cell may lie outside of the grid
(`b9`): the grammar takes it, a checklist does not.
"""

from __future__ import annotations

import functools
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Literal

from noria.editing.world.rules import Fate
from noria.editing.world.vocabulary import CELLS, COLOURS, NAMES, OUTSIDE, SHAPES, SYNONYMS, usual

Action = Literal["turn", "paint", "move", "remove", "add", "keep"]
LONGEST = 4000
"""Characters of a plan that are read; what follows is malformed as a whole."""
_CELL = r"(?P<cell>[a-z]\d)"
_FORMS: dict[Action, re.Pattern[str]] = {
    "turn": re.compile(rf"turn (?P<name>[a-z ]+?) at {_CELL} into (?P<value>[a-z ]+)"),
    "paint": re.compile(rf"paint (?P<name>[a-z ]+?) at {_CELL} (?P<value>[a-z]+)"),
    "move": re.compile(rf"move (?P<name>[a-z ]+?) at {_CELL} to (?P<value>[a-z]\d)"),
    "remove": re.compile(rf"remove (?P<name>[a-z ]+?) at {_CELL}(?P<value>)"),
    "add": re.compile(rf"add (?P<name>[a-z ]+?) at {_CELL}(?P<value>)"),
    "keep": re.compile(rf"keep (?P<name>[a-z ]+?) at {_CELL}(?P<value>)"),
}
_WORDS = {*(word for name in NAMES for word in name.split()), *SYNONYMS}


@dataclass(frozen=True)
class Step:
    """One command of a plan.

    Attributes:
        action: what is done.
        name: the thing, in the plan's own words; for `add`, the new thing.
        cell: where it is; for `add`, where it will be.
        value: what it becomes, its colour, or where it goes, in the plan's own words.
    """

    action: Action
    name: str
    cell: str
    value: str = ""

    def __str__(self) -> str:
        link = {"turn": " into ", "paint": " ", "move": " to "}.get(self.action, "")
        return f"{self.action} {self.name} at {self.cell}{link}{self.value}"

    @property
    def effect(self) -> tuple[str, str]:
        """What the step states about its thing: the attribute, and its value under its usual name."""
        if self.action == "turn":
            return "name", usual(self.value)
        if self.action == "paint":
            return "name", f"{usual(self.value)} {self.name.split()[-1]}"
        return ("cell", self.value) if self.action == "move" else (self.action, usual(self.name))

    def within(self, things: Mapping[str, str]) -> bool:
        """Whether the step is about one of these things by cell, or an empty cell, and stays within the grid."""
        if self.action == "add":
            return self.cell in CELLS and self.cell not in things
        inside = self.action != "move" or self.value in CELLS
        return inside and things.get(self.cell) == usual(self.name)


@dataclass(frozen=True)
class Plan:
    """A plan that was read: its steps, and the pieces of text that are none."""

    steps: tuple[Step, ...]
    malformed: tuple[str, ...] = ()

    def __str__(self) -> str:
        return " ; ".join(map(str, self.steps))


@functools.lru_cache(4096)
def parse(text: str) -> Plan:
    """Read a plan; whatever is no step of the grammar is kept as malformed."""
    steps: list[Step] = []
    malformed = []
    if len(text) > LONGEST:
        return Plan((), (text[:80],))
    for piece in re.split(r"[;.\n]", text):
        words = [word for word in piece.lower().split() if word not in ("a", "an", "the")]
        if not words:
            continue
        step = _step(" ".join(words))
        if step is None:
            malformed.append(piece.strip())
        elif step not in steps:
            steps.append(step)
    return Plan(tuple(steps), tuple(malformed))


def reworded(plan: Plan, words: Mapping[str, str]) -> Plan:
    """The plan with other words for what it makes: `{"orange": "amber"}`; words for what is there stay."""

    def said(text: str) -> str:
        return " ".join(words.get(word, word) for word in text.split())

    steps = (
        replace(step, name=said(step.name)) if step.action == "add" else replace(step, value=said(step.value))
        for step in plan.steps
    )
    return replace(plan, steps=tuple(steps))


def written(fates: Sequence[Fate]) -> Plan:
    """The plan that states what is to change, in usual words, and nothing else."""
    steps = []
    for fate in fates:
        if not fate.cell:
            steps.append(Step("add", fate.name_after, fate.cell_after))
        elif not fate.cell_after:
            steps.append(Step("remove", fate.name, fate.cell))
        else:
            if fate.name != fate.name_after:
                steps.append(_becoming(fate))
            if fate.cell != fate.cell_after:
                steps.append(Step("move", fate.name, fate.cell, fate.cell_after))
    return Plan(tuple(steps))


def _becoming(fate: Fate) -> Step:
    """Paint a shape that only changes its colour; turn everything else."""
    before, after = fate.name.split(), fate.name_after.split()
    if len(before) == len(after) == 2 and before[1] == after[1]:
        return Step("paint", fate.name, fate.cell, after[0])
    return Step("turn", fate.name, fate.cell, fate.name_after)


def _step(text: str) -> Step | None:
    action = text.split()[0]
    form = _FORMS.get(action)  # type: ignore[call-overload]
    match = form.fullmatch(text) if form else None
    if match is None or match["cell"] not in (*CELLS, *OUTSIDE) or not _is_name(match["name"]):
        return None
    value = match["value"]
    fits = {
        "turn": _is_name(value),
        "paint": usual(value) in COLOURS and match["name"].split()[-1] in SHAPES,
        "move": value in (*CELLS, *OUTSIDE),
    }
    return Step(action, match["name"], match["cell"], value) if fits.get(action, True) else None  # type: ignore[arg-type]


def _is_name(words: str) -> bool:
    return usual(words) in NAMES and all(word in _WORDS for word in words.split())
