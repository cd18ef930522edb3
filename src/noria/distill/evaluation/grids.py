"""Noise levels that a student is judged at, and samples drawn on them.

A sample's noise is a pure function of (seed, its number), so figures depend on no batch size.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from pydantic import Field
from torch import Tensor

from noria.core.config import Config
from noria.core.errors import ConfigError
from noria.core.models.flow import SigmaContract
from noria.distill.adapters import Sampler
from noria.distill.matching.draws import key
from noria.distill.types import LADDER, Role

REFERENCE_STEPS = 50
"""Number of steps of the teacher's long run."""


class SamplingConfig(Config):
    """Settings of drawing samples."""

    seed: int = Field(0, ge=0, description="Seed of the starting noise.")
    guidance: float = Field(1.0, description="Classifier-free guidance of the teacher.")
    batch_size: int = Field(16, ge=1, description="Number of samples drawn at a time.")


@dataclass(frozen=True)
class Grid:
    """Noise levels that a model is sampled at.

    Attributes:
        name: name of the grid in tables.
        sigmas: true σ, with the final 0.
    """

    name: str
    sigmas: tuple[float, ...]

    @property
    def steps(self) -> int:
        """Number of network calls."""
        return len(self.sigmas) - 1


def even_grid(contract: SigmaContract, steps: int) -> Grid:
    """`steps` evenly spaced pre-shift levels from 1 down: for 4, 1, .75, .5, .25, as most students are trained on."""
    if not 1 <= steps <= 1000:
        raise ConfigError(f"{steps} steps", where="steps", mend="use 1 to 1000")
    return Grid(str(steps), _true(contract, [1 - i / steps for i in range(steps)]))


def ladder_grids(contract: SigmaContract, trained: Sequence[float] = (1.0, 0.75, 0.5, 0.25)) -> list[Grid]:
    """The ladder; the trained grid where it is not one of the even ones; and the trained steps under a foreign shift.

    Foreign is a shift of 3 for a model that has none to speak of, and no shift for a model that has one.
    """
    grids = [even_grid(contract, steps) for steps in LADDER]
    own = Grid(f"{len(trained)}, trained", _true(contract, trained))
    if all(not np.allclose(own.sigmas, g.sigmas) for g in grids if g.steps == own.steps):
        grids.append(own)
    shift = 3.0 if contract.shift < 1.5 else 1.0
    foreign = SigmaContract(shift, contract.train_timesteps)
    return [*grids, Grid(f"{len(trained)}, shift {shift:g}", _true(foreign, trained))]


def _true(contract: SigmaContract, pre_shift: Sequence[float]) -> tuple[float, ...]:
    return tuple(float(s) for s in contract.grid(pre_shift))


def starting_noise(latent_shape: tuple[int, ...], numbers: Sequence[int], seed: int) -> Tensor:
    """Noise [len(numbers), *latent_shape] of the samples `numbers`; each has a stream of its own."""
    generator = torch.Generator()
    rows = [torch.randn(latent_shape, generator=generator.manual_seed(key(seed, 77, n))) for n in numbers]
    return torch.stack(rows)


def draw_samples(
    sampler: Sampler,
    prompts: Sequence[str],
    grid: Grid,
    config: SamplingConfig,
    *,
    role: Role = "student",
    on_batch: Callable[[int], None] | None = None,
) -> Tensor:
    """Latents [len(prompts), *latent] on the CPU, as :func:`sample_batches` draws them."""
    return torch.cat(list(sample_batches(sampler, prompts, grid, config, role=role, on_batch=on_batch)))


def sample_batches(
    sampler: Sampler,
    prompts: Sequence[str],
    grid: Grid,
    config: SamplingConfig,
    *,
    role: Role = "student",
    on_batch: Callable[[int], None] | None = None,
) -> Iterator[Tensor]:
    """Latents [≤ batch size, *latent] on the CPU, a batch at a time; sample n starts from noise n.

    Args:
        sampler: model that draws.
        prompts: prompt of each sample.
        grid: noise levels of the steps.
        config: seed, guidance and batch size.
        role: "student" or "teacher"; guidance is a teacher's alone.
        on_batch: called after each batch with the number of network calls it took.
    """
    sigmas = torch.tensor(grid.sigmas)
    guidance = config.guidance if role == "teacher" else 1.0
    for start in range(0, len(prompts), config.batch_size):
        numbers = range(start, min(start + config.batch_size, len(prompts)))
        noise = starting_noise(sampler.adapter.latent_shape, numbers, config.seed)
        some = [prompts[n] for n in numbers]
        latents = sampler.sample(some, noise, sigmas, role=role, guidance=guidance).float().cpu()
        if on_batch:
            on_batch(grid.steps)
        yield latents
