"""The page of an edit: before, plan, after, and the checklist with its verdicts."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from PIL import Image
from PIL.Image import Image as Picture

from noria.core.files import write_atomic
from noria.core.pages.charts import Figure
from noria.core.pages.report import Block, write_page
from noria.core.picture_files import png
from noria.core.records import json_values
from noria.editing.checklists.items import checklist_to_json, items_of
from noria.editing.data.pictures import Scene
from noria.editing.use.session import EditResult

LONGEST_SIDE = 460
"""Longest side of a picture on a page, in pixels."""


def on_page(picture: Picture, *, longest: int = LONGEST_SIDE) -> bytes:
    """A picture as a PNG that fits on a page."""
    factor = longest / max(picture.size)
    if factor < 1:
        size = (max(1, round(picture.width * factor)), max(1, round(picture.height * factor)))
        picture = picture.resize(size, Image.Resampling.LANCZOS)
    return png(picture)


def write_edit(folder: Path, scene: Scene, instruction: str, results: Sequence[EditResult]) -> Path:
    """Write `edited.png`, `result.json` and `report.html` of an edit, and return the page.

    Args:
        folder: folder of the files; made if need be.
        scene: pictures of the request.
        instruction: what was asked for.
        results: tries, the best one first.

    Raises:
        RunError: the disk refuses.
    """
    best = results[0]
    if best.image is not None:
        write_atomic(folder / "edited.png", png(best.image))
    content = {"instruction": instruction, "tries": [result_json(one) for one in results]}
    write_atomic(
        folder / "result.json", json.dumps(json_values(content), ensure_ascii=False, indent=1) + "\n"
    )
    page = folder / "report.html"
    write_page(
        page,
        "Edit",
        edit_sections(scene, results),
        intro=f"Request: {instruction}",
        footer="Made by noria editing edit from result.json in this folder.",
    )
    return page


def edit_sections(scene: Scene, results: Sequence[EditResult]) -> list[tuple[str, Sequence[Block]]]:
    """Sections of the page: the best try, then the others."""
    best = results[0]
    sections: list[tuple[str, Sequence[Block]]] = [
        ("Before and after", [*_sources(scene), *_after(best)]),
        ("Plan", _plan(best)),
        ("Checklist", _checklist(best)),
    ]
    if len(results) > 1:
        others: list[Block] = []
        for number, one in enumerate(results[1:], start=2):
            others += [_picture(one, f"Try {number}"), one.plan.text or one.why]
        sections.append(("Other tries", others))
    return sections


def result_json(result: EditResult) -> dict[str, Any]:
    """A try as JSON values, without its picture."""
    rendering = result.rendering
    return {
        "plan": result.plan.text,
        "thinking": result.plan.thinking,
        "problem": result.plan.problem,
        "why": result.why,
        "seed": result.seed,
        "registered": "" if rendering is None else rendering.registered,
        "seconds": None if rendering is None else rendering.seconds,
        "cached": None if rendering is None else rendering.cached,
        "cognitive": vars(result.cognitive),
        "visual": vars(result.visual),
        "checklist": checklist_to_json(result.checklist),
        "verdicts": [vars(one) for one in result.verdicts],
    }


def _sources(scene: Scene) -> list[Block]:
    names = ["Before", *(f"Picture {n}" for n in range(2, len(scene.images) + 1))]
    return [Figure.picture(name, on_page(image)) for name, image in zip(names, scene.images, strict=True)]


def _after(result: EditResult) -> list[Block]:
    figure = _picture(result, "After")
    note = "" if result.rendering is None else result.rendering.registered
    return [figure, f"Put back onto the source: {note}."] if note else [figure]


def _picture(result: EditResult, title: str) -> Block:
    if result.image is None:
        return f"{title}: no picture ({result.why})."
    return Figure.picture(title, on_page(result.image), _score(result))


def _score(result: EditResult) -> str:
    words = []
    for name, part in (("plan", result.cognitive), ("picture", result.visual)):
        if part.value is not None:
            words.append(f"{name} {part.value:.2f}")
        elif part.why != "empty":
            words.append(f"{name} not judged: {part.why}")
    return ", ".join(words)


def _plan(result: EditResult) -> list[Block]:
    blocks: list[Block] = [result.plan.text or f"There is no plan: {result.plan.problem}."]
    if result.plan.thinking:
        blocks.append(Figure.table("Reasoning", ["the planner's own words"], [[result.plan.thinking]]))
    return blocks


def _checklist(result: EditResult) -> list[Block]:
    given = {one.item: one for one in result.verdicts}
    rows = []
    for item in items_of(result.checklist):
        verdict = given.get(item.id)
        value = "invalid" if verdict is None else verdict.value
        mark = "?" if value == "invalid" else "right" if value == item.good else "wrong"
        kind = "canary" if item.role == "canary" else item.dimension
        rows.append([item.path, kind, item.question, value, mark, verdict.reason if verdict else ""])
    if not rows:
        return ["Nothing was checked: there was no checklist, or no judge."]
    header = ["of the", "about", "question", "answer", "verdict", "reason"]
    for row in rows:
        row[0] = "plan" if row[0] == "cognitive" else "picture"
        row[5] = row[5] or "no reason given"
    return [Figure.table("Items", header, rows)]
