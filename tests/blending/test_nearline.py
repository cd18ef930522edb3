"""The loop that learns from the log: it finds scales and shares, holds still when it should, and survives a stop."""

from __future__ import annotations

import asyncio
import itertools
import json
import math
import threading
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from noria.blending import Blender, Candidates, Snapshot
from noria.blending.alignment.anchors import EffectiveCompletion
from noria.blending.integrations.duckdb import gather
from noria.blending.logs.gathering import GatherConfig
from noria.blending.pricing.control import Gains
from noria.blending.service.companion import Companion
from noria.blending.service.config import NearlineConfig, NearlineFit
from noria.blending.service.journal.events import Event, Outcome, Sample, decision_of, pack
from noria.blending.service.journal.exporting import export_log
from noria.blending.service.journal.journal import Journal, segments
from noria.blending.service.loop.checkpoint import Checkpoint
from noria.blending.service.loop.controllers import day_share
from noria.blending.service.loop.nearline import Loop, run
from noria.blending.service.publishing import Publisher
from noria.blending.service.versions import Versions
from noria.blending.service.wire.streams import candidates_to_arrow
from noria.core.errors import DataError, RunError
from tests.blending.feeds import SCALES, columns, snapshot

CONFIG = NearlineConfig(
    tick=60.0,
    checkpoint=0.0,
    least=50,
    least_fit=200,
    returns=0,
    anchor=EffectiveCompletion(rule="seconds", seconds=5.0),
    fit=NearlineFit(maturity=60.0, half_life=None, shrink=0.0, population="all"),
    gains=Gains(proportional=0.1, integral=0.1, rate=1.0),
)
PLANS: dict[str, Any] = {
    "plans": [
        {"id": "live", "when": 'source == "live"', "target": {"exposure_share": 0.5}},
        {"id": "cold", "when": "age < 10", "weight": 0.5, "budget": {"spend_per_day": 3.0}},
    ],
    "guards": {"jump": 10.0},
}


class World:
    """A service without the HTTP: requests are ranked, shown and watched, and the loop ticks between them."""

    def __init__(
        self, folder: Path, *, plans: dict[str, Any] = PLANS, config: NearlineConfig = CONFIG
    ) -> None:
        self.state = folder / "state"
        self.config = config
        self.now = 1e9 + 43_200 - 1e9 % 86_400  # noon
        path = folder / "snapshot.json"
        if not path.exists():
            snapshot(plans, created=self.now).save(path)
        self.publisher = Publisher.open(self.state, path, self.clock)
        self.companion = Companion(self.state, config)
        self.journal = Journal(self.state / "log")
        self.loop = Loop(self.state, config, clock=self.clock)
        self.requests = 0

    def clock(self) -> float:
        return self.now

    def close(self) -> None:
        self.journal.close()

    def serve(
        self, requests: int, *, size: int = 10, rate: float = 1.0, outcomes: bool = True
    ) -> list[Event]:
        """Requests whose whole lists are seen, and watched with the probability that their value says."""
        events: list[Event] = []
        rng = np.random.default_rng(self.requests)
        for _ in range(requests):
            self.requests += 1
            name = f"r{self.requests}"
            candidates = Candidates.of(columns(60, self.requests))
            ranked = self.publisher.blender.rank(candidates, size, at=self.now)
            made = decision_of(
                candidates, ranked, at=self.now, request=name, user=name, control=False, shown=size
            )
            events += [made, Sample(self.now, name, "", candidates_to_arrow(candidates))]
            if outcomes:
                scale = np.array([SCALES[source] for source in made.names("source")])
                watched = rng.random(len(made.items)) < rate * scale * made.column("score")
                for item, seen in zip(made.items, watched, strict=True):
                    events.append(Outcome(self.now, name, item, 9.0 if seen else 1.0, gain=2.0))
        asyncio.run(self.journal.append(pack(events)))
        return events

    def tick(self, seconds: float = 60.0) -> dict[str, Any]:
        self.now += seconds
        self.loop.tick()
        self.companion.look(self.publisher)
        assert self.companion.status is not None
        return self.companion.status


@pytest.fixture
def world(tmp_path: Path) -> Any:
    made = World(tmp_path)
    yield made
    made.close()


def scale_of(found: Snapshot, source: str) -> float:
    key = found.alignment.find("", source, "")
    assert key is not None
    aligner: Any = found.alignment.entries[key[0]].aligner
    return float(aligner.scale)


def test_scales_follow_what_comes_of_exposures(world: World) -> None:
    """People watch half as much as the snapshot says: the scales go to one half."""
    for _ in range(8):
        world.serve(40, rate=0.5)
        world.tick(61.0)
    world.tick(200.0)
    now = world.publisher.snapshot
    assert now.version > 5
    for source, scale in SCALES.items():
        assert scale_of(now, source) == pytest.approx(scale / 2, rel=0.15)
    status = world.companion.status
    assert status is not None
    for told in status["sources"]:
        assert told["exposures"] > 300
        assert sum(tenth["exposures"] for tenth in told["tenths"]) == told["exposures"]
    assert status["counts"]["exposures closed"] == status["counts"]["exposures"] == 8 * 40 * 10


def test_a_jump_is_held_back(tmp_path: Path) -> None:
    world = World(tmp_path, plans=PLANS | {"guards": {"jump": 0.1}})
    for _ in range(3):
        world.serve(60, rate=0.5)
        world.tick(61.0)
    status = world.tick(200.0)
    assert status["counts"]["aligners held back"] > 0
    assert scale_of(world.publisher.snapshot, "organic") == 1.0
    world.close()


def test_the_mean_value_moves_step_by_step(tmp_path: Path) -> None:
    """It is the unit of every bias and cap, so it may not jump either; the bias itself stays meanwhile."""
    world = World(tmp_path, plans=PLANS | {"guards": {"jump": 0.1}})
    for _ in range(6):
        world.serve(40)
        world.tick(61.0)
    versions = Versions(world.state)
    means = [versions.load(number).alignment.mean_value for number in sorted(versions.numbers())]
    steps = [abs(math.log(b / a)) for a, b in itertools.pairwise(means)]
    assert max(steps) == pytest.approx(0.1)
    assert means[-1] > 0.5
    world.close()


def test_a_few_exposures_move_nothing(world: World) -> None:
    world.serve(3, rate=0.1)
    world.tick()
    world.tick(200.0)
    now = world.publisher.snapshot
    assert now.alignment.to_json()["entries"] == snapshot(PLANS).alignment.to_json()["entries"]
    assert now.settings["live"].bias == 0.0


def test_a_plan_reaches_its_share_and_keeps_it(world: World) -> None:
    shares = []
    for _ in range(25):
        events = world.serve(30)
        live = [e.names("source").count("live") for e in events if hasattr(e, "names")]
        shares.append(sum(live) / 300)
        world.tick()
    assert shares[0] < 0.42
    assert np.mean(shares[-10:]) == pytest.approx(0.5, abs=0.02)
    assert world.publisher.snapshot.settings["live"].bias > 0
    told = world.companion.status
    assert told is not None
    assert len(told["history"]) == 25
    assert told["plans"]["live"]["controller"]["reached"] == pytest.approx(shares[-1])


def test_a_restart_makes_no_bump(world: World, tmp_path: Path) -> None:
    for _ in range(12):
        world.serve(30)
        world.tick()
    before = world.publisher.snapshot
    controller = json.loads((world.state / "nearline" / "controllers.json").read_text())
    world.serve(4)  # after the checkpoint
    world.close()
    again = World(tmp_path)
    again.now, again.requests = world.now, world.requests
    assert again.publisher.snapshot.digest == before.digest
    status = again.tick()
    assert len(status["history"]) == 13
    assert again.publisher.snapshot.settings["live"].bias == pytest.approx(
        before.settings["live"].bias, rel=1e-12
    ), "40 exposures are too few to move it: it stands where it stood"
    assert status["counts"]["exposures"] == (12 * 30 + 4) * 10
    assert status["exposures"] == (12 * 30 + 4) * 10
    again.serve(30)
    again.tick()
    now = json.loads((world.state / "nearline" / "controllers.json").read_text())
    step = CONFIG.gains.rate
    assert abs(now["live"]["output"] - controller["live"]["output"]) < step / 4
    assert now["live"]["integral"] != controller["live"]["integral"]
    again.close()


def test_a_stop_anywhere_loses_and_doubles_nothing(tmp_path: Path) -> None:
    """The same traffic with a stop after every tick, some without a checkpoint, and without any stop."""
    told = []
    for stops in (False, True):
        config = CONFIG.model_copy(update={"checkpoint": 150.0})
        world = World(tmp_path / str(stops), config=config)
        for turn in range(8):
            world.serve(20)
            if stops and turn:
                world.loop = Loop(world.state, config, clock=world.clock)
            status = world.tick()
        world.tick(500.0)
        status = world.tick()
        assert world.loop.learner.open == 0
        names = ("counts", "exposures", "value", "position")
        told.append({name: status[name] for name in names} | {"books": world.loop.learner.books.cells})
        world.close()
    for name in ("exposures", "exposures closed", "outcomes", "decisions"):
        assert told[0]["counts"][name] == told[1]["counts"][name]
    assert told[0]["exposures"] == told[1]["exposures"]
    assert sum(s[0] for s in told[0]["books"].values()) == sum(s[0] for s in told[1]["books"].values())


def test_a_damaged_checkpoint_is_as_good_as_none(world: World) -> None:
    for _ in range(3):
        world.serve(20)
        world.tick()
    path = world.state / "nearline" / "learnt.msgpack"
    whole = path.read_bytes()
    flipped = [
        whole[:n] + bytes([whole[n] ^ 1]) + whole[n + 1 :] for n in (0, len(whole) // 2, len(whole) - 1)
    ]
    for damaged in (whole[:-100], b"", b"\x80", b"\xc1", *flipped):
        path.write_bytes(damaged)
        world.loop = Loop(world.state, CONFIG, clock=world.clock)
        assert world.tick()["counts"]["exposures"] == 600
    (world.state / "nearline" / "controllers.json").write_text("{")
    bias = world.publisher.snapshot.settings["live"].bias
    status = world.tick()
    assert status["counts"]["controller states lost"] > 0
    assert world.publisher.snapshot.settings["live"].bias == pytest.approx(bias), "it starts from what serves"


def test_a_flipped_bit_anywhere_in_a_checkpoint_is_seen(world: World) -> None:
    world.serve(20)
    world.tick()
    path = world.state / "nearline" / "learnt.msgpack"
    whole = path.read_bytes()
    for n in range(0, len(whole), max(1, len(whole) // 500)):
        path.write_bytes(whole[:n] + bytes([whole[n] ^ 1]) + whole[n + 1 :])
        with pytest.raises(DataError, match="damaged"):
            Checkpoint.load(path)


def test_a_spent_budget_rests_until_midnight(world: World) -> None:
    world.serve(30)
    status = world.tick()
    spent = status["plans"]["cold"]["spend"]
    assert spent > 3.0
    assert status["plans"]["cold"]["resting"]
    assert world.publisher.snapshot.settings["cold"].resting
    events = world.serve(10)
    assert not any((e.masks & np.uint64(2)).any() for e in events if hasattr(e, "masks"))
    world.now += 12 * 3600
    world.tick()
    assert "cold" not in world.publisher.snapshot.settings
    events = world.serve(10)
    assert any((e.masks & np.uint64(2)).any() for e in events if hasattr(e, "masks"))


def test_spend_is_priced_by_the_snapshot_that_ranked(world: World) -> None:
    first = [e for e in world.serve(20) if hasattr(e, "masks")]
    changed = {"plans": [PLANS["plans"][0], PLANS["plans"][1] | {"weight": 0.1}], "guards": PLANS["guards"]}
    world.publisher.change_plans(type(world.publisher.base).model_validate(changed))
    second = [e for e in world.serve(20) if hasattr(e, "masks")]
    status = world.tick()
    wanted = 0.0
    for weight, events in ((0.5, first), (0.1, second)):
        for e in events:
            hit = (e.masks >> np.uint64(1) & np.uint64(1)).astype(bool)
            wanted += weight * e.column("value")[hit].sum()
    assert status["plans"]["cold"]["spend"] == pytest.approx(wanted)
    exposures = status["plans"]["cold"]["exposures"]
    assert status["plans"]["cold"]["price"] == pytest.approx(1000 * wanted / exposures)


def test_what_the_loop_learns_is_what_fit_gathers(world: World, tmp_path: Path) -> None:
    """The exported log, joined by DuckDB, comes to the same integers as the loop that read it frame by frame."""
    for turn in range(3):
        made = world.serve(15, outcomes=turn != 1)[0]
        again = Outcome(world.now, made.request, made.items[0], 1.0)  # type: ignore[union-attr]
        asyncio.run(world.journal.append(pack([again])))  # a second one
        world.tick()
    world.tick(200.0)
    export_log(world.state, tmp_path / "out")
    gathered = gather(
        [str(tmp_path / "out" / "exposures.parquet")],
        [str(tmp_path / "out" / "outcomes.parquet")],
        GatherConfig(anchor=CONFIG.anchor, tick=CONFIG.fit.tick, maturity=CONFIG.fit.maturity),
        now=world.now,
    )
    learner = world.loop.learner
    assert learner.open == 0
    assert gathered.books.cells == learner.books.cells
    assert gathered.tallies.cells.keys() == learner.tallies.cells.keys()
    for cell, histogram in gathered.tallies.cells.items():
        for name in ("code", "n", "a", "m"):
            assert (getattr(histogram, name) == getattr(learner.tallies.cells[cell], name)).all()
    assert gathered.rows == learner.counts["exposures"] == 450


def test_returns_have_intervals(tmp_path: Path) -> None:
    world = World(tmp_path, config=CONFIG.model_copy(update={"returns": 1}))
    for _ in range(3):
        world.serve(20)
        world.tick()
    status = world.tick(200.0)
    assert status["sampled"] == 60
    told = status["plans"]["cold"]["returns"]
    assert told["roi_spend"]["low"] <= told["roi_spend"]["effect"] <= told["roi_spend"]["high"]
    assert told["regret"] <= told["bound"] + 1e-9
    assert json.loads(json.dumps(status, allow_nan=False)) == status
    world.close()


def test_what_came_with_a_given_snapshot_is_not_overruled_by_older_news(world: World) -> None:
    world.serve(30)
    world.now += 60
    world.loop.tick()
    given = snapshot(PLANS, version=40, scale=2.0, created=world.now)
    world.publisher.adopt(given)
    world.companion.look(world.publisher)
    assert world.publisher.snapshot.digest == given.digest
    world.serve(30)
    world.tick()
    assert world.publisher.snapshot.version == 41


def test_when_a_tick_fails_everything_stays_as_it_is(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    for _ in range(4):
        world.serve(30)
        world.tick()
    before = world.publisher.snapshot
    controllers = (world.state / "nearline" / "controllers.json").read_bytes()
    ticks = []

    def broken(*_: Any, **__: Any) -> Any:
        ticks.append(1)
        if len(ticks) == 3:
            stop.set()
        raise ZeroDivisionError("a fault")

    stop = threading.Event()
    monkeypatch.setattr("noria.blending.service.loop.aligning.fit_alignment", broken)
    run(world.state, CONFIG.model_copy(update={"tick": 0.01}), stop)
    assert len(ticks) == 3, "it tries again"
    world.companion.look(world.publisher)
    assert world.companion.failing == "ZeroDivisionError: a fault"
    assert world.publisher.snapshot.digest == before.digest
    assert (world.state / "nearline" / "controllers.json").read_bytes() == controllers
    monkeypatch.undo()
    stop = threading.Event()
    threading.Timer(0.5, stop.set).start()
    run(world.state, CONFIG.model_copy(update={"tick": 0.01}), stop)
    world.companion.look(world.publisher)
    assert world.companion.failing is None


def test_a_proposal_that_is_none_is_not_taken_over(world: World) -> None:
    path = world.state / "nearline" / "proposal.json"
    world.serve(5)
    world.tick()
    good = json.loads(path.read_text())
    now = world.publisher.snapshot.digest
    for bad in ({}, good | {"alignment": {"entries": []}}, good | {"settings": {"live": {"weight": "x"}}}):
        path.write_text(json.dumps(bad))
        with pytest.raises(Exception, match=r"no proposal|no alignment|does not|number"):
            world.companion.look(world.publisher)
        assert world.publisher.snapshot.digest == now
    path.write_text('{"half')
    world.companion.look(world.publisher)
    assert world.publisher.snapshot.digest == now


def test_the_log_is_pruned_behind_the_loop(tmp_path: Path) -> None:
    world = World(tmp_path)
    world.journal.segment_bytes = 20_000
    for _ in range(6):
        world.serve(10)
        world.tick()
    oldest = world.companion.oldest
    assert oldest is not None
    before = len(segments(world.state / "log"))
    assert world.journal.prune(oldest, keep_bytes=0) > 0
    assert 0 < len(segments(world.state / "log")) < before
    world.loop = Loop(world.state, CONFIG, clock=world.clock)
    assert world.tick()["counts"]["exposures"] == 600
    world.close()


def test_the_days_share_follows_the_traffic_of_other_days() -> None:
    day = 20_000
    noon = day * 86_400 + 43_200.0
    assert day_share({}, noon) == 0.5
    evening = {(day - 1) * 24 + hour: (10 if hour >= 18 else 0) for hour in range(24)}
    assert day_share(evening, noon) == 0.0
    assert day_share(evening, noon + 7.5 * 3600) == pytest.approx(0.25)
    assert day_share(evening | {day * 24: 1000}, noon) == 0.0, "today itself says nothing"
    assert math.isclose(day_share(evening, noon + 43_199), 1.0, rel_tol=1e-3)


def test_an_outcome_that_was_on_its_way_into_the_log_still_counts(world: World) -> None:
    """Events carry the time at which they were taken in; the loop may look a moment before they are written."""
    events = world.serve(1, outcomes=False)
    request, items = events[0].request, events[0].items  # type: ignore[union-attr]
    at = world.now
    world.tick(62.0)
    late = [Outcome(at + 59.0, request, items[0], 9.0), Outcome(at + 61.0, request, items[1], 9.0)]
    asyncio.run(world.journal.append(pack(late)))
    counts = world.tick(60.0)["counts"]
    assert (counts["outcomes"], counts["outcomes too late"]) == (1, 1)


def test_one_loop_reads_a_folder(world: World) -> None:
    from noria.core.files import lock

    with lock(world.state / "nearline"), pytest.raises(RunError, match="in use"):  # noqa: SIM117
        with lock(world.state / "nearline"):
            pass


def test_rank_after_rank_is_the_same_with_what_the_loop_set(world: World) -> None:
    """What serves after the loop has published is a whole snapshot: it ranks the same from its file."""
    for _ in range(4):
        world.serve(30)
        world.tick()
    now = world.publisher.snapshot
    kept = Versions(world.state).load(now.version)
    given = columns(100)
    one, two = (Blender(found).rank(given, 20, at=0.0) for found in (now, kept))
    assert one.score.tolist() == two.score.tolist()
    assert one.order.tolist() == two.order.tolist()
