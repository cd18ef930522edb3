"""Checklists of a file of tasks: written, validated, and reported with a kill rate for each; it resumes by line."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from noria.core.chat import ChatModel
from noria.core.errors import NoriaError
from noria.core.judging.items import Checklist
from noria.core.pages.charts import Figure
from noria.core.pages.report import write_page
from noria.core.progress import Progress
from noria.editing.checklists.items import checklist_from_json, checklist_to_json, items_of
from noria.editing.data.lines import Lines
from noria.editing.data.pictures import open_scene
from noria.editing.data.tasks import Reference, Task, image_paths
from noria.editing.data.working import work_through
from noria.editing.environment.judges import AtomicJudges
from noria.editing.synthesis.checklists import write_checklist, write_reference
from noria.editing.types import PATHS
from noria.editing.validation.validation import validate

MOST_INVALID = 0.2
"""Largest share of invalid verdicts of a validation; beyond it the judge is at fault, and the task is tried again."""


@dataclass(frozen=True)
class Written:
    """A task's checklist, and how it came about.

    Attributes:
        reference: reference that it was written from.
        checklist: items that are kept.
        dropped: reason by the id of a dropped item.
        kill_rate: share of the mutants that it sees, by path; None where there are none.
        why: why there is no checklist to be used; empty where there is one. What was written stays for the next try.
        invalid, asked: verdicts of the validation that were invalid, and all.
        validated: whether a judge tested it.
    """

    reference: Reference | None = None
    checklist: Checklist = field(default_factory=lambda: Checklist(()))
    dropped: Mapping[str, str] = field(default_factory=dict)
    kill_rate: Mapping[str, float | None] = field(default_factory=dict)
    why: str = ""
    invalid: int = 0
    asked: int = 0
    validated: bool = False

    def too_few(self, least: int) -> str:
        """Why the checklist is too short, in a phrase; empty where it is not."""
        for path in PATHS:
            if len(items_of(self.checklist, path, canaries=False)) < least:
                return f"fewer than {least} {path} items are left"
        return ""

    def to_json(self) -> dict[str, Any]:
        """The values of a line, which `from_json` reads."""
        reference = None if self.reference is None else vars(self.reference)
        values: dict[str, Any] = {"reference": reference, "checklist": checklist_to_json(self.checklist)}
        values |= {"dropped": dict(self.dropped), "kill_rate": dict(self.kill_rate), "why": self.why}
        return values | {"invalid": self.invalid, "asked": self.asked, "validated": self.validated}

    @classmethod
    def from_json(cls, entry: Mapping[str, Any]) -> Written:
        """Read a line.

        Raises:
            DataError: its checklist is malformed.
        """
        given = entry["reference"]
        reference = None
        if given is not None:
            fields: dict[str, Any] = {k: tuple(v) if isinstance(v, list) else v for k, v in given.items()}
            reference = Reference(**fields)
        items = checklist_from_json(entry["checklist"])
        validation = (entry.get("invalid", 0), entry.get("asked", 0), entry.get("validated", False))
        return cls(reference, items, entry["dropped"], entry["kill_rate"], entry["why"], *validation)


async def write_all(
    tasks: Sequence[Task],
    root: Path,
    writer: ChatModel,
    judges: AtomicJudges | None,
    log: Path,
    *,
    rewrite: bool = False,
    mutate: bool = True,
    in_flight: int = 8,
    progress: Progress | None = None,
) -> dict[str, Written]:
    """Write and validate the checklist of every task that has no line yet, or none of a validation that is wanted.

    Args:
        tasks: tasks; one with a checklist keeps it, unless `rewrite`.
        root: folder that their pictures are named from.
        writer: model that writes references and checklists.
        judges: judges that test the items; None tests their form alone.
        log: file of the lines.
        rewrite: whether checklists that are there are written anew.
        mutate: whether mutants are judged.
        in_flight: tasks under way at once.
        progress: shows the finished tasks, if given.

    Raises:
        RunError: another process writes there, or the disk refuses.
    """
    with Lines(log) as lines:
        earlier = {name: Written.from_json(one) for name, one in lines.records.items()}
        written = {
            name: one for name, one in earlier.items() if not one.why and (judges is None or one.validated)
        }
        left = [task for task in tasks if task.id not in written]

        async def work(task: Task) -> None:
            known = earlier.get(task.id)
            one = await write_one(task, root, writer, judges, known, rewrite=rewrite, mutate=mutate)
            lines.add({"id": task.id} | one.to_json())
            written[task.id] = one

        await work_through(
            left,
            work,
            in_flight=in_flight,
            progress=progress,
            label="checklists",
            done=len(tasks) - len(left),
        )
    return written


async def write_one(
    task: Task,
    root: Path,
    writer: ChatModel,
    judges: AtomicJudges | None,
    known: Written | None = None,
    *,
    rewrite: bool = False,
    mutate: bool = True,
) -> Written:
    """Write what is not written yet of one checklist, and validate it; what goes wrong is in `why`.

    The arguments are those of `write_all`; `known` is what an earlier try wrote.
    """
    known = known or Written()
    reference, items, dropped = known.reference or task.reference, known.checklist, dict(known.dropped)
    try:
        scene = await asyncio.to_thread(open_scene, image_paths(task, root))
        if reference is None:
            reference = await write_reference(writer, scene.parts, task.instruction)
        if not len(items):
            items = Checklist(()) if rewrite else task.checklist
        if not len(items):
            items, dropped = await write_checklist(writer, scene.parts, task.instruction, reference)
        if judges is None:
            return Written(reference, items, dropped)
        whole = replace(task, reference=reference, checklist=items)
        result = await validate(whole, scene, judges, mutate=mutate)
    except NoriaError as error:
        return Written(reference, items, dropped, why=str(error))
    counts = (result.invalid, result.asked)
    if result.invalid_share > MOST_INVALID:
        why = f"the judge failed: {result.invalid:,} of {result.asked:,} verdicts are invalid"
        return Written(reference, items, dropped, why=why, invalid=result.invalid, asked=result.asked)
    dropped |= {one.id: one.why for one in result.items if one.why}
    rates = {path: result.kill_rate(path) for path in result.mutants}
    return Written(reference, result.checklist, dropped, rates, "", *counts, validated=True)


def write_report(path: Path, written: Mapping[str, Written], dropped: Mapping[str, str]) -> None:
    """Write the page: items kept and dropped by reason, kill rates, invalid verdicts, every task without a checklist.

    Raises:
        RunError: the disk refuses.
    """
    reasons = Counter(why for one in written.values() for why in one.dropped.values())
    kept = sum(len(one.checklist) for one in written.values() if not one.why)
    counts: list[list[str | int | float | None]] = [["kept", kept]]
    counts += [[why, n] for why, n in reasons.most_common()]
    rates: list[list[str | int | float | None]] = []
    for name, one in written.items():
        sizes = [len(items_of(one.checklist, path, canaries=False)) for path in PATHS]
        rates.append(
            [
                name,
                *sizes,
                *(one.kill_rate.get(path) for path in PATHS),
                f"{one.invalid:,} of {one.asked:,}" if one.asked or one.validated else "not validated",
                one.why or dropped.get(name) or "-",
            ]
        )
    header = [
        "task",
        "items of the plan",
        "of the picture",
        "kill rate of the plan",
        "of the picture",
        "invalid verdicts",
        "why dropped",
    ]
    write_page(
        path,
        "Checklists",
        [
            (
                "Items",
                [Figure.table("Kept, and dropped by their first reason", ["outcome", "items"], counts)],
            ),
            ("Tasks", [Figure.table("Every task", header, rates)]),
        ],
        intro=f"{len(written) - len(dropped):,} of {len(written):,} tasks have a checklist. A kill rate is the share "
        "of mutants, plans and pictures that are wrong in one known way, on which an item turns.",
        footer="Made by noria editing checklist.",
    )
