"""Items of an edit's checklist, and their form in files.

A checklist is the core's, so that every judge of the core can answer it: the item's path is its stream, `good` its
polarity. What an edit's item has beyond that is below.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace
from typing import Any, Literal, TypeAlias

from noria.core.errors import DataError
from noria.core.judging.items import Checklist, Item
from noria.editing.types import PATHS, Path

Dimension: TypeAlias = Literal["intent", "logic", "executability", "instruction", "consistency", "realism"]
DIMENSIONS: dict[Path, tuple[Dimension, ...]] = {
    "cognitive": ("intent", "logic", "executability"),
    "visual": ("instruction", "consistency", "realism"),
}
Role: TypeAlias = Literal["change", "keep", "quality", "canary"]
"""
change   true after the edit, false before it
keep     true before and after it
quality  the picture is whole, or the plan can be carried out: no claim about the source
canary   an answer known beforehand, which only a judge that was talked into it misses; it earns nothing
"""
ROLES: tuple[Role, ...] = ("change", "keep", "quality", "canary")
VERSION = 1


@dataclass(frozen=True)
class EditItem(Item):
    """One yes/no question about a plan or a picture.

    Attributes:
        dimension: dimension that the item asks about, one of its path's `DIMENSIONS`.
        role: `change` (false of the source), `keep` (true of the source), `quality` or `canary`.
        evidence: words of the reference that it comes from.
        required: whether a plan that fails it is not worth a render.
        verifier: registered name of a program that answers it; a judge does where there is none.
        arguments: arguments of the verifier, JSON values.
    """

    dimension: str = ""
    role: Role = "quality"
    evidence: str = ""
    required: bool = False
    verifier: str | None = None
    arguments: Mapping[str, Any] = field(default_factory=dict, hash=False)

    def __post_init__(self) -> None:
        super().__post_init__()
        where = f"item {self.id!r}"
        if self.path not in PATHS:
            raise DataError(f"path {self.path!r}", where=where, mend=f"choose from {', '.join(PATHS)}")
        known = DIMENSIONS[self.path]
        if self.dimension and self.dimension not in known:
            raise DataError(
                f"dimension {self.dimension!r}", where=where, mend=f"choose from {', '.join(known)}"
            )
        if self.role not in ROLES:
            raise DataError(f"role {self.role!r}", where=where, mend=f"choose from {', '.join(ROLES)}")


def items_of(checklist: Checklist, path: Path | None = None, *, canaries: bool = True) -> list[EditItem]:
    """Edit items of a checklist, in order: those of one path, with or without canaries.

    Raises:
        TypeError: the checklist holds another kind of item.
    """
    chosen = []
    for item in checklist.items:
        if not isinstance(item, EditItem):
            raise TypeError(f"item {item.id!r} is no EditItem")
        if path in (None, item.path) and (canaries or item.role != "canary"):
            chosen.append(item)
    return chosen


def part(checklist: Checklist, path: Path, *, canaries: bool = True) -> Checklist:
    """The items of one path as a checklist: what a judge gets, which sees the plan or the picture, never both."""
    return Checklist(tuple(items_of(checklist, path, canaries=canaries)))


def flipped(item: EditItem) -> EditItem:
    """The item with its polarity turned, for a question that is asked the other way round."""
    return replace(item, good="no" if item.good == "yes" else "yes")


def checklist_to_json(checklist: Checklist) -> dict[str, Any]:
    """Write a checklist as `{"version": 1, "cognitive": […], "visual": […]}`; defaults are left out."""
    entries: dict[str, Any] = {"version": VERSION}
    for path in PATHS:
        entries[path] = [_entry(item) for item in items_of(checklist, path)]
    return entries


def checklist_from_json(value: Any, *, where: str = "checklist") -> Checklist:
    """Read what `checklist_to_json` writes.

    Raises:
        DataError: it is something else, an item is malformed, an id is there twice.
    """
    if not isinstance(value, Mapping):
        raise DataError("a checklist is an object of cognitive and visual items", where=where)
    if value.get("version", VERSION) != VERSION:
        raise DataError(f"version {value.get('version')!r} of a checklist", where=where, mend="1 is known")
    if unknown := set(value) - {"version", *PATHS}:
        raise DataError(f"unknown field {sorted(unknown)[0]!r}", where=where)
    return Checklist(tuple(_read(value, where)))


_FIELDS = {
    "id",
    "dim",
    "question",
    "weight",
    "polarity",
    "role",
    "evidence",
    "required",
    "verifier",
    "arguments",
}


def _entry(item: EditItem) -> dict[str, Any]:
    entry: dict[str, Any] = {"id": item.id, "dim": item.dimension, "question": item.question}
    more = {
        "weight": (item.weight, 1.0),
        "polarity": (item.good, "yes"),
        "role": (item.role, "quality"),
        "evidence": (item.evidence, ""),
        "required": (item.required, False),
        "verifier": (item.verifier, None),
        "arguments": (dict(item.arguments), {}),
    }
    return entry | {name: value for name, (value, usual) in more.items() if value != usual}


def _read(value: Mapping[str, Any], where: str) -> Iterable[EditItem]:
    for path in PATHS:
        entries = value.get(path, [])
        if not isinstance(entries, list):
            raise DataError(f"{path}: not a list of items", where=where)
        for number, entry in enumerate(entries):
            yield read_item(entry, path, where=f"{where}, {path}[{number}]")


def read_item(entry: Any, path: Path, *, where: str) -> EditItem:
    """Read one item of a file, or of a model's reply.

    Raises:
        DataError: it is no item.
    """
    if not isinstance(entry, Mapping):
        raise DataError("an item is an object", where=where)
    if unknown := set(map(str, entry)) - _FIELDS:
        raise DataError(f"unknown field {sorted(unknown)[0]!r}", where=where)
    texts = {"id": "", "dim": "", "question": "", "polarity": "yes", "role": "quality", "evidence": ""}
    for name, usual in texts.items():
        given = entry.get(name, usual)
        if not isinstance(given, str):
            raise DataError(f"{name} is not a text", where=where)
        texts[name] = given
    weight, verifier = entry.get("weight", 1.0), entry.get("verifier")
    if isinstance(weight, bool) or not isinstance(weight, int | float):
        raise DataError("weight is not a number", where=where)
    required, arguments = entry.get("required", False), entry.get("arguments", {})
    if not (verifier is None or isinstance(verifier, str)) or not isinstance(required, bool):
        raise DataError("verifier is a name, required is true or false", where=where)
    if not isinstance(arguments, Mapping):
        raise DataError("arguments is not an object", where=where)
    good: Any = texts["polarity"]
    role: Any = texts["role"]
    return EditItem(
        texts["id"], texts["question"], path, float(weight), good, texts["dim"], role, texts["evidence"],
        required, verifier, dict(arguments),
    )  # fmt: skip
