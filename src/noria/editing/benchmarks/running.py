"""A benchmark run: a planner, and the same editor without one, on the same items and seeds; it resumes by line."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from noria.core.chat import ChatModel
from noria.core.errors import DataError, NoriaError
from noria.core.files import write_atomic
from noria.core.picture_files import png
from noria.core.progress import Progress
from noria.core.statistics.bootstrap import bootstrap_mean
from noria.core.statistics.intervals import Interval, mcnemar
from noria.editing.benchmarks.items import BenchItem
from noria.editing.benchmarks.judging import judge_item, prompts_digest
from noria.editing.benchmarks.scoring import ItemScore, Mode, score_failed, score_kris, score_rise
from noria.editing.data.lines import Lines
from noria.editing.data.names import file_name, task_seed
from noria.editing.data.pictures import open_scene
from noria.editing.data.working import work_through
from noria.editing.use.session import ThinkThenEdit

RESAMPLES = 10_000


@dataclass(frozen=True)
class Comparison:
    """Two arms on the same items.

    Attributes:
        gained, lost: items that only the first arm, or only the second, has right.
        p_value: exact two-sided McNemar test; None where no item differs.
        difference: difference of the accuracies, with its bootstrap interval over items.
    """

    gained: int
    lost: int
    p_value: float | None
    difference: Interval


async def run_arm(
    arm: str,
    edit: ThinkThenEdit,
    judge: ChatModel,
    items: Sequence[BenchItem],
    folder: Path,
    *,
    judge_name: str,
    seed: int = 0,
    in_flight: int = 8,
    progress: Progress | None = None,
) -> dict[str, dict[str, Any]]:
    """Edit and judge every item that has no whole record yet; records by item.

    Args:
        arm: name of the arm, which its files have.
        edit: planner and editor.
        judge: judge of the results.
        items: items of the benchmark.
        folder: folder of `ARM.jsonl` and `ARM/`.
        judge_name: pinned name of the judge; records of another one are made anew.
        seed: seed; that of an item follows from it and the item, the same in every arm.
        in_flight: items under way at once.
        progress: shows the finished items, if given.

    Raises:
        RunError: another process writes there, or the disk refuses.
    """
    stamp = {"judge": judge_name, "prompts": prompts_digest(), "seed": seed}
    with Lines(folder / f"{arm}.jsonl") as lines:
        done = {
            name
            for name, one in lines.records.items()
            if one.get("stamp") == stamp
            and one.get("picture")
            and one.get("replies")
            and None not in one["replies"].values()
        }
        left = [item for item in items if item.id not in done]

        async def work(item: BenchItem) -> None:
            record = await _record(arm, edit, judge, item, folder, seed)
            lines.add(record | {"stamp": stamp})

        await work_through(
            left, work, in_flight=in_flight, progress=progress, label=arm, done=len(items) - len(left)
        )
        return dict(lines.records)


async def _record(
    arm: str, edit: ThinkThenEdit, judge: ChatModel, item: BenchItem, folder: Path, seed: int
) -> dict[str, Any]:
    """What came of one item: its plan, its picture, the judge's words; `picture` is None where the edit failed.

    An item whose own pictures cannot be read has no `picture` at all: nothing was edited.
    """
    record: dict[str, Any] = {"id": item.id, "family": item.family, "plan": None, "replies": {}}
    try:
        scene = await asyncio.to_thread(open_scene, item.sources)
        record["picture"] = None
        best = (await edit.edit(scene, item.instruction, seed=task_seed(item.id, seed)))[0]
        record |= {"plan": best.plan.text, "why": best.why}
        if best.image is None:
            return record
        name = f"{arm}/{file_name(item.id)}.png"
        write_atomic(folder / name, png(best.image))
        record["picture"] = name
        replies = await judge_item(judge, item, best.image)
        return record | {"replies": dict(replies)}
    except NoriaError as error:
        return record | {"why": str(error)}


def score_items(
    items: Sequence[BenchItem], records: Mapping[str, Mapping[str, Any]], mode: Mode = "strict"
) -> list[ItemScore]:
    """Score the recorded judgements of items, in their order.

    Strictly, an edit that failed has the lowest score; the released scorers, which `compat` follows, leave it out. What
    the judge failed on, and an item without a record, have no score.

    Args:
        items: items of the benchmark.
        records: record of each item by its id.
        mode: with or without the known bugs of the released scorers.
    """
    scores = []
    for item in items:
        record = records.get(item.id, {})
        failed = "picture" in record and record["picture"] is None
        if failed and mode == "strict":
            scores.append(score_failed(item))
            continue
        score = score_kris if item.kind == "kris" else score_rise
        scores.append(replace(score(item, record.get("replies") or {}, mode), failed=failed))
    return scores


def compare(first: Sequence[ItemScore], second: Sequence[ItemScore], *, seed: int = 0) -> Comparison:
    """Compare two arms by the items that each has right.

    Raises:
        DataError: the arms have different items.
    """
    if [one.item for one in first] != [one.item for one in second]:
        raise DataError("the arms have different items", where="compare")
    gaps = np.array([int(a.accurate) - int(b.accurate) for a, b in zip(first, second, strict=True)])
    gained, lost = int((gaps > 0).sum()), int((gaps < 0).sum())
    interval = bootstrap_mean(gaps, generator=np.random.default_rng(seed), resamples=RESAMPLES)
    return Comparison(gained, lost, mcnemar(gained, lost), interval)


def read_recorded(path: Path) -> dict[str, dict[str, Any]]:
    """Read recorded judgements: lines of a run of ours, or {item: {dimension: reply}} as JSON.

    RISEBench's own record has judge1, judge2 and judge3 for consistency, reasoning and plausibility.

    Raises:
        DataError: it is none of these.
    """
    from noria.core.records import json_object, read_records

    entries: dict[str, dict[str, Any]]
    if path.suffix == ".jsonl":
        entries = {str(entry.get("id")): dict(entry) for _, entry in read_records(path, "judgements")}
    else:
        entries = {name: {"replies": value} for name, value in json_object(path, "judgements").items()}
    names = {"judge1": "consistency", "judge2": "reasoning", "judge3": "plausibility"}
    for name, entry in entries.items():
        replies = entry.get("replies")
        if not isinstance(replies, dict):
            raise DataError("no replies of a judge", where=f"{path}, {name}")
        entry["replies"] = {names.get(k, k): v for k, v in replies.items() if v is None or isinstance(v, str)}
    return entries
