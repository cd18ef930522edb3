"""The ladder: one student at 1, 2, 3, 4, 6 and 8 steps and under a foreign σ shift, against its teacher's long run.

A student that was trained on a fixed grid can be good there and useless elsewhere, so it is never judged at one number
of steps. Nothing here needs real images: the reference is what the teacher draws in many steps from the same noise for
the same prompts. With a folder of real images, the same figures are taken against those.

A sample's noise is a pure function of (seed, its number), so figures depend on no batch size.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import numpy.typing as npt
from torch import Tensor

from noria.core.errors import ConfigError
from noria.distill.adapters import Sampler
from noria.distill.evaluation import metrics
from noria.distill.evaluation.features import PIXELS, FeatureExtractor
from noria.distill.evaluation.grids import REFERENCE_STEPS, Grid, SamplingConfig, draw_samples, even_grid
from noria.distill.evaluation.neighbours import precision_recall
from noria.distill.evaluation.points import Undefined
from noria.distill.evaluation.views import Views, batches, view
from noria.distill.types import FIGURES, Role

UNGUIDED = "teacher, unguided"
"""Name of the arm of the teacher without guidance."""


@dataclass(frozen=True)
class Score:
    """The figures of one model on one grid.

    Attributes:
        arm: the arm that was measured.
        grid: noise levels that it drew on.
        figures: values by name, see FIGURES; None where there is none.
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


@dataclass(frozen=True)
class RealImages:
    """Real images to compare with: their name in reports, and what is kept of them."""

    name: str
    views: Views


class Judge:
    """Prompts, noise, reference and features of a comparison, the same for every arm and moment of a training.

    Args:
        sampler: model that draws; it has the teacher, if there is one to compare with.
        prompts: prompt of each sample.
        config: settings of drawing.
        teacher: whether `sampler` can draw as the teacher.
        real: real images to compare with instead of the teacher's.
        extractor: features that images are compared in.
        on_batch: called after each batch, see :func:`draw_samples`.

    Raises:
        ConfigError: there is neither a teacher nor real images.
    """

    def __init__(
        self,
        sampler: Sampler,
        prompts: Sequence[str],
        config: SamplingConfig,
        *,
        teacher: bool = True,
        real: RealImages | None = None,
        extractor: FeatureExtractor = PIXELS,
        on_batch: Callable[[int], None] | None = None,
    ) -> None:
        if not teacher and real is None:
            raise ConfigError(
                "there is nothing to compare the student with",
                mend="name its teacher, or a folder of real images",
            )
        self.prompts, self.config, self.extractor = list(prompts), config, extractor
        self.on_batch = on_batch
        self.adapter = sampler.adapter
        self.long: Tensor | None = None
        self.long_grid = even_grid(sampler.adapter.contract, REFERENCE_STEPS)
        if teacher:
            self.long = self._draw(sampler, self.long_grid, "teacher")
            self.long_views = self.look(self.long)
        self.real = real
        self.reference = real.views.features if real is not None else self.long_views.features

    def look(self, latents: Tensor) -> Views:
        """Decode latents a batch at a time and keep what the figures need."""
        parts = [self.adapter.decode(some).float().cpu() for some in batches(latents, self.config.batch_size)]
        return view(parts, self.extractor)

    def score(self, sampler: Sampler, grid: Grid, *, role: Role = "student") -> Score:
        """Draw on a grid and measure."""
        return self.measure(role, grid, self._draw(sampler, grid, role))

    def teacher_scores(self, sampler: Sampler, grids: Sequence[Grid]) -> list[Score]:
        """The teacher on the grids and on its long run: guided, and unguided where that is another one.

        A student draws without guidance. What its matching aims at is the unguided teacher; what the guidance that
        was distilled in adds, is the difference between the two.
        """
        assert self.long is not None, "there is a teacher"
        scores = [self.score(sampler, grid, role="teacher") for grid in grids]
        scores.append(self.measure("teacher", self.long_grid, self.long))
        if self.config.guidance != 1:
            plain = self.config.model_copy(update={"guidance": 1.0})
            scores += [
                self.measure(UNGUIDED, grid, self._draw(sampler, grid, "teacher", plain))
                for grid in (*grids, self.long_grid)
            ]
        return scores

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
            values["teacher_distance"] = apart / scale if scale else Undefined("the teacher draws nothing")
        else:
            values["std_ratio"] = metrics.std_ratio(views.features, self.reference)
        if views.classes is not None:
            wanted = np.array([int(prompt) for prompt in self.prompts])
            values["label_accuracy"] = metrics.label_accuracy(views.classes, wanted)
        why = {n: str(getattr(v, "reason", "not a number")) for n, v in values.items() if math.isnan(v)}
        figures = {n: None if n in why else float(values[n]) for n in FIGURES if n in values}
        return Score(arm, grid, figures, why, views.pictures)

    def _distances(self, views: Views) -> dict[str, float]:
        ours, theirs = views.features, self.reference
        values: dict[str, float] = {}
        spread = metrics.spread(theirs)
        apart = metrics.sliced_wasserstein(ours, theirs, 128, np.random.default_rng(self.config.seed))
        values["sliced_wasserstein"] = apart / spread if spread else Undefined("the reference is constant")
        fewest = min(len(ours), len(theirs))
        few = Undefined(f"{fewest} samples are too few")
        values["frechet"] = metrics.frechet_distance(ours, theirs) if fewest >= 2 else few
        if self.real is not None:
            near = precision_recall(theirs, ours, 3) if fewest >= 4 else None
            values["precision"] = near.precision if near else few
            values["recall"] = near.recall if near else few
        return values

    def _draw(self, sampler: Sampler, grid: Grid, role: Role, config: SamplingConfig | None = None) -> Tensor:
        return draw_samples(
            sampler, self.prompts, grid, config or self.config, role=role, on_batch=self.on_batch
        )

    @property
    def reference_name(self) -> str:
        """Name of the reference, in words."""
        if self.real is not None:
            return self.real.name
        return f"the teacher's {self.long_grid.steps} steps at guidance {self.config.guidance:g}"
