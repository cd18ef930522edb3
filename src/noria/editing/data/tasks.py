"""Tasks: a source picture, an instruction, what its result should be, and its checklist; one JSON object a line."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from noria.core.errors import DataError
from noria.core.files import inside, read_bytes, write_atomic
from noria.core.judging.items import Checklist
from noria.core.records import read_records
from noria.editing.checklists.items import checklist_from_json, checklist_to_json

MOST_BYTES = 100_000_000
"""Most bytes of a picture's file."""
_SUFFIXES = (".png", ".jpg", ".jpeg", ".webp", ".gif", ".bmp", ".tif", ".tiff")


@dataclass(frozen=True)
class Reference:
    """The rational reference ρ: the scene after the edit, and why.

    Attributes:
        outcome: the scene after the edit.
        must_change, must_keep: facts that change, and that stay.
        why: the reason, by time, cause, space or logic.
        forbidden: results that would be wrong.
    """

    outcome: str
    must_change: tuple[str, ...] = ()
    must_keep: tuple[str, ...] = ()
    why: str = ""
    forbidden: tuple[str, ...] = ()

    @property
    def text(self) -> str:
        """All of it but the reason, as one text: the plan of an oracle, and what evidence is cited from."""
        return "\n".join(line for line in (self.outcome, *self.must_change, *self.must_keep) if line)


@dataclass(frozen=True)
class Difficulty:
    """Rewards of K rollouts of a planner on one task.

    Attributes:
        k: number of rollouts.
        p_cog, p_vis: mean rewards; None where none was valid.
        s_cog, s_vis: deviations of the rewards.
        oracle_vis: visual reward of the reference's own render; None where there is none.
        bucket: `easy`, `medium` or `hard`.
    """

    k: int
    p_cog: float | None = None
    p_vis: float | None = None
    s_cog: float | None = None
    s_vis: float | None = None
    oracle_vis: float | None = None
    bucket: str = ""


@dataclass(frozen=True)
class Task:
    """One request to edit a picture.

    Attributes:
        id: name of the task, unique in its file.
        images: paths of the pictures, from the file's folder; the first is the one that is edited.
        instruction: what the user asks for.
        category: family of the edit, such as `rise.temporal`, and its leaf.
        reference: result that is expected; None where nobody wrote it.
        checklist: items of both paths.
        difficulty: a planner's rewards on the task; None before curation.
        provenance: source, licence, decontamination; JSON values.
        extra: further fields, kept as they came.
    """

    id: str
    images: tuple[str, ...]
    instruction: str
    category: Mapping[str, str] = field(default_factory=dict)
    reference: Reference | None = None
    checklist: Checklist = field(default_factory=lambda: Checklist(()))
    difficulty: Difficulty | None = None
    provenance: Mapping[str, Any] = field(default_factory=dict)
    extra: Mapping[str, Any] = field(default_factory=dict)

    @property
    def family(self) -> str:
        """Family of the edit, which tables are broken down by; `all` where there is none."""
        return self.category.get("bench_like") or "all"

    def to_json(self) -> dict[str, Any]:
        """The task as JSON values, which `task_from_json` reads."""
        entry: dict[str, Any] = {"id": self.id}
        if self.category:
            entry["category"] = dict(self.category)
        entry |= {"image": self.images[0]} if len(self.images) == 1 else {"images": list(self.images)}
        entry["instruction"] = self.instruction
        if self.reference is not None:
            entry["reference"] = {
                k: list(v) if isinstance(v, tuple) else v for k, v in vars(self.reference).items()
            }
        if len(self.checklist):
            entry["checklist"] = checklist_to_json(self.checklist)
        if self.difficulty is not None:
            entry["difficulty"] = vars(self.difficulty).copy()
        if self.provenance:
            entry["provenance"] = dict(self.provenance)
        return entry | dict(self.extra)


_KNOWN = {
    "id", "category", "image", "images", "instruction", "reference", "checklist", "difficulty", "provenance",
}  # fmt: skip


def task_from_json(entry: Mapping[str, Any], *, where: str = "task") -> Task:
    """Read a task of its JSON object.

    Raises:
        DataError: a field is missing or malformed.
    """
    identity, instruction = entry.get("id"), entry.get("instruction")
    if isinstance(identity, int) and not isinstance(identity, bool):
        identity = str(identity)
    if not isinstance(identity, str) or not identity.strip():
        raise DataError("no id", where=where, mend="give each task a text or number of its own")
    if not isinstance(instruction, str) or not instruction.strip():
        raise DataError("no instruction", where=where)
    images = entry.get("images", entry.get("image"))
    names = [images] if isinstance(images, str) else images
    if not isinstance(names, list) or not names or not all(isinstance(one, str) and one for one in names):
        raise DataError("no image", where=where, mend='give "image": "path" or "images": ["path", …]')
    category = _object(entry, "category", where)
    if not all(isinstance(value, str) for value in category.values()):
        raise DataError("category: its values are texts", where=where)
    return Task(
        identity,
        tuple(names),
        instruction,
        category,
        _reference(entry.get("reference"), where),
        checklist_from_json(entry.get("checklist") or {}, where=f"{where}, checklist"),
        _difficulty(entry.get("difficulty"), where),
        _object(entry, "provenance", where),
        {name: value for name, value in entry.items() if name not in _KNOWN},
    )


def read_tasks(path: Path) -> list[Task]:
    """Read the tasks of a `.jsonl` or `.parquet` file.

    Raises:
        DataError: the file cannot be read, has no task, a malformed one, or two of one id.
    """
    tasks = list(_tasks(path))
    if not tasks:
        raise DataError("no tasks", where=str(path))
    return tasks


def _tasks(path: Path) -> Iterator[Task]:
    seen: dict[str, str] = {}
    for where, entry in read_records(path, "tasks"):
        task = task_from_json(entry, where=where)
        if task.id in seen:
            raise DataError(f"the id {task.id!r} is there twice", where=where, mend=f"see {seen[task.id]}")
        seen[task.id] = where
        yield task


def write_tasks(path: Path, tasks: Sequence[Task]) -> None:
    """Write tasks as JSON lines, whole or not at all.

    Raises:
        RunError: the disk refuses.
    """
    write_atomic(path, "".join(json.dumps(task.to_json(), ensure_ascii=False) + "\n" for task in tasks))


def image_paths(task: Task, folder: Path) -> list[Path]:
    """Paths of a task's pictures, all inside of the folder.

    Raises:
        DataError: a name leaves the folder.
    """
    return [inside(folder, name) for name in task.images]


def with_pictures(task: Task, root: Path, folder: Path) -> Task:
    """Copy a task's pictures beside another file of tasks; the task as that file names them.

    A copy has its content's digest as its name: equal pictures are there once, and a call that is repeated writes none.

    Args:
        task: task whose pictures are named from `root`.
        root: folder of its file.
        folder: folder of the other file.

    Raises:
        DataError: a picture cannot be read, or its name leaves `root`.
        RunError: the disk refuses.
    """
    names = []
    for path in image_paths(task, root):
        content = read_bytes(path, limit=MOST_BYTES)
        suffix = path.suffix.lower() if path.suffix.lower() in _SUFFIXES else ".png"
        name = f"pictures/{hashlib.sha256(content).hexdigest()[:24]}{suffix}"
        if not (folder / name).exists():
            write_atomic(folder / name, content)
        names.append(name)
    return replace(task, images=tuple(names))


def _object(entry: Mapping[str, Any], name: str, where: str) -> dict[str, Any]:
    value = entry.get(name)
    if value is None:
        return {}
    if not isinstance(value, Mapping):
        raise DataError(f"{name} is not an object", where=where)
    return dict(value)


def _reference(value: Any, where: str) -> Reference | None:
    if value is None:
        return None
    if isinstance(value, str):
        value = {"outcome": value}
    if not isinstance(value, Mapping) or not isinstance(value.get("outcome"), str):
        raise DataError("a reference is a text, or an object with an outcome", where=where)
    lists: dict[str, tuple[str, ...]] = {}
    for name in ("must_change", "must_keep", "forbidden"):
        given = value.get(name) or []
        if not isinstance(given, list) or not all(isinstance(one, str) for one in given):
            raise DataError(f"reference.{name} is not a list of texts", where=where)
        lists[name] = tuple(given)
    return Reference(
        value["outcome"],
        lists["must_change"],
        lists["must_keep"],
        str(value.get("why") or ""),
        lists["forbidden"],
    )


def _difficulty(value: Any, where: str) -> Difficulty | None:
    if value is None:
        return None
    try:
        return Difficulty(**value)
    except TypeError:
        raise DataError("difficulty has other fields than k, p_cog, p_vis, …", where=where) from None
