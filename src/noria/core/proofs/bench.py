"""Speed as a ratio to a named peer, both timed in one process in alternation, so that a busy machine slows both.

A figure is a median with its spread. A ratio is taken turn by turn; above 1 means that ours is better.
"""

from __future__ import annotations

import contextlib
import os
import statistics
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Literal

from noria.core.progress import Progress


@dataclass(frozen=True)
class Timing:
    """Seconds of each turn of both sides; turn n of one ran right beside turn n of the other."""

    ours: list[float]
    theirs: list[float]


@dataclass(frozen=True)
class Row:
    """One figure of a bench.

    Attributes:
        name: name of the figure.
        peer: name and version of the peer.
        unit: unit of `ours` and `theirs`.
        ours, theirs: median of each side.
        ratio: median of the paired ratios, above 1 when ours is better.
        spread: (lowest, highest) paired ratio.
        goal: ratio that the figure should reach.
    """

    name: str
    peer: str
    unit: str
    ours: float
    theirs: float
    ratio: float
    spread: tuple[float, float]
    goal: float

    @property
    def met(self) -> bool:
        """Whether the median ratio reaches the goal."""
        return self.ratio >= self.goal

    @classmethod
    def of(
        cls,
        name: str,
        peer: str,
        unit: str,
        ours: Sequence[float],
        theirs: Sequence[float],
        *,
        better: Literal["lower", "higher"],
        goal: float,
    ) -> Row:
        """Make a row of paired measurements, one of each side a turn.

        Raises:
            ValueError: nothing was measured, or the sides are not paired.
        """
        if not ours or len(ours) != len(theirs):
            raise ValueError(f"{name}: {len(ours)} and {len(theirs)} measurements do not pair")
        pairs = zip(ours, theirs, strict=True)
        ratios = [t / o if better == "lower" else o / t for o, t in pairs]
        return cls(
            name=name,
            peer=peer,
            unit=unit,
            ours=statistics.median(ours),
            theirs=statistics.median(theirs),
            ratio=statistics.median(ratios),
            spread=(min(ratios), max(ratios)),
            goal=goal,
        )


@dataclass(frozen=True)
class Benchmark:
    """All figures of a system's bench."""

    system: str
    rows: list[Row]

    def to_json(self) -> dict[str, Any]:
        """The bench as JSON: {system, rows: [{name, peer, unit, ours, theirs, ratio, spread, goal}]}."""
        return {
            "system": self.system,
            "rows": [vars(row) | {"spread": list(row.spread)} for row in self.rows],
        }


def alternate(
    ours: Callable[[], object],
    theirs: Callable[[], object],
    *,
    rounds: int = 10,
    warmup: int = 1,
    progress: Progress | None = None,
    clock: Callable[[], float] | None = None,
) -> Timing:
    """Time two callables in alternation; which goes first changes from turn to turn.

    Args:
        ours: one turn of the side under test.
        theirs: one turn of the peer.
        rounds: number of timed turns of each side.
        warmup: number of untimed turns of each side before.
        progress: shows the finished rounds, if given.
        clock: seconds that pass, such as those of the processor; of the wall by default.
    """
    clock = clock or time.perf_counter
    for _ in range(warmup):
        ours()
        theirs()
    timing = Timing([], [])
    task = progress.task("rounds", rounds) if progress else None
    for turn in range(rounds):
        sides = [(ours, timing.ours), (theirs, timing.theirs)]
        for side, seconds in sides if turn % 2 == 0 else reversed(sides):
            began = clock()
            side()
            seconds.append(clock() - began)
        if task:
            task.advance()
    if task:
        task.done()
    return timing


def peak_memory(call: Callable[[], object]) -> float:
    """Most bytes of PyTorch's memory that a call holds on the CPU, beyond what was held before it."""
    import torch

    os.environ.setdefault("KINETO_LOG_LEVEL", "99")  # else it prints every start and stop
    profiler: Any = torch.profiler
    with profiler.profile(activities=[profiler.ProfilerActivity.CPU], profile_memory=True) as profile:
        call()
    live = highest = 0
    with contextlib.suppress(
        AttributeError
    ):  # kineto_results is not public, and absent where Kineto is not built in
        for event in profile.profiler.kineto_results.events():
            if event.name() == "[memory]":
                live += event.nbytes()
                highest = max(highest, live)
    return float(highest)
