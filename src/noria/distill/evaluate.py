"""The ladder: one student at 1, 2, 3, 4, 6 and 8 steps and under a foreign σ shift, against its teacher's long run.

A student that was trained on a fixed grid can be good there and useless elsewhere, so it is never judged at one number
of steps. Nothing here needs real images: the reference is what the teacher draws in many steps from the same noise for
the same prompts. With a folder of real images, the same figures are taken against those.

A sample's noise is a pure function of (seed, its number), so figures depend on no batch size.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from noria.core.errors import ConfigError, DataError
from noria.core.models.flow import SigmaContract
from noria.distill import metrics
from noria.distill.adapters import FlowAdapter
from noria.distill.draws import key
from noria.distill.roles import Role

__all__ = [
    "FIGURES",
    "LADDER",
    "LADDER_KEY",
    "PIXELS",
    "Grid",
    "Judge",
    "Lens",
    "Sampler",
    "Score",
    "Views",
    "batches",
    "draw_samples",
    "even_grid",
    "ladder_grids",
    "pixel_features",
    "starting_noise",
    "thumbnails",
    "view",
]

LADDER = (1, 2, 3, 4, 6, 8)
"""Numbers of steps that a student is judged at."""

LADDER_KEY = "ladder."
"""Begins the names under which a training logs its distance on each grid."""

FIGURES: dict[str, str] = {
    "sliced_wasserstein": "sliced Wasserstein distance to the reference, in its standard deviations: 0 is equal",
    "frechet": "Fréchet distance to the reference in the named features: 0 is equal",
    "teacher_distance": "RMS distance to the teacher's long run from the same noise, over that run's RMS: 0 is equal",
    "std_ratio": "spread over the reference's: 1 is the same contrast, above it is over-saturated",
    "clipped": "share of pixels at black or white",
    "precision": "share of samples within the reference's manifold",
    "recall": "share of references within the samples' manifold",
    "label_accuracy": "share of samples that a classifier takes for what was asked",
}
"""What each figure means; a figure that cannot be had is None."""


class Sampler(Protocol):
    """Whatever draws latents as a role: a Distiller in training, or a student opened from disk."""

    @property
    def adapter(self) -> FlowAdapter:
        """How to call its model."""
        ...

    def sample(
        self,
        prompts: Sequence[str],
        noise: Tensor,
        sigmas: Tensor,
        *,
        role: Role = "student",
        guidance: float = 1.0,
    ) -> Tensor:
        """Latents by Euler steps on the true σ `sigmas` [steps + 1]."""
        ...


# -- grids ----------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Grid:
    """Noise levels a model is sampled at.

    Attributes:
        name: as tables show it.
        sigmas: true σ, with the final 0.
    """

    name: str
    sigmas: tuple[float, ...]

    @property
    def steps(self) -> int:
        """Network calls."""
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


# -- samples --------------------------------------------------------------------------------------------------------


def starting_noise(latent_shape: tuple[int, ...], numbers: Sequence[int], seed: int) -> Tensor:
    """Noise [len(numbers), *latent_shape] of the samples `numbers`; each has a stream of its own."""
    generator = torch.Generator()
    rows = [torch.randn(latent_shape, generator=generator.manual_seed(key(seed, 77, n))) for n in numbers]
    return torch.stack(rows)


@torch.no_grad()
def draw_samples(
    sampler: Sampler,
    prompts: Sequence[str],
    grid: Grid,
    *,
    seed: int,
    role: Role = "student",
    guidance: float = 1.0,
    batch_size: int = 16,
    on_batch: Callable[[int], None] | None = None,
) -> Tensor:
    """Latents [len(prompts), *latent] on the CPU; sample n starts from noise n.

    Args:
        sampler: who draws.
        prompts: one a sample.
        grid: where.
        seed: of the noise.
        role: "student" or "teacher".
        guidance: classifier-free guidance of a teacher; a student has 1.
        batch_size: samples at a time.
        on_batch: called after each batch with the number of network calls it took.
    """
    sigmas, rows = torch.tensor(grid.sigmas), []
    for start in range(0, len(prompts), batch_size):
        numbers = range(start, min(start + batch_size, len(prompts)))
        noise = starting_noise(sampler.adapter.latent_shape, numbers, seed)
        some = [prompts[n] for n in numbers]
        rows.append(sampler.sample(some, noise, sigmas, role=role, guidance=guidance).float().cpu())
        if on_batch:
            on_batch(grid.steps)
    return torch.cat(rows)


# -- how images are looked at ---------------------------------------------------------------------------------------


def pixel_features(images: Tensor) -> npt.NDArray[np.float64]:
    """Colours of an image shrunk to at most 8 × 8 by area, [n, channels · 64] at most.

    They see layout, contrast and colour, not objects: a Fréchet distance in them is no FID. They need no other network.
    """
    size = (min(8, images.shape[-2]), min(8, images.shape[-1]))
    small = torch.nn.functional.adaptive_avg_pool2d(images.float(), size)
    return np.asarray(small.flatten(1).double().cpu().numpy())


@dataclass(frozen=True)
class Lens:
    """Through what images are compared.

    Attributes:
        name: as reports show it.
        features: images [n, channels, height, width] in [0, 1] to features [n, d].
        classify: images to class numbers [n], where prompts are class numbers.
    """

    name: str
    features: Callable[[Tensor], npt.NDArray[np.float64]]
    classify: Callable[[Tensor], npt.NDArray[np.int64]] | None = None


PIXELS = Lens("pixels shrunk to 8 × 8", pixel_features)


def thumbnails(images: Tensor, side: int = 256) -> npt.NDArray[np.uint8]:
    """Images [n, 1 or 3, h, w] in [0, 1] for a report: uint8 [n, h, w(, 3)], shrunk to at most `side` pixels."""
    height, width = images.shape[-2:]
    if max(height, width) > side:
        scale = side / max(height, width)
        size = [max(1, round(height * scale)), max(1, round(width * scale))]
        images = torch.nn.functional.interpolate(images.float(), size=size, mode="bilinear", antialias=True)
    pixels = (images.clamp(0, 1) * 255).round().byte().cpu().numpy()
    return np.asarray(pixels[:, 0] if pixels.shape[1] == 1 else pixels.transpose(0, 2, 3, 1))


@dataclass(frozen=True)
class Views:
    """What is kept of a set of images.

    Attributes:
        features: [n, d].
        clipped: share of pixels at black or white.
        classes: what a classifier takes them for.
        pictures: thumbnails of the first few.
    """

    features: npt.NDArray[np.float64]
    clipped: float
    classes: npt.NDArray[np.int64] | None
    pictures: npt.NDArray[np.uint8]


# -- scores ---------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Score:
    """The figures of one model on one grid.

    Attributes:
        arm: whose.
        grid: where.
        figures: by name, see FIGURES; None where there is none.
        why: the reason for each None.
        pictures: thumbnails of the first samples.
    """

    arm: str
    grid: Grid
    figures: dict[str, float | None]
    why: dict[str, str]
    pictures: npt.NDArray[np.uint8] | None = field(default=None, compare=False, repr=False)

    def to_json(self) -> dict[str, Any]:
        """Plain values, without the pictures."""
        return {
            "arm": self.arm,
            "grid": self.grid.name,
            "steps": self.grid.steps,
            "sigmas": list(self.grid.sigmas),
            "figures": self.figures,
            "missing": self.why,
        }


class Judge:
    """Prompts, noise, reference and lens of one comparison: every arm, and every moment of a training, meets the same.

    Args:
        sampler: has the teacher, if there is one to compare with.
        prompts: one a sample.
        seed: of the samples' noise.
        teacher: whether `sampler` can draw as the teacher.
        guidance: the teacher's classifier-free guidance.
        real: views of real images to compare with instead of the teacher's.
        lens: through what.
        reference_steps: of the teacher's long run.
        batch_size: samples at a time.
        columns: how many pictures are kept of each grid.
        on_batch: see :func:`draw_samples`.

    Raises:
        ConfigError: there is neither a teacher nor real images.
    """

    def __init__(
        self,
        sampler: Sampler,
        prompts: Sequence[str],
        *,
        seed: int,
        teacher: bool = True,
        guidance: float = 1.0,
        real: Views | None = None,
        lens: Lens = PIXELS,
        reference_steps: int = 50,
        batch_size: int = 16,
        columns: int = 8,
        on_batch: Callable[[int], None] | None = None,
    ) -> None:
        if not teacher and real is None:
            raise ConfigError(
                "there is nothing to compare the student with",
                mend="name its teacher, or a folder of real images",
            )
        self.prompts, self.seed, self.guidance, self.lens = list(prompts), seed, guidance, lens
        self.batch_size, self.columns, self.on_batch = batch_size, columns, on_batch
        self.adapter = sampler.adapter
        self.long: Tensor | None = None
        self.long_grid = even_grid(sampler.adapter.contract, reference_steps)
        if teacher:
            self.long = self._draw(sampler, self.long_grid, "teacher")
            self.long_views = self.look(self.long)
        self.real = real
        self.reference = real.features if real is not None else self.long_views.features

    def look(self, latents: Tensor) -> Views:
        """Decode latents a batch at a time and keep what the figures need."""
        parts = [self.adapter.decode(some).float().cpu() for some in batches(latents, self.batch_size)]
        return view(parts, self.lens, self.columns)

    def score(self, sampler: Sampler, grid: Grid, *, role: Role = "student", arm: str | None = None) -> Score:
        """Draw on a grid and measure."""
        return self.measure(arm or role, grid, self._draw(sampler, grid, role))

    def long_run(self) -> Score:
        """The teacher's long run, measured like any other arm."""
        assert self.long is not None, "there is a teacher"
        return self.measure("teacher", self.long_grid, self.long)

    def measure(self, arm: str, grid: Grid, latents: Tensor) -> Score:
        """The figures of samples drawn from this judge's prompts and noise."""
        bad = int((~latents.flatten(1).isfinite().all(dim=1)).sum())
        if bad:
            reason = f"{bad} of {len(latents)} samples are not finite"
            names = ["sliced_wasserstein", "frechet", "teacher_distance", "std_ratio", "clipped"]
            return Score(arm, grid, dict.fromkeys(names), dict.fromkeys(names, reason))
        views = self.look(latents)
        values = self._distances(views)
        values["clipped"] = views.clipped
        if self.long is not None:
            values["std_ratio"] = metrics.std_ratio(latents, self.long)
            scale = float(self.long.square().mean().sqrt())
            apart = float((latents - self.long).square().mean().sqrt())
            values["teacher_distance"] = (
                apart / scale if scale else metrics.Undefined("the teacher draws nothing")
            )
        else:
            values["std_ratio"] = metrics.std_ratio(views.features, self.reference)
        if views.classes is not None:
            asked = np.array([int(prompt) for prompt in self.prompts])
            values["label_accuracy"] = metrics.label_accuracy(views.classes, asked)
        why = {n: str(getattr(v, "reason", "not a number")) for n, v in values.items() if math.isnan(v)}
        figures = {n: None if n in why else float(values[n]) for n in FIGURES if n in values}
        return Score(arm, grid, figures, why, views.pictures)

    def _distances(self, views: Views) -> dict[str, float]:
        ours, theirs = views.features, self.reference
        values: dict[str, float] = {}
        spread = metrics.spread(theirs)
        apart = metrics.sliced_wasserstein(ours, theirs, 128, np.random.default_rng(self.seed))
        values["sliced_wasserstein"] = (
            apart / spread if spread else metrics.Undefined("the reference is constant")
        )
        fewest = min(len(ours), len(theirs))
        few = metrics.Undefined(f"{fewest} samples are too few")
        values["frechet"] = metrics.frechet_distance(ours, theirs) if fewest >= 2 else few
        if self.real is not None:
            near = metrics.precision_recall(theirs, ours, 3) if fewest >= 4 else None
            values["precision"] = near.precision if near else few
            values["recall"] = near.recall if near else few
        return values

    def _draw(self, sampler: Sampler, grid: Grid, role: Role) -> Tensor:
        return draw_samples(
            sampler,
            self.prompts,
            grid,
            seed=self.seed,
            role=role,
            guidance=self.guidance if role == "teacher" else 1.0,
            batch_size=self.batch_size,
            on_batch=self.on_batch,
        )


def view(parts: Iterable[Tensor], lens: Lens, columns: int = 8) -> Views:
    """What is kept of images that come in batches [n, channels, height, width] in [0, 1]."""
    features: list[npt.NDArray[np.float64]] = []
    classes: list[npt.NDArray[np.int64]] = []
    pictures: list[npt.NDArray[np.uint8]] = []
    clipped = pixels = 0
    for images in parts:
        features.append(lens.features(images))
        if lens.classify is not None:
            classes.append(lens.classify(images))
        if len(pictures) < columns:
            pictures += list(thumbnails(images[: columns - len(pictures)]))
        clipped += int(((images <= 0) | (images >= 1)).sum())
        pixels += images.numel()
    if not pixels:
        raise DataError("no images")
    seen = np.concatenate(classes) if classes else None
    return Views(np.concatenate(features), clipped / pixels, seen, np.stack(pictures))


def batches(rows: Tensor, size: int) -> list[Tensor]:
    """Rows, `size` at a time."""
    return [rows[start : start + size] for start in range(0, len(rows), size)]
