"""Tasks of the world: a scene, an instruction that names an event, its outcome by the rules, and its checklist.

Every task passes the null test by construction: the source fails all change items and passes all others.

```
train        compositions that are trained on
composition  events with things that are never trained together
wording      instructions in words that are kept from training
larger       scenes of five things
combined     two events in sequence: the held-out family
```
"""

from __future__ import annotations

import functools
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Literal

import numpy as np
from PIL.Image import Image

from noria.core.judging.items import Checklist
from noria.editing.data.tasks import Reference, Task
from noria.editing.plans import format_output
from noria.editing.world.checklists import checklist_of
from noria.editing.world.instructions import instruct
from noria.editing.world.plans import Plan, Step, reworded, written
from noria.editing.world.rules import BECOMES, EVENTS, LIGHT, WHY, Event, Family, Fate, after, outcome
from noria.editing.world.scenes import Scene, render
from noria.editing.world.vocabulary import (
    CELLS,
    COLOURS,
    DRAWN,
    EXECUTABLE,
    INERT,
    NAMES,
    SHAPES,
    SPRITES,
    cell_at,
)

Split = Literal["train", "composition", "wording", "larger", "combined"]
SPLITS: tuple[Split, ...] = ("train", "composition", "wording", "larger", "combined")
HELD_OUT = {
    ("hour", "snowman"),
    ("season", "caterpillar"),
    ("drought", "tulip"),
    ("heat", "corn"),
    ("release", "turtle"),
    ("mirror", "mushroom"),
    ("swap", "fish"),
    ("slide", "cookie"),
    ("odd", "triangle"),
    ("next", "purple"),
    ("alien", "butterfly"),
}
"""Event and a word of a thing that it changes: never trained together."""
_HELD = {kind for kind, _ in HELD_OUT}


@dataclass(frozen=True)
class WorldTask:
    """A task, with its truth.

    Attributes:
        scene: source.
        event: what happens.
        instruction: words that name the event.
        fates: outcome by the rules.
        grain: seed of the source picture's noise.
    """

    scene: Scene
    event: Event
    instruction: str
    fates: tuple[Fate, ...]
    grain: int

    @property
    def family(self) -> Family:
        """Family of the event."""
        return self.event.family

    @property
    def image(self) -> Image:
        """The source picture."""
        return _image(self.scene, self.grain)

    @property
    def target(self) -> Scene:
        """The scene after the event."""
        return after(self.fates, self.scene.tint)

    @property
    def plan(self) -> Plan:
        """The plan that is right, in words that the editor knows."""
        return reworded(written(self.fates), EXECUTABLE)

    def checklist(self, *, grounded: bool = True) -> Checklist:
        """The checklist, from the outcome or, without ground, from the instruction alone."""
        return _checklist(self, grounded)

    @property
    def reference(self) -> Reference:
        """The rational reference: the outcome in sentences that are a plan, too, and why."""
        steps = [str(step) for step in self.plan.steps]
        kept = [f"keep {fate.name} at {fate.cell}" for fate in self.fates if not fate.changed]
        why = "; ".join(WHY[kind] for kind in self.event.kinds)
        return Reference(" ; ".join(steps), tuple(steps), tuple(kept), why)

    def task(self, identity: str, image: str) -> Task:
        """The task as files of tasks hold it.

        Args:
            identity: id of the task in its file.
            image: path of the picture, from the file's folder.
        """
        category = {"bench_like": f"rise.{self.family}", "leaf": "+".join(self.event.kinds)}
        provenance = {
            "source": "world",
            "licence": "Graphics: Twemoji, © Twitter and contributors, CC BY 4.0",
        }
        return Task(
            identity, (image,), self.instruction, category, self.reference, self.checklist(),
            provenance=provenance,
        )  # fmt: skip


@functools.lru_cache(4096)
def _image(scene: Scene, grain: int) -> Image:
    return render(scene, grain=grain)


@functools.lru_cache(4096)
def _checklist(task: WorldTask, grounded: bool) -> Checklist:
    return checklist_of(task.scene, task.fates, grounded=grounded)


def tasks(split: Split, seed: int, *, events: tuple[str, ...] = tuple(EVENTS)) -> Iterator[WorldTask]:
    """Endless tasks of a split, the same for the same seed.

    Args:
        split: which tasks.
        seed: seed of the stream.
        events: names of the events to draw from.
    """
    chance = np.random.default_rng([seed, SPLITS.index(split)])
    while True:
        event_names = tuple(events)
        kind = event_names[int(chance.integers(len(event_names)))]
        kinds: tuple[str, ...] = (kind,)
        if split == "combined":
            if not _leads(kind):
                continue
            later = [k for k in ("mirror", "release", "slide") if k != kind]
            kinds = (kind, later[int(chance.integers(len(later)))])
        task = _drawn(kinds, chance, split)
        if task is not None:
            yield task


def take(split: Split, seed: int, count: int, *, balanced: bool = True) -> list[WorldTask]:
    """Different tasks of a split, equally many of each event where `balanced`."""
    found: dict[tuple[Scene, str], WorldTask] = {}
    streams = [tasks(split, 1000 * seed + n, events=(kind,)) for n, kind in enumerate(EVENTS)]
    if split in ("combined", "composition"):
        chosen = [
            (split == "composition" and kind in _HELD) or (split == "combined" and _leads(kind))
            for kind in EVENTS
        ]
        streams = [stream for stream, fits in zip(streams, chosen, strict=True) if fits]
    while len(found) < count:
        for stream in streams if balanced else [tasks(split, seed)]:
            task = next(stream)
            found.setdefault((task.scene, task.instruction), task)
    return list(found.values())[:count]


def _leads(kind: str) -> bool:
    """Whether a combined task starts with this event, which a movement follows."""
    return EVENTS[kind] in ("temporal", "causal") and kind != "release"


def held_out(event: Event, fates: tuple[Fate, ...]) -> bool:
    """Whether an event changes a thing that it is never trained with."""
    words = {word for f in fates if f.changed for word in (*f.name.split(), *f.name_after.split())}
    return any((kind, word) in HELD_OUT for kind in event.kinds for word in words)


def demonstration(task: WorldTask, chance: np.random.Generator, *, sloppy: float = 0.8, vague: float = 0.75,
                  faulty: float = 0.15) -> str:  # fmt: skip
    """A noisy think/answer output, as an imperfect writer would demonstrate it.

    Args:
        task: the task.
        chance: draws the faults.
        sloppy: probability that a thing which falls or slides is sent beyond the edge, instead of to its cell.
        vague: probability that the usual word is used, which the editor may not know.
        faulty: probability that a step is missing or goes to a wrong cell.
    """
    plan = written(task.fates)
    if chance.random() >= vague:
        plan = reworded(plan, EXECUTABLE)
    steps = list(plan.steps)
    if chance.random() < sloppy:
        steps = [_sloppy(step, task.event) for step in steps]
    if chance.random() < faulty:
        place = int(chance.integers(len(steps)))
        if len(steps) > 1 and chance.random() < 0.5:
            del steps[place]
        elif steps[place].action == "move":
            wrong = CELLS[int(chance.integers(len(CELLS)))]
            steps[place] = Step("move", steps[place].name, steps[place].cell, wrong)
    return format_output(thinking(task.scene), str(Plan(tuple(steps))))


def thinking(scene: Scene) -> str:
    """What is in the picture, in reading order: the chain that precedes a plan."""
    return " , ".join(f"{name} {cell}" for cell, name in scene.things)


def _sloppy(step: Step, event: Event) -> Step:
    if step.action != "move":
        return step
    if event.kinds[-1] == "release":
        return Step("move", step.name, step.cell, step.cell[0] + ("0" if step.name == LIGHT else "9"))
    if event.kinds[-1] == "slide":
        return Step("move", step.name, step.cell, "z" + step.cell[1])
    return step


# --- drawing a task -------------------------------------------------------------------------------------------


def _drawn(kinds: tuple[str, ...], chance: np.random.Generator, split: Split) -> WorldTask | None:
    """A task of these events, or None where the draw has no outcome or belongs to another split."""
    things = _things(kinds[0], chance, 5 if split == "larger" else int(chance.integers(2, 5)))
    if things is None:
        return None
    scene = Scene.of(things, int(chance.integers(5)))
    names = tuple(things.values())
    event = Event(kinds, names[:2] if kinds[0] == "swap" else ())
    fates = outcome(scene, event)
    if not _tells(scene, fates) or held_out(event, fates) != (split == "composition"):
        return None
    words = instruct(event, chance, held_out=split == "wording")
    return WorldTask(scene, event, words, fates, int(chance.integers(2**31)))


def _tells(scene: Scene, fates: tuple[Fate, ...]) -> bool:
    """Whether the outcome differs from the source wherever a fate says so, so that no change item holds before."""
    target = after(fates, scene.tint)
    placed = [fate.cell_after for fate in fates if fate.cell_after]
    if target.things == scene.things or len(set(placed)) < len(placed):
        return False
    return all(scene.by_cell.get(f.cell_after) != f.name_after for f in fates if f.changed and f.cell_after)


def _things(kind: str, chance: np.random.Generator, count: int) -> dict[str, str] | None:
    """Names by cell that suit the first event."""
    cells = [CELLS[n] for n in chance.permutation(len(CELLS))]
    if kind == "next":
        colours = chance.permutation(list(COLOURS))[:2]
        shape, row = SHAPES[int(chance.integers(3))], int(chance.integers(4))
        names = [f"{colours[n % 2]} {shape}" for n in range(3)]
        things = {cell_at(n, row): name for n, name in enumerate(names)}
        free = [cell for cell in cells if cell[1] != cell_at(0, row)[1]]
        return things | dict(zip(free, _others(chance, max(0, count - 3), INERT), strict=False))
    if kind == "odd":
        colours = chance.permutation(list(COLOURS))[:2]
        shapes = [SHAPES[int(n)] for n in chance.integers(3, size=3)]
        names = [f"{colours[int(n == 2)]} {shape}" for n, shape in enumerate(shapes)]
        names += _others(chance, max(0, count - 3), INERT)
    elif kind == "alien":
        same, alone = _others(chance, 2, tuple(SPRITES))
        names = [same] * max(2, count - 1) + [alone]
    elif kind in BECOMES:
        first = _others(chance, 1 + int(chance.integers(2)), tuple(BECOMES[kind]))
        names = first + _others(chance, count - len(first), tuple(n for n in NAMES if n not in first))
    else:
        pool = (*INERT, *INERT, *SPRITES, *DRAWN)
        names = _others(chance, count, pool)
    return dict(zip(cells, names, strict=False)) if len(set(names)) > 1 else None


def _others(chance: np.random.Generator, count: int, pool: tuple[str, ...]) -> list[str]:
    """Different names of a pool."""
    different = list(dict.fromkeys(pool[int(n)] for n in chance.permutation(len(pool))))
    return different[:count]
