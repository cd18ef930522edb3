"""Items of a benchmark on the user's disk: RISEBench, KRIS-Bench, or tasks of our own."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal, TypeAlias

from noria.core.errors import DataError
from noria.core.files import inside
from noria.core.records import json_object, read_json
from noria.editing.data.tasks import read_tasks

Kind: TypeAlias = Literal["rise", "kris", "tasks"]


@dataclass(frozen=True)
class BenchItem:
    """One item of a benchmark.

    Attributes:
        id: name of the item, unique in its benchmark.
        kind: benchmark that it is of.
        family: what tables are broken down by.
        instruction: the edit that the item asks for.
        sources: paths of the pictures that are edited.
        reference: what the result must be, in words; empty where there are none.
        reference_image: path of a right result; None where there is none.
        flags: the benchmark's own fields that decide about the scoring.
    """

    id: str
    kind: Kind
    family: str
    instruction: str
    sources: tuple[Path, ...]
    reference: str = ""
    reference_image: Path | None = None
    flags: Mapping[str, Any] = field(default_factory=dict)

    @property
    def texts(self) -> list[str]:
        """Words of the item: what a training must not have seen."""
        return [text for text in (self.instruction, self.reference) if text]

    @property
    def pictures(self) -> list[Path]:
        """Pictures of the item, that of the right result among them."""
        return [*self.sources, *([self.reference_image] if self.reference_image else [])]


def read_items(path: Path) -> list[BenchItem]:
    """Read a benchmark: RISEBench's JSON file, KRIS-Bench's folder, or a `.jsonl` file of tasks.

    Raises:
        DataError: it is none of these, is empty, an item is malformed, or a picture is named outside of the folder.
    """
    if path.is_dir():
        items = list(_kris(path))
    elif path.suffix.lower() == ".json":
        items = list(_rise(path))
    else:
        items = [
            BenchItem(
                task.id,
                "tasks",
                task.family,
                task.instruction,
                tuple(inside(path.parent, name) for name in task.images),
                task.reference.text if task.reference else "",
            )
            for task in read_tasks(path)
        ]
    if not items:
        raise DataError("no items of a benchmark", where=str(path))
    seen: set[str] = set()
    for item in items:
        if item.id in seen:
            raise DataError(f"the item {item.id!r} is there twice", where=str(path))
        seen.add(item.id)
    return items


RISE_FAMILIES = ("temporal_reasoning", "causal_reasoning", "spatial_reasoning", "logical_reasoning")


def _rise(path: Path) -> Iterator[BenchItem]:
    entries = read_json(path)
    if not isinstance(entries, list):
        raise DataError("not RISEBench's list of items", where=str(path), mend="give its JSON file of data")
    for number, entry in enumerate(entries):
        where = f"{path}[{number}]"
        if not isinstance(entry, dict) or entry.get("category") not in RISE_FAMILIES:
            raise DataError("an item has one of RISEBench's four categories", where=where)
        for name in ("index", "instruction", "image"):
            if not isinstance(entry.get(name), str | int) or isinstance(entry[name], bool):
                raise DataError(f"no {name}", where=where)
        image = entry.get("reference_img")
        words = entry.get("reference") or entry.get("reference_txt") or ""
        flags = {
            name: entry.get(name)
            for name in ("subtask", "consistency_free", "reasoning_img", "reference_txt")
        }
        # The released scorer makes a table of all items: a column that one item has is there, empty, for all.
        flags["has_consistency_free"] = any(isinstance(e, dict) and "consistency_free" in e for e in entries)
        yield BenchItem(
            str(entry["index"]),
            "rise",
            entry["category"],
            str(entry["instruction"]),
            (inside(path.parent, str(entry["image"])),),
            str(words),
            inside(path.parent, image) if isinstance(image, str) and image else None,
            flags,
        )


KRIS_DIMENSIONS = {
    "attribute": ("color_change", "object_count", "part_completion", "size_adjustment", "anomaly_correction"),
    "spatial": ("position_movement", "viewpoint_change"),
    "temporal": ("temporal_prediction",),
    "social": ("humanities", "daily_life"),
    "natural": ("biology", "chemistry", "geography", "medicine", "mathematics", "physics"),
    "logical": ("abstract_reasoning", "rule_reasoning"),
    "decomposition": ("multi-element_composition", "multi-instruction_execution"),
}
"""Tasks of KRIS-Bench by dimension."""
KNOWLEDGE = {
    "factual": ("attribute", "spatial", "temporal"),
    "conceptual": ("social", "natural"),
    "procedural": ("logical", "decomposition"),
}
"""Dimensions by type of knowledge."""


def _kris(folder: Path) -> Iterator[BenchItem]:
    files = sorted(folder.glob("*/annotation.json"))
    if not files:
        raise DataError("no KRIS-Bench there", where=str(folder), mend="give the folder of its categories")
    dimension = {task: name for name, tasks in KRIS_DIMENSIONS.items() for task in tasks}
    for file in files:
        task = file.parent.name
        for name, entry in json_object(file, "annotations of KRIS-Bench").items():
            where = f"{file}, {name}"
            if not isinstance(entry, dict):
                raise DataError("not an annotation", where=where)
            given = entry.get("ori_img")
            pictures = [
                one for one in (given if isinstance(given, list) else [given]) if isinstance(one, str)
            ]
            words = entry.get("ins_en", entry.get("instruction"))
            if not isinstance(words, str) or not pictures:
                raise DataError("an item has ori_img and ins_en", where=where)
            right = entry.get("gt_img")
            yield BenchItem(
                f"{task}/{name}",
                "kris",
                dimension.get(task, "other"),
                words,
                tuple(inside(file.parent, one) for one in pictures),
                str(entry.get("explain_en", entry.get("explain")) or ""),
                inside(file.parent, right) if isinstance(right, str) and right else None,
                {"task": task, "keys": sorted(entry)},
            )
