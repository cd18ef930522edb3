"""Speed of the distillation loop against the straightforward order of the same algorithm.

Both sides run the same model, batch and random numbers in one process, in alternation. The peer simulates
every sample to the end of its schedule, runs one student forward for each of CA, DM and CDM, and reads the
teachers one call at a time.
"""

from __future__ import annotations

import copy
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from noria.core.proofs.bench import Benchmark

BATCH = 128
"""The global batch of the published Stable Diffusion 3 recipe."""
PEER = "straightforward order"
ITERATIONS = 6
"""Iterations a timed turn: three critic-only ones and three with a student update."""


def benchmarks(*, rounds: int = 8) -> Benchmark:
    """Rollout forwards and training samples a second at N_max = 28.

    Args:
        rounds: timed turns of each side.
    """
    import torch

    from noria.core.proofs.bench import Benchmark, Row, alternate
    from noria.distill.adapters import SmallAdapter
    from noria.distill.config import DistillConfig, preset
    from noria.distill.proof.running import DIGITS_TEACHER, ClassPrompts
    from noria.distill.training.teacher import load_teacher
    from noria.distill.training.trainer import Distiller

    torch.manual_seed(0)
    teacher = load_teacher(DIGITS_TEACHER)
    sides = {
        execution: Distiller(
            SmallAdapter(copy.deepcopy(teacher)),
            DistillConfig(
                **{**preset("cdm"), "batch_size": BATCH, "iterations": 10**6, "execution": execution}
            ),
            ClassPrompts(10),
        )
        for execution in ("fast", "reference")
    }

    def turn(execution: str) -> None:
        for _ in range(ITERATIONS):
            sides[execution].step()

    timing = alternate(lambda: turn("fast"), lambda: turn("reference"), rounds=rounds, warmup=1)
    work = {execution: side.work for execution, side in sides.items()}
    samples = ITERATIONS * BATCH
    ours = [samples / seconds for seconds in timing.ours]
    theirs = [samples / seconds for seconds in timing.theirs]
    counted = [work["reference"].rollout / work["fast"].rollout]
    return Benchmark(
        "distill",
        [
            Row.of("rollout forwards", PEER, "forwards a sample", [1.0], counted, better="lower", goal=1.8),
            Row.of("training samples", PEER, "samples/s", ours, theirs, better="higher", goal=1.4),
        ],
    )
