"""Edits of a file of tasks, which resume: a line of results a task, written when its picture is on the disk."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from noria.core.errors import DataError, NoriaError
from noria.core.files import write_atomic
from noria.core.pages.charts import Figure
from noria.core.pages.report import Block, write_page
from noria.core.picture_files import open_picture, png
from noria.core.progress import Progress
from noria.editing.data.lines import Lines
from noria.editing.data.names import file_name, task_seed
from noria.editing.data.pictures import open_scene
from noria.editing.data.tasks import Task, image_paths
from noria.editing.data.working import work_through
from noria.editing.use.page import on_page, result_json
from noria.editing.use.session import ThinkThenEdit

SHOWN = 24
"""Most tasks on the page of a batch."""


@dataclass(frozen=True)
class BatchResult:
    """Tasks of a batch by outcome, and its files.

    Attributes:
        edited: tasks with a picture, from this call.
        failed: tasks without one.
        skipped: tasks that an earlier call had edited.
        file: lines of results.
        page: page of the batch.
    """

    edited: int
    failed: int
    skipped: int
    file: Path
    page: Path


async def edit_tasks(
    edit: ThinkThenEdit,
    tasks: Sequence[Task],
    folder: Path,
    *,
    root: Path,
    tries: int = 1,
    samples: int = 1,
    seed: int = 0,
    in_flight: int = 8,
    progress: Progress | None = None,
) -> BatchResult:
    """Edit every task that has no picture yet. A call that was killed is resumed by the same call.

    Args:
        edit: planner, editor and judges.
        tasks: tasks.
        folder: folder of `results.jsonl`, `pictures/` and `report.html`.
        root: folder that the tasks' pictures are named from.
        tries, samples, seed: those of `ThinkThenEdit.edit`; the seed of a task follows from its id.
        in_flight: tasks under way at once.
        progress: shows the finished tasks, if given.

    Raises:
        DataError: a task's picture lies outside of `root`, or the lines are damaged.
        RunError: another process writes there, or the disk refuses.
    """
    for task in tasks:
        image_paths(task, root)  # a name that leaves the folder is refused before anything is asked
    counts = {"edited": 0, "failed": 0}
    with Lines(folder / "results.jsonl") as lines:
        done = {name for name, record in lines.records.items() if record.get("picture")}
        left = [task for task in tasks if task.id not in done]
        skipped = len(tasks) - len(left)

        async def work(task: Task) -> None:
            record = await _edited(edit, task, folder, root, tries=tries, samples=samples, seed=seed)
            lines.add(record)
            counts["edited" if record["picture"] else "failed"] += 1

        await work_through(left, work, in_flight=in_flight, progress=progress, label="edit", done=skipped)
        page = _write_page(folder, root, tasks, lines.records)
    return BatchResult(counts["edited"], counts["failed"], skipped, lines.path, page)


async def _edited(
    edit: ThinkThenEdit, task: Task, folder: Path, root: Path, *, tries: int, samples: int, seed: int
) -> dict[str, Any]:
    """The record of one task; what goes wrong with it is in the record."""
    record: dict[str, Any] = {"id": task.id, "family": task.family, "instruction": task.instruction}
    try:
        scene = await asyncio.to_thread(open_scene, image_paths(task, root))
        results = await edit.edit(
            scene,
            task.instruction,
            checklist=task.checklist if edit.judges is not None else None,
            tries=tries,
            samples=samples,
            seed=task_seed(task.id, seed),
        )
    except NoriaError as error:
        return record | {"picture": None, "why": str(error)}
    best = results[0]
    name = None
    if best.image is not None:
        name = f"pictures/{file_name(task.id)}.png"
        write_atomic(folder / name, png(best.image))
    return record | {"picture": name, "tries": len(results)} | result_json(best)


def _write_page(folder: Path, root: Path, tasks: Sequence[Task], records: dict[str, dict[str, Any]]) -> Path:
    rows = []
    shown: list[tuple[str, Sequence[Block]]] = []
    for task in tasks:
        record = records.get(task.id, {})
        values = [(record.get(path) or {}).get("value") for path in ("cognitive", "visual")]
        rows.append(
            [
                task.id,
                task.family,
                "yes" if record.get("picture") else "no",
                *values,
                record.get("why") or "-",
            ]
        )
        if len(shown) < SHOWN and record.get("picture"):
            blocks: list[Block] = [task.instruction]
            try:
                before = open_picture(image_paths(task, root)[0])
                after = open_picture(folder / str(record["picture"]))
            except DataError as error:
                blocks.append(str(error))
            else:
                blocks.append(Figure.picture("Before", on_page(before, longest=320)))
                blocks.append(Figure.picture("After", on_page(after, longest=320)))
            shown.append((task.id, [*blocks, str(record.get("plan"))]))
    header = ["task", "family", "picture", "r_cog", "r_vis", "why not"]
    page = folder / "report.html"
    sections: list[tuple[str, Sequence[Block]]] = [
        ("Tasks", [Figure.table("Every task", header, rows)]),
        *shown,
    ]
    write_page(
        page, "Edits", sections, footer="Made by noria editing edit from results.jsonl in this folder."
    )
    return page
