"""One arm of the proof: a student trained until its budget is spent, and measured on the whole ladder.

An arm is a pure function of its settings, so arms run in any order and process.
"""

from __future__ import annotations

import itertools
import time
from collections.abc import Iterator, Mapping
from importlib.resources import files
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from noria.distill.proof.arms import ARMS, FOREIGN, Scale, sampling_grids, settings_of

if TYPE_CHECKING:
    from torch import Tensor

    from noria.distill.data.images import ImageSet
    from noria.distill.training.trainer import Distiller

DIGITS_TEACHER = Path(str(files("noria.distill"))) / "assets" / "digits_teacher.safetensors"
"""A teacher of scikit-learn's 8×8 digits that ships with the package; `noria distill teacher --data digits`
rebuilds it."""
PARTS = (0.25, 1.0)
"""Shares of the budget at which an arm is measured."""


def run_arm(
    arm: str,
    seed: int,
    chosen: Mapping[str, Any],
    scale: dict[str, Any],
    folder: str,
    data_folder: str | None,
) -> dict[str, Any]:
    """Train and measure one arm.

    Args:
        arm: name of the arm, a key of ARMS.
        seed: seed of draws and prompts.
        chosen: values of its free settings.
        scale: fields of :class:`Scale`.
        folder: folder of `teacher.safetensors` and the classifier.
        data_folder: folder of MNIST, for that scale.

    Returns:
        {"metrics": {grid: {metric: value}}, "images": uint8 rows, "early": metrics after a quarter of the budget,
        "spent", "seconds", "steps", "curve"}, JSON-ready.
    """
    from noria.core.runs.workers import report

    s, recipe = Scale(**scale), ARMS[arm]
    data = load_data(s, data_folder)
    distiller = new_student(arm, seed, chosen, s, data, Path(folder))
    began, measuring, curve = time.perf_counter(), 0.0, []
    measured: list[dict[str, Any]] = []
    while len(measured) < len(PARTS):
        step = distiller.step()
        spent = distiller.work.price
        report(min(spent, s.budget), s.budget)
        if "std_ratio" in step:
            curve.append({"spent": spent, **{k: round(v, 5) for k, v in step.items()}})
        if spent >= PARTS[len(measured)] * s.budget:
            paused = time.perf_counter()
            measured.append(
                measure(distiller, s, data, Path(folder), role="student", renoises=recipe.renoises)
            )
            measuring += time.perf_counter() - paused
    return measured[-1] | {
        "early": measured[0]["metrics"],
        "spent": distiller.work.price,
        "work": vars(distiller.work),
        "seconds": time.perf_counter() - began - measuring,
        "steps": distiller.student_steps,
        "curve": curve,
    }


def new_student(
    arm: str, seed: int, chosen: Mapping[str, Any], scale: Scale, data: ImageSet, folder: Path
) -> Distiller:
    """The training of an arm, before its first step."""
    from noria.distill.adapters import SmallAdapter
    from noria.distill.config import DistillConfig
    from noria.distill.training.teacher import load_teacher
    from noria.distill.training.trainer import Distiller

    adapter = SmallAdapter(load_teacher(folder / "teacher.safetensors"))
    return Distiller(
        adapter,
        DistillConfig(seed=seed, **settings_of(arm, scale, chosen)),
        ClassPrompts(adapter.classes),
        images=ClassImages(data, seed) if ARMS[arm].images else None,
    )


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
    result = measure(distiller, s, load_data(s, data_folder), Path(folder), role="teacher")
    return result | {"seconds": time.perf_counter() - began, "steps": 0, "spent": 0, "curve": []}


def measure(
    distiller: Distiller,
    scale: Scale,
    data: ImageSet,
    folder: Path,
    *,
    role: Any,
    renoises: bool = False,
) -> dict[str, Any]:
    """Samples of a network on every grid, scored against the data in the classifier's features."""
    from noria.distill.evaluation.reference import evaluate_samples

    reference = reference_of(scale, data, folder)
    labels = np.arange(scale.samples) % data.classes
    metrics: dict[str, dict[str, float]] = {}
    pictures: dict[str, list[Any]] = {}
    fine = fine_detail(data.images)
    for name, x in drawn(distiller, scale.samples, scale.guidance, role=role, renoises=renoises):
        metrics[name] = {k: float(v) for k, v in evaluate_samples(x, labels, reference).items()}
        metrics[name]["detail"] = fine_detail(x.cpu().numpy()) / fine
        if name in ("1", "2", "4", "8", FOREIGN, "50"):
            shown = (distiller.adapter.decode(x[: data.classes]) * 255).round().byte()
            pictures[name] = shown[:, 0].tolist()
    return {"metrics": metrics, "images": pictures}


def drawn(
    distiller: Distiller, samples: int, guidance: float, *, role: Any, renoises: bool
) -> Iterator[tuple[str, Tensor]]:
    """Samples of a network on each grid, by the grid's name.

    The evaluation noise depends on the seed only, so arms of one seed are compared on the same noise.
    """
    import torch

    from noria.distill.matching.draws import key

    seed, classes = distiller.config.seed, distiller.adapter.null(1)["labels"].item()
    prompts = [str(n % classes) for n in range(samples)]
    generator = torch.Generator().manual_seed(key(seed, 77))
    noise = torch.randn(samples, *distiller.adapter.latent_shape, generator=generator)
    for name, grid in sampling_grids(teacher=role == "teacher").items():
        sigmas = torch.tensor([*grid, 0.0])
        if renoises:
            yield name, _renoising(distiller, prompts, noise, sigmas, key(seed, 78))
        else:
            strength = guidance if role == "teacher" else 1.0
            yield name, distiller.sample(prompts, noise, sigmas, role=role, guidance=strength)


def fine_detail(images: Any) -> float:
    """Mean squared difference of neighbouring pixels, by which blurred images fall below real ones."""
    across, down = np.diff(images, axis=-1), np.diff(images, axis=-2)
    return float((np.square(across).mean() + np.square(down).mean()) / 2)


def _renoising(distiller: Distiller, prompts: list[str], noise: Tensor, sigmas: Tensor, seed: int) -> Tensor:
    """Sample by re-noising, as DMD2 and consistency models do: estimate x̂₀, re-noise it to the next level, repeat."""
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


class ClassImages:
    """Real images of the prompts' classes, a pure function of (seed, iteration, prompts)."""

    def __init__(self, data: ImageSet, seed: int) -> None:
        self.images, self.seed = data.images, seed
        self.by_class = [np.flatnonzero(data.labels == c) for c in range(data.classes)]

    def __call__(self, iteration: int, prompts: Any) -> Tensor:
        """Images [batch, channels, height, width]."""
        import torch

        generator = np.random.default_rng([self.seed, iteration])
        return torch.as_tensor(self.images[[generator.choice(self.by_class[int(p)]) for p in prompts]])


def load_data(scale: Scale, folder: str | None) -> ImageSet:
    """The scale's real images."""
    from noria.distill.data.mnist import image_set

    return image_set("digits" if scale.data == "digits" else folder or "mnist")


_REFERENCES: dict[tuple[str, Path], Any] = {}


def reference_of(scale: Scale, data: ImageSet, folder: Path) -> Any:
    """The evaluation reference, built once a process."""
    from noria.distill.evaluation.classifier import Classifier
    from noria.distill.evaluation.reference import Reference

    at = (scale.data, folder)
    if at not in _REFERENCES:
        _REFERENCES[at] = Reference.of(Classifier.load(folder / "classifier.safetensors"), data.balanced())
    return _REFERENCES[at]
