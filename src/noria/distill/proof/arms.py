"""One arm of the proof: train a student of a teacher by a named recipe and seed, measure it on the whole ladder.

Every arm shares the teacher, the guidance strength, the number of student steps, the batch size and the
evaluation noise; it differs in its preset and its own few overrides only. An arm is a pure function of its
settings, so arms run in any order and process.
"""

from __future__ import annotations

import itertools
import time
from dataclasses import dataclass, field
from importlib.resources import files
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from noria.distill.types import LADDER

if TYPE_CHECKING:
    from torch import Tensor

    from noria.distill.data.images import ImageSet

__all__ = [
    "ARMS",
    "DIGITS_TEACHER",
    "FOREIGN",
    "ClassPrompts",
    "Scale",
    "load_data",
    "measure",
    "run_arm",
    "run_teacher",
    "sampling_grids",
]

DIGITS_TEACHER = Path(str(files("noria.distill"))) / "assets" / "digits_teacher.safetensors"
"""A teacher of scikit-learn's 8×8 digits that ships with the package; `noria distill teacher --data digits`
rebuilds it."""
FOREIGN = "4, shift 3"
"""Four steps on a grid shifted by s = 3, which no arm is trained on."""


@dataclass(frozen=True)
class Scale:
    """The size of a proof: data, budgets, and the settings all arms share."""

    data: str
    teacher_steps: int
    student_steps: int
    samples: int
    batch_size: int = 32
    max_steps: int = 8
    guidance: float = 1.5
    student_lr: float = 1e-4
    critic_lr: float = 2e-4
    ema_decay: float = 0.99
    update_ratio: int = 2


@dataclass(frozen=True)
class Recipe:
    """A preset and what the proof changes of it."""

    preset: str
    note: str
    overrides: dict[str, Any] = field(default_factory=dict)
    sampler: str = "euler"


_ABOVE = {"objective": {"ca_tau": "above"}}
_TOLD = {"critic": {"source": "anchor_conditioned"}}
_ENDS = {"critic": {"source": "final_x0"}}
_ANCHORS = {"critic": {"source": "anchor_x0"}}
# CA is read above the anchor (as Decoupled-DMD does; CDM's release reads below it) and the critic is told the anchor.
# Both were chosen on seed 0, both are ablated, and every arm that they apply to has them.
_OURS = _ABOVE | _TOLD

ARMS: dict[str, Recipe] = {
    "CDM": Recipe("cdm", "dynamic schedule, CA + DM + CDM", _OURS),
    "CDM, fixed grid": Recipe("cdm-no-schedule", "CDM without the dynamic schedule", _OURS),
    "CDM, no CDM term": Recipe("cdm-no-cdm", "dynamic schedule, CA + DM", _OURS),
    "CDM, re-noise": Recipe("cdm-renoise", "Gaussian re-noise instead of velocity", _OURS),
    "DMD2": Recipe("dmd2", "fixed grid, guided real read", _TOLD),
    "Decoupled-DMD": Recipe("decoupled-dmd", "fixed grid, CA + DM", _TOLD),
    "Consistency": Recipe("consistency", "discrete consistency distillation on real images", {}, "renoise"),
    "CDM, CA below": Recipe("cdm", "CA read below the anchor, as released", _TOLD),
    "CDM, critic of anchors": Recipe(
        "cdm", "critic of all anchors, not told which, as released", _ABOVE | _ANCHORS
    ),
    "CDM, critic of ends": Recipe("cdm", "critic of rollout ends", _ABOVE | _ENDS),
    "CDM, fixed grid, critic of ends": Recipe("cdm-no-schedule", "both without", _ABOVE | _ENDS),
    "CDM, as released": Recipe("cdm", "CA below, critic of all anchors", _ANCHORS),
    "DMD2, critic of ends": Recipe("dmd2", "fixed grid, critic of rollout ends, as published", _ENDS),
}


def sampling_grids(teacher: bool = False) -> dict[str, list[float]]:
    """Pre-shift σ lists by name: the ladder's even grids and, under the name FOREIGN, the shifted one
    (already true σ).
    """
    grids = {str(n): [1 - i / n for i in range(n)] for n in ((*LADDER, 50) if teacher else LADDER)}
    grids[FOREIGN] = [3 * s / (1 + 2 * s) for s in (1.0, 0.75, 0.5, 0.25)]
    return grids


def run_arm(
    arm: str, seed: int, scale: dict[str, Any], folder: str, data_folder: str | None
) -> dict[str, Any]:
    """Train and measure one arm.

    Args:
        arm: name of the arm, a key of ARMS.
        seed: seed of draws and prompts.
        scale: fields of :class:`Scale`.
        folder: folder of `teacher.safetensors` and the classifier.
        data_folder: folder of MNIST, for that scale.

    Returns:
        {"metrics": {grid: {metric: value}}, "seconds", "forwards", "steps", "images": uint8 rows, "curve"}, JSON-ready.
    """
    from noria.core.runs.workers import report
    from noria.distill.adapters import SmallAdapter
    from noria.distill.config import DistillConfig, merged, preset
    from noria.distill.training.teacher import load_teacher
    from noria.distill.training.trainer import Distiller

    s, recipe = Scale(**scale), ARMS[arm]
    data = load_data(s, data_folder)
    adapter = SmallAdapter(load_teacher(Path(folder) / "teacher.safetensors"))
    values = preset(recipe.preset)
    shared: dict[str, Any] = {
        "seed": seed,
        "batch_size": s.batch_size,
        "update_ratio": s.update_ratio,
        "ema_decay": s.ema_decay,
        "iterations": s.student_steps * s.update_ratio,
        "student": {"lr": s.student_lr, "warmup": 20},
        "critic": {"lr": s.critic_lr, "warmup": 20},
        "schedule": {"max_steps": s.max_steps, "low": 0.02, "high": 0.98},
        "objective": {"ca_scale": s.guidance - 1, "consistency_guidance": s.guidance},
    }
    if values.get("objective", {}).get("dm_guidance"):
        shared["objective"]["dm_guidance"] = s.guidance
    if recipe.preset == "consistency":
        shared |= {"iterations": s.student_steps, "update_ratio": 1}
    config = DistillConfig(preset=recipe.preset, **merged(shared, recipe.overrides))
    by_class = [np.flatnonzero(data.labels == c) for c in range(adapter.classes)]

    def images(iteration: int, prompts: Any) -> Tensor:
        import torch

        generator = np.random.default_rng([seed, iteration])
        rows = [generator.choice(by_class[int(p)]) for p in prompts]
        return torch.as_tensor(data.images[rows])

    distiller = Distiller(
        adapter,
        config,
        ClassPrompts(adapter.classes),
        images=images if recipe.preset == "consistency" else None,
    )
    began, curve = time.perf_counter(), []
    while distiller.iteration < config.iterations:
        step = distiller.step()
        report(distiller.iteration, config.iterations)
        if "std_ratio" in step:
            curve.append({"iteration": distiller.iteration, **{k: round(v, 5) for k, v in step.items()}})
    seconds = time.perf_counter() - began
    result = measure(distiller, recipe, s, data, Path(folder), role="student")
    work = vars(distiller.work)
    return result | {
        "seconds": seconds,
        "steps": distiller.student_steps,
        "forwards": sum(work.values()),
        "curve": curve,
    }


def run_teacher(seed: int, scale: dict[str, Any], folder: str, data_folder: str | None) -> dict[str, Any]:
    """Measure the teacher itself, at the arms' guidance, on the ladder and at 50 steps; returned as
    :func:`run_arm` does.
    """
    from noria.distill.adapters import SmallAdapter
    from noria.distill.config import DistillConfig
    from noria.distill.training.teacher import load_teacher
    from noria.distill.training.trainer import Distiller

    s = Scale(**scale)
    adapter = SmallAdapter(load_teacher(Path(folder) / "teacher.safetensors"))
    distiller = Distiller(adapter, DistillConfig(seed=seed), ClassPrompts(adapter.classes))
    began = time.perf_counter()
    result = measure(
        distiller, Recipe("cdm", ""), s, load_data(s, data_folder), Path(folder), role="teacher", seed=seed
    )
    return result | {"seconds": time.perf_counter() - began, "steps": 0, "forwards": 0, "curve": []}


def measure(
    distiller: Any,
    recipe: Recipe,
    scale: Scale,
    data: ImageSet,
    folder: Path,
    *,
    role: str,
    seed: int | None = None,
) -> dict[str, Any]:
    """Samples of a network on every grid, scored against the data in the classifier's features.

    The evaluation noise depends on the seed only, so arms of one seed are compared on the same noise.
    """
    import torch

    from noria.distill.evaluation.reference import evaluate_samples
    from noria.distill.matching.draws import key

    seed = distiller.config.seed if seed is None else seed
    reference = _reference(scale, data, folder)
    classes = distiller.adapter.classes
    labels = np.arange(scale.samples) % classes
    prompts = [str(n) for n in labels]
    generator = torch.Generator().manual_seed(key(seed, 77))
    noise = torch.randn(scale.samples, *distiller.adapter.latent_shape, generator=generator)
    metrics: dict[str, dict[str, float]] = {}
    pictures: dict[str, list[Any]] = {}
    guidance = scale.guidance if role == "teacher" else 1.0
    for name, grid in sampling_grids(teacher=role == "teacher").items():
        sigmas = torch.tensor([*grid, 0.0])
        if recipe.sampler == "renoise":
            x = _renoising(distiller, prompts, noise, sigmas, key(seed, 78))
        else:
            x = distiller.sample(prompts, noise, sigmas, role=role, guidance=guidance)
        metrics[name] = {k: float(v) for k, v in evaluate_samples(x, labels, reference).items()}
        if name in ("1", "2", "4", "8", FOREIGN, "50"):
            shown = (distiller.adapter.decode(x[:classes]) * 255).round().byte()
            pictures[name] = shown[:, 0].tolist()
    return {"metrics": metrics, "images": pictures}


def _renoising(distiller: Any, prompts: list[str], noise: Tensor, sigmas: Tensor, seed: int) -> Tensor:
    """The consistency model's own sampler: predict x̂₀, re-noise it to the next level, repeat."""
    import torch

    generator = torch.Generator().manual_seed(seed)
    x = noise
    for now, then in itertools.pairwise(sigmas):
        clean = distiller.sample(prompts, x, torch.stack([now, torch.zeros(())]))
        x = (1 - then) * clean + then * torch.randn(noise.shape, generator=generator)
    return x


class ClassPrompts:
    """Uniform class prompts, a pure function of (seed, iteration)."""

    def __init__(self, classes: int) -> None:
        self.classes = classes

    def batch(self, seed: int, iteration: int, batch_size: int) -> list[str]:
        """The global batch of `iteration`, class numbers as prompts."""
        numbers = np.random.default_rng([seed, iteration]).integers(self.classes, size=batch_size)
        return [str(n) for n in numbers]


def load_data(scale: Scale, folder: str | None) -> ImageSet:
    """The scale's real images."""
    from noria.distill.data.mnist import image_set

    return image_set("digits" if scale.data == "digits" else folder or "mnist")


_REFERENCES: dict[tuple[str, Path], Any] = {}


def _reference(scale: Scale, data: ImageSet, folder: Path) -> Any:
    """The evaluation reference, built once a process."""
    from noria.distill.evaluation.classifier import Classifier
    from noria.distill.evaluation.reference import Reference

    at = (scale.data, folder)
    if at not in _REFERENCES:
        _REFERENCES[at] = Reference.of(Classifier.load(folder / "classifier.safetensors"), data.balanced())
    return _REFERENCES[at]
