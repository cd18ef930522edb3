"""A season of the shop: users ask, rate and correct; the wheel turns; what is better is tested on them and promoted.

```
exam      users of their own ask under the first bundle; nobody learns from them
opening   users ask in the usual words            → a turn → a test on the users → promoted or not
drift     the same users, new words, a new topic  → a turn → a test
exam      the same questions as before, under what serves now
```
"""

from __future__ import annotations

import asyncio
import json
import os
import sys
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from noria.assistant.world.catalogue import catalogue
from noria.assistant.world.settings import SeasonConfig
from noria.assistant.world.shop import TOPICS, Shop
from noria.assistant.world.users import User, Wish, Wishes, population
from noria.assistant.world.visiting import Door, Visit, Visits
from noria.core.errors import RunError
from noria.core.experiments.lifecycle import OPEN
from noria.core.files import write_atomic
from noria.core.records import read_json
from noria.core.service.hosting import TOKEN
from noria.core.statistics.bootstrap import cluster_bootstrap_mean

if TYPE_CHECKING:
    from noria.core.progress import Progress

EXAM = 900
"""Number of the loop of the exam's wishes, and what is added to the seed for its users."""


@dataclass(frozen=True)
class TurnResult:
    """A turn of the wheel and the test that followed.

    Attributes:
        part: part of the season.
        learner: what learnt.
        outcome, reason: how the turn ended, and why.
        stage: how the test ended; empty where there was none.
        test: why the test ended so.
        number: number of the turn in the gateway's folder.
    """

    part: str
    learner: str
    outcome: str
    reason: str
    stage: str = ""
    test: str = ""
    number: int = 0


class Season:
    """A season of a shop that runs.

    Args:
        home: folder of the run.
        shop: the shop.
        config: settings of the season.
        progress: what is told on the way.
    """

    def __init__(self, home: Path, shop: Shop, config: SeasonConfig, progress: Progress) -> None:
        self.home, self.shop, self.config, self.progress = home, shop, config, progress
        self.visits = Visits(home / "visits.jsonl")
        self.users = population(config.seed)[: config.users]
        self.guests = population(config.seed + EXAM)[: config.exam]
        self.wishes = Wishes(config.seed, catalogue(), TOPICS)
        self.turns = _read_turns(home)

    async def run(self) -> dict[str, Any]:
        """Live through the season, or through what is left of it; the result."""
        async with Door(self.shop, self.visits) as door:
            before = await self._exam(door, "exam before")
            for number in range(self.config.loops):
                part = f"loop {number + 1}"
                await self._loop(door, part, number)
                for place, learner in enumerate(self.config.learners):
                    rounds = self.config.later_rounds if place else self.config.rounds
                    await self._turn(door, f"{part}, {learner}", number, learner, rounds)
            after = await self._exam(door, "exam after")
            champion = await door.operate("/v1/champion")
        result = summary(before, after, self.visits, self.turns) | {"champion": champion}
        write_atomic(self.home / "result.json", json.dumps(result, indent=1) + "\n")
        return result

    # -- parts of it --------------------------------------------------------------------------------------------------

    def exam_wishes(self) -> list[tuple[User, Wish]]:
        """The questions of the exam, in the usual and in the later words."""
        each = self.config.exam_turns
        return [
            (user, self.wishes.wish(user, EXAM + later, turn, wording=later, new_intent=bool(later)))
            for later in (0, 1)
            for turn in range(each)
            for user in self.guests
        ]

    async def _exam(self, door: Door, part: str) -> list[Visit]:
        wishes = self.exam_wishes()
        task = self.progress.task(part, len(wishes))
        visits = await door.ask(part, wishes, crowd="guest", seen=task.advance)
        task.done(f"quality {np.mean([one.quality for one in visits]):.3f}")
        return visits

    def _round(self, number: int, loop: int, turn: int, *, thirds: bool = False) -> list[tuple[User, Wish]]:
        """What users want in a round: all of them, or every third one, each in its turn."""
        later = bool(number)
        users = self.users[turn % 3 :: 3] if thirds else self.users
        return [
            (user, self.wishes.wish(user, loop, turn, wording=int(later), new_intent=later)) for user in users
        ]

    async def _loop(self, door: Door, part: str, number: int) -> None:
        """Users ask, and say a round later what they think."""
        task = self.progress.task(part, self.config.turns * len(self.users))
        late: list[tuple[User, Wish, Visit]] = []
        rated = 0
        for turn in range(self.config.turns):
            wishes = self._round(number, 10 * number, turn)
            visits = await door.ask(part, wishes, seen=task.advance)
            rated += await door.tell(late)
            late = [(*pair, visit) for pair, visit in zip(wishes, visits, strict=True)]
        rated += await door.tell(late)
        quality = np.mean([one.quality for one in self.visits.of(part)])
        task.done(f"quality {quality:.3f}, {rated} ratings")

    async def _turn(self, door: Door, part: str, number: int, learner: str, rounds: int) -> None:
        """A turn of the wheel by a learner, and the test of what it proposes."""
        if any(one.part == part and (one.stage or one.outcome != "handed over") for one in self.turns):
            return
        task = self.progress.task(f"turn of {learner}")
        receipt = await self._learn(learner, part)
        found = TurnResult(
            part, learner, receipt["outcome"], receipt["reason"], number=receipt["turn"]["number"]
        )
        task.done(f"{found.outcome}: {found.reason}"[:160])
        if found.outcome == "handed over":
            stage, why = await self._test(door, part, number, rounds)
            found = TurnResult(**(asdict(found) | {"stage": stage, "test": why}))
        self.turns = [*(one for one in self.turns if one.part != part), found]
        write_atomic(
            self.home / "turns.json", json.dumps([asdict(one) for one in self.turns], indent=1) + "\n"
        )

    async def _learn(self, learner: str, part: str) -> dict[str, Any]:
        """Run `noria assistant learn` beside the gateway; the receipt. A turn that ended is not run again."""
        known = _receipt_of(self.shop.folder, part)
        if known is not None:
            return known
        asked = json.dumps(learner.split("+"))
        command = [sys.executable, "-m", "noria.cli", "assistant", "learn", "--config", str(self.shop.config),
                   "--folder", str(self.shop.folder), "-m", part, f"learning.learners={asked}"]  # fmt: skip
        process = await asyncio.create_subprocess_exec(
            *command, stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.PIPE,
            env={**os.environ, TOKEN: self.shop.token},
        )  # fmt: skip
        _, errors = await process.communicate()
        receipt = _receipt_of(self.shop.folder, part)
        if process.returncode or receipt is None:
            lines = errors.decode(errors="replace").strip().splitlines()
            raise RunError(f"the turn failed: {lines[-1] if lines else 'it said nothing'}", where=part)
        return receipt

    async def _test(self, door: Door, part: str, number: int, rounds: int) -> tuple[str, str]:
        """Let users ask until the newest experiment has ended; its stage and why."""
        name = f"{part}, test"
        task = self.progress.task(name, rounds * len(self.users) // 3)
        late: list[tuple[User, Wish, Visit]] = []
        found: Mapping[str, Any] = {}
        for turn in range(rounds + 1):
            await door.tell(late)
            found = await self._settled(door)
            if found.get("stage") not in OPEN or turn == rounds:
                break
            wishes = self._round(number, 10 * number + 1 + len(self.turns), turn, thirds=True)
            visits = await door.ask(name, wishes, seen=task.advance)
            late = [(*pair, visit) for pair, visit in zip(wishes, visits, strict=True)]
        if found.get("stage") in OPEN:
            await door.stop(str(found["name"]), "the season goes on")
        stage = "undecided" if found.get("stage") in OPEN else str(found.get("stage"))
        task.done(f"{stage}: {found.get('reason', '')}"[:160])
        return stage, str(found.get("reason", ""))

    async def _settled(self, door: Door) -> Mapping[str, Any]:
        """The newest experiment, once the companion has looked at what came last and the gateway has taken it over."""
        await asyncio.sleep(2.5)
        experiments = (await door.operate("/v1/experiments"))["data"]
        return max(experiments, key=lambda one: one["at"], default={})


def _read_turns(home: Path) -> list[TurnResult]:
    path = home / "turns.json"
    return [TurnResult(**one) for one in read_json(path)] if path.exists() else []


def _receipt_of(folder: Path, reason: str) -> dict[str, Any] | None:
    """The receipt of the turn that was started for a reason; None where it did not end."""
    for path in sorted((folder / "turns").glob("*/receipt.json")):
        receipt = dict(read_json(path))
        if receipt["turn"]["reason"] == reason:
            return receipt
    return None


# -- what came of it --------------------------------------------------------------------------------------------------


def summary(
    before: Sequence[Visit], after: Sequence[Visit], visits: Visits, turns: Sequence[TurnResult]
) -> dict[str, Any]:
    """Quality before and after on the exam's questions, pair by pair, in all and by intent and wording."""
    first = {one.wish: one for one in before}
    pairs = [(first[one.wish], one) for one in after]
    groups: dict[str, list[tuple[Visit, Visit]]] = {"all": pairs}
    for old, new in pairs:
        groups.setdefault("usual words" if f"-{EXAM}-" in old.wish else "later words", []).append((old, new))
        groups.setdefault(old.intent, []).append((old, new))
    parts = list(dict.fromkeys(part for part, _ in visits.done))
    return {
        "quality": {name: _compared(group) for name, group in groups.items()},
        "parts": [
            {"part": part, "requests": len(own), "quality": float(np.mean([one.quality for one in own])),
             "failed": sum(one.failed for one in own),
             "bundles": {name[:12]: [len(q), float(np.mean(q))] for name, q in _by_bundle(own).items()}}
            for part in parts if (own := visits.of(part))
        ],
        "turns": [asdict(one) for one in turns],
    }  # fmt: skip


def _compared(pairs: Sequence[tuple[Visit, Visit]]) -> dict[str, float]:
    """Mean quality before and after, and the difference with an interval over users."""
    old, new = (np.array([pair[side].quality for pair in pairs]) for side in (0, 1))
    found = cluster_bootstrap_mean(
        new - old, [pair[0].user for pair in pairs], generator=np.random.default_rng(0), resamples=4000
    )
    return {"before": float(old.mean()), "after": float(new.mean()), "difference": found.effect,
            "low": found.low, "high": found.high, "requests": len(pairs)}  # fmt: skip


def _by_bundle(visits: Sequence[Visit]) -> dict[str, list[float]]:
    groups: dict[str, list[float]] = {}
    for one in visits:
        groups.setdefault(one.bundle, []).append(one.quality)
    return groups
