"""A gate after a year of rain: a scripted planner and a scripted editor, judged by programs, with a page at the end.

Both are stand-ins for models that are not here: the planner forgets the hinge at first, and mends its plan when it
reads what the checklist found; the editor knows one sentence.
"""

from __future__ import annotations

import asyncio
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from PIL import Image, ImageDraw

from noria.core.judging import Checklist, RuleJudge
from noria.editing import AtomicJudges, Scene, ThinkThenEdit
from noria.editing.checklists.items import EditItem
from noria.editing.checklists.verifiers import Evidence, register_verifier
from noria.editing.plans import format_output
from noria.editing.use.page import write_edit

PARTS = {"gate": (60, 60, 180, 200), "hinge": (180, 90, 200, 110), "leaf": (20, 20, 40, 40)}
COLOURS = {"iron": (110, 115, 125), "rust": (183, 92, 40), "green": (60, 140, 60)}


class Planner:
    """A planner that forgets the hinge until it reads that the hinge is not rusty."""

    name = "scripted planner"

    async def write(
        self, images: Sequence[Image.Image], instruction: str, *, sample: int = 0, notes: str = ""
    ) -> str:
        """Write a plan; the second one, with the notes of the first, is whole."""
        plan = "Paint the gate rust."
        if "hinge" in notes:
            plan += " Paint the hinge rust."
        return format_output("Iron rusts in the rain; leaves do not.", f"{plan} Leave the leaf green.")


class Painter:
    """An editor that knows one sentence, `Paint the PART COLOUR`, and does what it says."""

    name = "painter"

    async def edit(
        self, images: Sequence[Image.Image], plan: str, seed: int, *, mask: Image.Image | None = None
    ) -> Image.Image:
        """Paint each part that the plan names."""
        picture = images[0].copy()
        for part, colour in re.findall(r"Paint the (\w+) (\w+)", plan):
            ImageDraw.Draw(picture).rectangle(PARTS[part], fill=COLOURS[colour])
        return picture


@register_verifier("example.part")
def part_is(item: EditItem, evidence: Evidence) -> bool | None:
    """Whether a part is of a colour in the picture, or in the plan."""
    part, colour = item.arguments["part"], item.arguments["colour"]
    if evidence.edited is not None:
        left, top, _, _ = PARTS[part]
        pixel: Any = evidence.edited.getpixel((left + 2, top + 2))
        return bool(pixel == COLOURS[colour])
    return evidence.plan is not None and f"{part} {colour}" in evidence.plan


def checklist() -> Checklist:
    """Every part in the plan and in the picture."""
    wanted = {"gate": "rust", "hinge": "rust", "leaf": "green"}
    items: list[EditItem] = []
    for part, colour in wanted.items():
        where: dict[str, Any] = {"verifier": "example.part", "arguments": {"part": part, "colour": colour}}
        role: Any = "keep" if part == "leaf" else "change"
        items.append(
            EditItem(f"plan-{part}", f"Does the plan make the {part} {colour}?", "cognitive", **where)
        )
        items.append(EditItem(part, f"Is the {part} {colour}?", "visual", role=role, **where))
    return Checklist(tuple(items))


def main() -> None:
    """Edit, and write the page."""
    picture = Image.new("RGB", (240, 240), (225, 230, 235))
    for part, colour in {"gate": "iron", "hinge": "iron", "leaf": "green"}.items():
        ImageDraw.Draw(picture).rectangle(PARTS[part], fill=COLOURS[colour])
    nobody = RuleJudge(lambda item, subject: None)  # every item has a verifier: no judge is asked
    edit = ThinkThenEdit(Planner(), Painter(), judges=AtomicJudges(nobody, nobody))
    request = "What does the gate look like after a year of rain?"
    scene = Scene((picture,))
    results = asyncio.run(edit.edit(scene, request, checklist=checklist(), tries=3))
    for number, result in enumerate(reversed(results), start=1):
        print(
            f"try {number}: plan {result.cognitive.value:.2f}, picture {result.visual.value:.2f}: {result.plan.text}"
        )
    print(write_edit(Path("out"), scene, request, results))


if __name__ == "__main__":
    main()
