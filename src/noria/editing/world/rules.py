"""Events and the rule engine: what becomes of every thing in a scene when something happens.

An event has a name and takes at most two things by name (`swap`). Its outcome is the fate of every thing, and what is
added; an instruction names the event only, so the outcome has to be inferred. The families are those of RISEBench
(arXiv 2504.02826): temporal, causal, spatial, logical. `combined` events are two in sequence.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Literal

from noria.editing.world.scenes import Scene
from noria.editing.world.vocabulary import COLUMNS, SHAPES, cell_at, place

Family = Literal["temporal", "causal", "spatial", "logical", "combined"]
FAMILIES: tuple[Family, ...] = ("temporal", "causal", "spatial", "logical", "combined")

BECOMES: dict[str, dict[str, str]] = {
    "hour": {"ice": "puddle", "snowman": "puddle"},
    "season": {"seedling": "tree", "egg": "chick", "caterpillar": "butterfly"},
    "drought": {"rose": "wilted", "tulip": "wilted", "seedling": "wilted"},
    "heat": {"ice": "puddle", "snowman": "puddle", "corn": "popcorn", "egg": "omelette"},
    "spark": {"log": "fire", "firecracker": "blast"},
}
"""What an event makes of a thing; things that are not named stay."""
EVENTS: dict[str, Family] = {
    "hour": "temporal",
    "season": "temporal",
    "drought": "temporal",
    "heat": "causal",
    "spark": "causal",
    "release": "causal",
    "mirror": "spatial",
    "swap": "spatial",
    "slide": "spatial",
    "odd": "logical",
    "next": "logical",
    "alien": "logical",
}
"""Single events, and their families."""
LIGHT = "balloon"
"""What rises when it is let go."""
WHY = {
    "hour": "an hour in the sun melts ice and snow",
    "season": "in a season seedlings grow, eggs hatch and caterpillars turn",
    "drought": "without water plants wilt",
    "heat": "heat melts ice, pops corn and cooks eggs",
    "spark": "a spark sets what burns on fire",
    "release": "what is let go falls and stacks, a balloon rises",
    "mirror": "a mirror swaps left and right",
    "swap": "the two trade places",
    "slide": "what slides stops at the right wall or at its neighbour",
    "odd": "one shape differs from the others in colour",
    "next": "the colours alternate",
    "alien": "one thing is of another kind than the rest",
}


@dataclass(frozen=True)
class Event:
    """Something that happens.

    Attributes:
        kinds: names of the single events, in order; two for a combined one.
        names: names of the two things that `swap` takes.
    """

    kinds: tuple[str, ...]
    names: tuple[str, ...] = ()

    @property
    def family(self) -> Family:
        """The family of the event."""
        return EVENTS[self.kinds[0]] if len(self.kinds) == 1 else "combined"


@dataclass(frozen=True)
class Fate:
    """Cell and name of a thing before and after an event.

    Attributes:
        cell, name: where it was and what; empty for a thing that is added.
        cell_after, name_after: where it is and what; empty for a thing that is removed.
    """

    cell: str
    name: str
    cell_after: str
    name_after: str

    @property
    def changed(self) -> bool:
        """Whether anything about the thing differs."""
        return (self.cell, self.name) != (self.cell_after, self.name_after)


def outcome(scene: Scene, event: Event) -> tuple[Fate, ...]:
    """Fate of every thing of a scene, in reading order, then of what is added."""
    fates = [Fate(cell, name, cell, name) for cell, name in scene.things]
    for kind in event.kinds:
        fates = _happen(fates, kind, event.names)
    return tuple(fates)


def after(fates: Sequence[Fate], tint: int) -> Scene:
    """The scene once everything has happened."""
    return Scene.of({fate.cell_after: fate.name_after for fate in fates if fate.cell_after}, tint)


def _happen(fates: list[Fate], kind: str, names: tuple[str, ...]) -> list[Fate]:
    here = [fate for fate in fates if fate.cell_after]
    if kind in BECOMES:
        changed = {f: replace(f, name_after=BECOMES[kind].get(f.name_after, f.name_after)) for f in here}
    elif kind == "release":
        changed = _packed(here, axis=1)
    elif kind == "slide":
        changed = _packed(here, axis=0)
    elif kind == "mirror":
        changed = {f: replace(f, cell_after=_mirrored(f.cell_after)) for f in here}
    elif kind == "swap":
        first, second = (next(f for f in here if f.name_after == name) for name in names)
        changed = {first: replace(first, cell_after=second.cell_after)}
        changed[second] = replace(second, cell_after=first.cell_after)
    else:
        changed, added = _reasoned(here, kind)
        fates = [*fates, *added]
    return [changed.get(fate, fate) for fate in fates]


def _mirrored(cell: str) -> str:
    column, row = place(cell)
    return cell_at(len(COLUMNS) - 1 - column, row)


def _packed(fates: list[Fate], *, axis: int) -> dict[Fate, Fate]:
    """Things packed along an axis, 0 to the right and 1 downwards, in their order; balloons rise instead of falling."""
    result = {}
    for line in range(4):
        members = [f for f in fates if place(f.cell_after)[1 - axis] == line]
        members.sort(key=lambda fate: place(fate.cell_after)[axis])
        rising = [f for f in members if axis == 1 and f.name_after == LIGHT]
        falling = [f for f in members if f not in rising]
        spots = [*enumerate(rising), *((4 - len(falling) + n, f) for n, f in enumerate(falling))]
        for spot, fate in spots:
            cell = cell_at(spot, line) if axis == 0 else cell_at(line, spot)
            result[fate] = replace(fate, cell_after=cell)
    return result


def _reasoned(fates: list[Fate], kind: str) -> tuple[dict[Fate, Fate], list[Fate]]:
    """Outcome of the logical events: what changes, and what is added."""
    if kind == "alien":
        count = Counter(f.name_after for f in fates)
        alone = next(f for f in fates if count[f.name_after] == 1)
        return {alone: replace(alone, cell_after="", name_after="")}, []
    drawn = [f for f in fates if f.name_after.split()[-1] in SHAPES]
    if kind == "odd":
        colours = Counter(f.name_after.split()[0] for f in drawn)
        common = colours.most_common(1)[0][0]
        odd = next(f for f in drawn if colours[f.name_after.split()[0]] == 1)
        return {odd: replace(odd, name_after=f"{common} {odd.name_after.split()[1]}")}, []
    row = sorted((f for f in drawn), key=lambda f: place(f.cell_after)[0])  # a b a: the next is b
    following = cell_at(place(row[2].cell_after)[0] + 1, place(row[2].cell_after)[1])
    return {}, [Fate("", "", following, row[1].name_after)]
