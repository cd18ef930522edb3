"""Logs of the simulated world, as a service would have written them: to try every verb on, and to test with.

The folder holds `plans.yaml`, `snapshots/`, and Parquet files of candidates, exposures and outcomes of some days,
with the blemishes of real ones: outcomes that come late, twice or never, clocks that differ, a copy of an exposure
here and there.
"""

from __future__ import annotations

import contextlib
from collections import Counter
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from noria.blending.accounting.cells import DAY
from noria.blending.logs.candidates import CandidateLog
from noria.blending.logs.replay import replay
from noria.blending.plans.plans import Plans
from noria.blending.snapshot import Snapshot
from noria.blending.world.world import World, aligned, make_world, outcomes, world_plans
from noria.core.errors import require
from noria.core.files import appearing, write_atomic
from noria.core.yaml_values import yaml_text

Floats = NDArray[np.float64]

ROWS = 1 << 18
"""Most candidates that are drawn and held at a time: memory does not grow with the requests."""
SINCE = 20_417 * DAY
"""When the logs begin: 25 November 2025."""


@dataclass(frozen=True)
class SimulationResult:
    """Result of a simulation: the folder, its snapshot, and the number of rows of each log."""

    folder: Path
    snapshot: Path
    candidates: int
    exposures: int
    outcomes: int


def simulate(
    folder: Path,
    *,
    seed: int = 0,
    requests: int = 600,
    candidates: int = 100,
    size: int = 10,
    days: int = 3,
    control: float = 0.1,
    bias: float = 0.1,
) -> SimulationResult:
    """Write a world's logs.

    Args:
        folder: made; it must not exist, or be an earlier one.
        seed: seed of the random generators.
        requests, candidates: number of requests, and of candidates in each.
        size: number of places of a list.
        days: number of days that requests are spread over.
        control: share of requests that are ranked by value alone.
        bias: bias of every plan, in mean values.

    Raises:
        RunError: the disk refuses.
        MissingExtra: there is no pyarrow.
    """
    require("pyarrow", "blending")
    rng = np.random.default_rng([seed, 9])
    block = max(1, ROWS // candidates)
    firsts = range(0, requests, block)
    world = make_world(rng, requests=min(block, requests), candidates=candidates)
    alignment = aligned(outcomes(make_world(rng, requests=200), rng), "mean")
    plans = _with_bias(world_plans(), bias * alignment.mean_value)
    snapshot = Snapshot.of(alignment, plans, version=1, created=float(SINCE))
    counts = Counter[str]()
    with appearing(folder) as place, contextlib.ExitStack() as stack:
        snapshot.save(place / "snapshots" / "00000001.json")
        text = yaml_text(plans.model_dump(mode="json", exclude_defaults=True))
        write_atomic(place / "plans.yaml", text)
        tables = {name: stack.enter_context(_Days(place / name, days)) for name in _LOGS}
        for first in firsts:
            if first:
                rng = np.random.default_rng([seed, 9, first])
                world = make_world(rng, requests=min(block, requests - first), candidates=candidates)
            span = [SINCE + days * DAY * end / requests for end in (first, first + world.requests)]
            columns, log = _log(world, first, span, rng)
            exposures, shown = _exposures(world, log, snapshot, size, control, rng)
            for name, table in zip(
                _LOGS, (columns, exposures, _outcomes(world, exposures, shown, rng)), strict=True
            ):
                tables[name].add(table)
                counts[name] += len(table["request"])
    return SimulationResult(folder, folder / "snapshots" / "00000001.json", *(counts[name] for name in _LOGS))


_LOGS = ("candidates", "exposures", "outcomes")


class _Days:
    """A log as one Parquet file a day, written block by block."""

    def __init__(self, folder: Path, days: int) -> None:
        folder.mkdir()
        self.folder, self.days = folder, days
        self.writers: list[Any] = []

    def __enter__(self) -> _Days:
        return self

    def __exit__(self, *_: object) -> None:
        for writer in self.writers:
            writer.close()

    def add(self, table: dict[str, Any]) -> None:
        arrow, parquet = require("pyarrow", "blending"), require("pyarrow.parquet", "blending")
        whole = arrow.table(table)
        if not self.writers:
            paths = [self.folder / f"day-{part}.parquet" for part in range(self.days)]
            self.writers = [parquet.ParquetWriter(path, whole.schema) for path in paths]
        for part, writer in enumerate(self.writers):
            rows = _of_day(np.asarray(table["time"]), part, self.days)
            if len(rows):
                writer.write_table(whole.take(arrow.array(rows)))


def _with_bias(plans: Plans, bias: float) -> Plans:
    return plans.model_copy(
        update={"plans": tuple(plan.model_copy(update={"bias": round(bias, 4)}) for plan in plans.plans)}
    )


def _of_day(time: Floats, part: int, days: int) -> NDArray[np.int64]:
    day = np.clip(np.floor((time - SINCE) / DAY), 0, days - 1)
    return np.flatnonzero(day == part)


def _log(
    world: World, first: int, span: list[float], rng: np.random.Generator
) -> tuple[dict[str, Any], CandidateLog]:
    """Candidates of requests from the number `first` on, in a span of time: as columns for a file, and as a log."""
    when = np.sort(rng.uniform(span[0], span[1], size=world.requests)).round(3)
    row = np.repeat(np.arange(world.requests), world.candidates)
    columns: dict[str, Any] = {
        "request": [f"r{first + number:06d}" for number in row.tolist()],
        "time": when[row],
        "scene": ["home"] * len(row),
        "item": [f"i{first * world.candidates + number:07d}" for number in range(len(row))],
        "version": ["v1"] * len(row),
        "score": world.score,
        "expected_gain": (world.gain * rng.lognormal(0.0, 0.3, size=len(row))).round(4),
        "user": [f"u{(first + number) % 97}" for number in row.tolist()],
    }
    for name, column in world.columns.items():
        columns[name] = column if isinstance(column, np.ndarray) else column.decode()
    return columns, CandidateLog.of(columns)


def _exposures(
    world: World, log: CandidateLog, snapshot: Snapshot, size: int, control: float, rng: np.random.Generator
) -> tuple[dict[str, Any], NDArray[np.int64]]:
    """Exposures, and the world's row of each."""
    served = replay(log, snapshot, size)
    bare = snapshot.next(created=snapshot.created, plans=Plans())
    by_value = replay(log, bare, size)
    in_control = rng.random(len(log)) < control
    lists = np.where(in_control[:, None], by_value.lists, served.lists)
    request, rank = np.nonzero(lists >= 0)
    rows = lists[request, rank]
    plain = in_control[request]
    value = served.requests.value[rows]
    exposures: dict[str, Any] = {
        "request": [log.request[number] for number in request.tolist()],
        "time": log.time[request],
        "scene": ["home"] * len(rows),
        "item": [log.item.names[code] for code in log.item.codes[rows].tolist()],
        "rank": rank,
        "source": log.source.take(rows).decode(),
        "version": ["v1"] * len(rows),
        "score": log.score[rows],
        "value": value,
        "mask": np.where(plain, np.uint64(0), served.requests.mask[rows]),
        "guard": np.where(plain, 0.0, served.guard[rows]),
        "total": np.where(plain, value, served.score[rows]),
        "snapshot": [snapshot.digest] * len(rows),
        "control": plain,
        "user": [f"u{int(log.request[number][1:]) % 97}" for number in request.tolist()],
    }
    copies = np.flatnonzero(rng.random(len(rows)) < 0.002)
    again = np.concatenate([np.arange(len(rows)), copies])
    return {name: np.asarray(column)[again] for name, column in exposures.items()}, rows[again]


def _outcomes(
    world: World, exposures: dict[str, Any], rows: NDArray[np.int64], rng: np.random.Generator
) -> dict[str, Any]:
    """Outcomes of exposures: watched past the threshold or not, with the blemishes of real logs."""
    count = len(rows)
    duration = np.exp(rng.normal(3.2, 0.7, size=count)).round(2)
    threshold = np.minimum(0.5 * duration, 10.0)  # of the default anchor
    done = rng.random(count) < world.truth[rows]
    share = rng.uniform(0.02, 0.98, size=count)
    watch = np.where(done, threshold + share * (duration - threshold), share * threshold).round(3)
    came = {
        "request": np.array(exposures["request"]),
        "item": np.array(exposures["item"]),
        "time": exposures["time"] + duration + rng.exponential(20.0, size=count),
        "watch": np.where(done, np.maximum(watch, threshold + 0.01), watch),
        "duration": duration,
        "gain": world.gain[rows],
    }
    kept = rng.random(count) < 0.97  # some never come
    second = kept & (rng.random(count) < 0.01)
    late = rng.random(count) < 0.003
    came["time"] = np.where(late, came["time"] + 3 * DAY, came["time"])
    skewed = rng.random(count) < 0.003
    came["time"] = np.where(skewed, exposures["time"] - 600.0, came["time"])
    order = np.concatenate([np.flatnonzero(kept), np.flatnonzero(second)])
    return {name: column[order] for name, column in came.items()}
