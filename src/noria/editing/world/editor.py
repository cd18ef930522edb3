"""The frozen editor of the world: it draws what a plan says, and has the quirks of real ones.

* It repairs sloppy plans silently: a cell outside of the grid is the nearest free one inside, and a thing that is not
  where the plan says is looked for by its name. The image is right, though the plan is not.
* It does not know some words (`orange`), only their synonyms (`amber`): such a step does nothing. The plan is right,
  though the image is not.
* It takes at most `most_steps` steps, and skips impossible ones.
* With some probability it disturbs a thing that no step speaks of; the same image, plan and seed always do the same.

The quirks are planted: what follows from them by construction is a check of the proof and not a claim.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import asdict, dataclass

import numpy as np
from PIL import Image

from noria.core.errors import DataError
from noria.editing.types import EditorError
from noria.editing.world.plans import Plan, Step, parse
from noria.editing.world.scenes import Scene, read, render
from noria.editing.world.vocabulary import CELLS, DRAWN, place, usual


@dataclass(frozen=True)
class WorldEditor:
    """E(image, plan, seed) → image.

    Attributes:
        unknown: words that it does not know.
        repairs: whether it repairs sloppy plans.
        disturbs: probability that it disturbs a thing that no step speaks of.
        most_steps: largest number of steps that it takes.
    """

    unknown: tuple[str, ...] = ("puddle", "wilted", "blast", "fire", "orange", "green")
    repairs: bool = True
    disturbs: float = 0.05
    most_steps: int = 6

    @property
    def name(self) -> str:
        """Name of the editor with a digest of its settings, for caches."""
        return f"world-{self.digest[:8]}"

    @property
    def digest(self) -> str:
        """SHA-256 of all that decides an edit: proof that a training left the editor alone."""
        drawings = render(Scene.of(dict(zip(CELLS, DRAWN, strict=False)))).tobytes()
        return hashlib.sha256(repr(asdict(self)).encode() + drawings).hexdigest()

    def edit(self, image: Image.Image, plan: str, seed: int = 0) -> Image.Image:
        """Draw the image after the plan; it has the size of the source.

        Args:
            image: source, 96 × 96 pixels.
            plan: text of the plan.
            seed: seed of what the editor does by chance.

        Raises:
            DataError: the image has another size.
        """
        scene, steps = read(image), parse(plan)
        key = f"{seed}|{scene}|{steps}".encode()
        chance = np.random.default_rng(list(hashlib.sha256(key).digest()[:16]))
        return render(self.edit_scene(scene, steps, chance), grain=seed)

    def edit_scene(self, scene: Scene, plan: Plan, chance: np.random.Generator) -> Scene:
        """The scene after the plan, with what happens by chance."""
        before = scene.by_cell
        things = dict(before)  # cell of the source → name, "" once removed
        moves: dict[str, str] = {}
        added: list[tuple[str, str]] = []
        touched = set()
        for step in [s for s in plan.steps if s.action != "keep"][: self.most_steps]:
            if self._unknown(step):
                continue
            if step.action == "add":
                added.append((step.cell, usual(step.name)))
                continue
            cell = self._found(before, step)
            if cell is None:
                continue
            touched.add(cell)
            attribute, value = step.effect
            if attribute == "cell":
                moves[cell] = value
            else:
                things[cell] = "" if attribute == "remove" else value
        calm = [cell for cell in before if cell not in touched]
        if calm and chance.random() < self.disturbs:
            self._disturb(things, calm[int(chance.integers(len(calm)))], chance)
        return self._placed(things, moves, added, scene.tint)

    def _unknown(self, step: Step) -> bool:
        return any(
            word in self.unknown for word in (step.name if step.action == "add" else step.value).split()
        )

    def _found(self, before: dict[str, str], step: Step) -> str | None:
        """The cell of the thing that a step speaks of; a repairing editor also finds it elsewhere by its name."""
        if before.get(step.cell) == usual(step.name):
            return step.cell
        named = [cell for cell, name in before.items() if name == usual(step.name)]
        return named[0] if self.repairs and len(named) == 1 else None

    def _placed(
        self, things: dict[str, str], moves: dict[str, str], added: list[tuple[str, str]], tint: int
    ) -> Scene:
        """Put everything in its cell: what stays first, then what moves or is new, nearest to the edge first."""
        result = {cell: name for cell, name in things.items() if name and cell not in moves}
        wanted = [(target, things[cell], cell) for cell, target in moves.items() if things[cell]]
        wanted += [(target, name, "") for target, name in added]
        inside = [w for w in wanted if w[0] in CELLS]
        # Several things that are sent beyond one edge stack up in the order in which they stand.
        beyond = sorted((w for w in wanted if w[0] not in CELLS), key=lambda w: _depth(w[0], w[2]))
        for target, name, source in [*inside, *beyond]:
            spot = target if target in CELLS and target not in result else None
            if spot is None and self.repairs:
                spot = _nearest_free(target, result)
            if spot is None and source and source not in result:
                spot = source  # an impossible move is skipped
            if spot is not None:
                result[spot] = name
        return Scene.of(result, tint)

    def _disturb(self, things: dict[str, str], cell: str, chance: np.random.Generator) -> None:
        """Repaint a drawn shape, or let a thing vanish."""
        name = things[cell]
        if name in DRAWN:
            others = [n for n in DRAWN if n.split()[1] == name.split()[1] and n != name]
            things[cell] = others[int(chance.integers(len(others)))]
        else:
            things[cell] = ""


def _depth(target: str, source: str) -> int:
    """Distance of a thing from the edge beyond which it is sent."""
    if not source:
        return 9
    column, row = place(source)
    return 3 - column if target[0] == "z" else row if target[1] == "0" else 3 - row


def _nearest_free(target: str, taken: dict[str, str]) -> str | None:
    """The free cell nearest to a target inside or outside of the grid, towards the inside."""
    column = 4 if target[0] == "z" else "abcd".index(target[0])
    row = {"0": -1, "9": 4}.get(target[1], int(target[1]) - 1)
    free = [cell for cell in CELLS if cell not in taken]

    def distance(cell: str) -> tuple[int, int]:
        x, y = place(cell)
        across = abs(x - column) if target[0] == "z" else abs(y - row)
        aside = abs(y - row) if target[0] == "z" else abs(x - column)
        return aside, across  # in its own column or row first

    return min(free, key=distance, default=None)


class AsyncWorldEditor:
    """The world's editor behind the protocol of every editor.

    Args:
        editor: editor with its quirks; the usual ones by default.
    """

    def __init__(self, editor: WorldEditor | None = None) -> None:
        self.editor = editor or WorldEditor()
        self.name = self.editor.name

    @property
    def digest(self) -> str:
        """SHA-256 of all that decides an edit."""
        return self.editor.digest

    async def edit(
        self, images: Sequence[Image.Image], plan: str, seed: int, *, mask: Image.Image | None = None
    ) -> Image.Image:
        """Draw the plan.

        Raises:
            EditorError: several pictures, a mask, or a picture that is not 96 × 96.
        """
        if len(images) != 1 or mask is not None:
            raise EditorError("the world's editor takes one picture and no mask", kind="unsupported")
        try:
            return self.editor.edit(images[0], plan, seed)
        except DataError as error:
            raise EditorError(str(error), kind="unsupported") from None
