"""What the index tells the schedule: counted since the last turn, compared with what was before it."""

from __future__ import annotations

import math
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from noria.core.learning.plan import end_turn, plan_turn
from noria.core.learning.scheduling.schedule import ScheduleConfig, next_turn
from noria.core.learning.scheduling.signals import read_signals
from noria.core.storage.control import SQLiteControl
from noria.core.traces.ids import content_id, new_id
from noria.core.traces.records import JudgementRecord, Trace
from noria.core.traces.store import TraceStore

pytestmark = pytest.mark.anyio
DAY = 86_400
BEGIN = 1_780_000_000


@pytest.fixture
def anyio_backend() -> str:
    return "asyncio"


@pytest.fixture
async def store(tmp_path: Path) -> AsyncIterator[TraceStore]:
    store = TraceStore(tmp_path)
    yield store
    store.close()


async def judged(store: TraceStore, second: float, score: float | None, **labels: str) -> None:
    at = int(second * 1e9)
    trace = Trace(new_id(at), at, at + 1, "ok", labels=labels)
    await store.write(trace)
    if score is not None:
        made = JudgementRecord(
            content_id(trace.id), trace.id, at + 2, "j", "1", "c", "judge", (), score, seconds=0.0
        )
        await store.judge(made)


def turn_at(control: SQLiteControl, second: float) -> None:
    control.now = lambda: second + 60.0  # type: ignore[method-assign]
    plan = plan_turn(control, parent="p", learner="l", reason="r", now=second)
    end_turn(control, plan, "rejected", gated=True, receipt="")


async def test_volume_counts_what_was_judged_since_the_last_turn(store: TraceStore) -> None:
    control = SQLiteControl(store.folder / "control.sqlite")
    for n in range(30):
        await judged(store, BEGIN + n, 0.5 if n % 3 else None)
    await judged(store, BEGIN + 40, 1.0, shadow="test")
    store.index.follow(store.folder)
    first = read_signals(store.index, control, BEGIN + 100)
    assert (first.judged, first.ended, first.open) == (20, None, None)
    assert math.isnan(first.fall)
    turn_at(control, BEGIN + 25)
    later = read_signals(store.index, control, BEGIN + 100)
    assert (later.judged, later.ended) == (4, BEGIN + 85)
    control.close()


async def test_a_new_kind_of_request_and_a_falling_score_are_drifts(store: TraceStore) -> None:
    control = SQLiteControl(store.folder / "control.sqlite")
    for n in range(400):
        await judged(store, BEGIN + n, 0.8 + 0.1 * (-1) ** n, skill="search" if n % 2 else "edit", id=str(n))
    turn_at(control, BEGIN + 400)
    for n in range(150):
        skill = "search" if n % 2 else "edit"
        await judged(store, BEGIN + 500 + n, 0.8 + 0.1 * (-1) ** n, skill=skill, id=f"new {n}")
    store.index.follow(store.folder)
    schedule = ScheduleConfig(judged=1000, least=100, pause=0)
    calm = read_signals(store.index, control, BEGIN + DAY)
    assert calm.stability.keys() == {"skill"}, "an id is no kind of request"
    assert calm.fall < 1
    assert next_turn(schedule, calm).action == "wait"
    for n in range(100):
        await judged(store, BEGIN + 700 + n, 0.6, skill="try on")
    store.index.follow(store.folder)
    moved = read_signals(store.index, control, BEGIN + DAY)
    assert moved.stability["skill"].value > 0.2
    assert next_turn(schedule, moved).reason.startswith("drift: skill")
    # (0.8 − 0.6)/σ − 1/2 each, after the noise of ±σ has left at most 1/2
    step = (0.8 - 0.6) / 0.1001 - 0.5
    assert moved.fall == pytest.approx(100 * step, rel=0.02)
    control.close()
