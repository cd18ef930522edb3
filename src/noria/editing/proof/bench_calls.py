"""Calls of the editor until a planner reaches a strict accuracy, against one group a prompt.

Both sides draw the same prompts and equally many rollouts, each at its own best learning rate; the peer rewards every
rollout by both paths (the sum), so it renders all of them. What is counted does not depend on the machine.
"""

from __future__ import annotations

from dataclasses import asdict
from typing import TYPE_CHECKING

from noria.core.errors import CheckError
from noria.editing.proof.arms import CHOSEN, Scale
from noria.editing.proof.measures import renders_to
from noria.editing.proof.running import run_arm, run_filter

if TYPE_CHECKING:
    from noria.core.proofs.bench import Benchmark

TARGET = 0.5
"""Strict accuracy that both sides are to reach; the start has about .3."""
SIZE = Scale(steps=16, pool=120, tests=72, every=2)
FIRST_SEED = 41
"""Seed of the first turn, apart from those of the proof and of its search."""


def benchmarks(*, rounds: int = 2) -> Benchmark:
    """Renders until a strict accuracy of .5: split groups against the sum.

    Args:
        rounds: turns, each with a seed of its own.

    Raises:
        CheckError: no turn has both sides reach it.
    """
    from noria.core.proofs.bench import Benchmark, Row

    ours: list[float] = []
    theirs: list[float] = []
    for seed in range(FIRST_SEED, FIRST_SEED + rounds):
        kept = run_filter(seed, asdict(SIZE))["kept"]
        reached = []
        for arm in ("split", "sum"):
            result = run_arm(arm, seed, CHOSEN[arm], asdict(SIZE), kept, False)
            reached.append(renders_to(result["curve"], TARGET))
        split, whole = reached
        if split is not None and whole is not None:
            ours.append(split)
            theirs.append(whole)
    if not ours:
        raise CheckError(f"no turn reached a strict accuracy of {TARGET}", where="editing-calls")
    row = Row.of(
        f"renders to {TARGET} strict accuracy",
        "one group a prompt (sum)",
        "calls of the editor",
        ours,
        theirs,
        better="lower",
        goal=2.0,
    )
    return Benchmark("editing-calls", [row])
