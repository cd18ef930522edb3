"""The arms of the proof: a recipe each, and the settings that the search chose for it.

Every arm has the same teacher, guidance, batch size, evaluation noise and budget in network evaluations; it differs in
its recipe and in its own best settings (:mod:`noria.distill.proof.tuning`).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from noria.distill.config import merged, preset
from noria.distill.types import LADDER

UNIT = "network evaluations"
"""What costs: 1 a forward pass of whichever network, and 2 more a backward pass, counted a sample."""
FOREIGN = "4, shift 3"
"""Four steps on a grid shifted by s = 3, which no arm is trained on."""


@dataclass(frozen=True)
class Scale:
    """The size of a proof: data, budget, and the settings that all arms share.

    Attributes:
        data: images, `digits` or `mnist`.
        teacher_steps: steps of the teacher's training; 0 for the one that ships.
        budget: network evaluations that each arm is paid.
        samples: samples of each figure.
        batch_size: samples of an iteration.
        max_steps: longest schedule that a dynamic arm draws.
        guidance: classifier-free guidance of the teacher, and of every arm.
        ema_decay: decay of the moving average of the student.
    """

    data: str
    teacher_steps: int
    budget: int
    samples: int
    batch_size: int = 32
    max_steps: int = 8
    guidance: float = 1.5
    ema_decay: float = 0.99


@dataclass(frozen=True)
class Recipe:
    """An arm: a preset, what the proof changes of it, and its free settings.

    Attributes:
        preset: name of the preset.
        note: the arm in words.
        overrides: values over the preset's.
        space: values of each free setting by its dotted name; the first is the usual one.
        renoises: whether it is sampled as it is simulated, by re-noising the estimate, and not by Euler steps.
        images: whether it is trained on real images, which the other arms never see.
    """

    preset: str
    note: str
    overrides: dict[str, Any] = field(default_factory=dict)
    space: Mapping[str, Sequence[Any]] = field(default_factory=dict)
    renoises: bool = False
    images: bool = False


MATCHING: Mapping[str, Sequence[float]] = {"student.lr": (3e-4, 1e-3, 1e-4), "critic.lr": (6e-4, 2e-3)}
"""Free settings of an arm with a critic."""
AGREEING: Mapping[str, Sequence[float]] = {
    "student.lr": (3e-4, 1e-3, 1e-4),
    "objective.consistency_steps": (28, 8),
}
"""Free settings of consistency distillation, which has no critic."""

# CDM for small teachers (the preset `cdm-small`): CA is read above the anchor, as Decoupled-DMD does, and the critic is
# told the anchor of its sample. "As released" does neither.
_OURS: dict[str, Any] = {"objective": {"ca_tau": "above"}, "critic": {"source": "anchor_conditioned"}}
_WIDE: dict[str, Any] = {"schedule": {"low": 0.02, "high": 0.98}}

ARMS: dict[str, Recipe] = {
    "CDM": Recipe("cdm", "dynamic schedule, CA + DM + CDM", _OURS | _WIDE, MATCHING),
    "CDM, as released": Recipe(
        "cdm", "CA below, critic of anchors, inner levels of .25 to .95", {}, MATCHING
    ),
    "DMD2": Recipe(
        "dmd2", "as published, but for its GAN on real images: 5 to 1, by re-noising", {}, MATCHING, True
    ),
    "Consistency": Recipe(
        "consistency", "on the student's own samples: no images, like the others", {}, AGREEING, True
    ),
    "Consistency, real images": Recipe(
        "consistency", "on images that no other arm sees", {}, AGREEING, True, True
    ),
    "CDM, re-noise": Recipe(
        "cdm-renoise", "CDM's point by Gaussian noise, not by velocity", _OURS | _WIDE, MATCHING
    ),
    "CDM, no CDM term": Recipe("cdm-no-cdm", "dynamic schedule, CA + DM", _OURS | _WIDE, MATCHING),
    "CDM, fixed grid": Recipe("cdm-no-schedule", "CDM on four levels", _OURS, MATCHING),
    "Decoupled-DMD": Recipe("decoupled-dmd", "fixed grid, CA + DM, critic told the anchor", _OURS, MATCHING),
}

CHOSEN: dict[str, dict[str, Any]] = {
    "CDM": {"student.lr": 3e-4, "critic.lr": 6e-4},
    "CDM, as released": {"student.lr": 1e-4, "critic.lr": 6e-4},
    "DMD2": {"student.lr": 1e-3, "critic.lr": 6e-4},
    "Consistency": {"student.lr": 1e-4, "objective.consistency_steps": 8},
    "Consistency, real images": {"student.lr": 1e-4, "objective.consistency_steps": 28},
}
"""Settings of each arm that the search found best on seed 0 at the quick scale; a full proof searches again."""


def settings_of(arm: str, scale: Scale, chosen: Mapping[str, Any]) -> dict[str, Any]:
    """Values of :class:`~noria.distill.config.DistillConfig` for an arm, but for its seed.

    Args:
        arm: name of the arm, a key of ARMS.
        scale: size of the proof.
        chosen: values of its free settings, by dotted name.
    """
    recipe = ARMS[arm]
    base = preset(recipe.preset)
    objective, fixed = base.get("objective", {}), base.get("schedule", {}).get("kind") == "fixed"
    guided: dict[str, Any] = {}
    if objective.get("ca_weight", 1.0):
        guided["ca_scale"] = scale.guidance - 1
    if "dm_guidance" in objective:
        guided["dm_guidance"] = scale.guidance
    if objective.get("consistency_weight"):
        guided["consistency_guidance"] = scale.guidance
    values: dict[str, Any] = {
        "preset": recipe.preset,
        "batch_size": scale.batch_size,
        "ema_decay": scale.ema_decay,
        "iterations": 10**6,  # the budget ends it
        "student": {"warmup": 5},
        "critic": {} if objective.get("consistency_weight") else {"warmup": 5},
        "schedule": {} if fixed else {"max_steps": scale.max_steps},
        "objective": guided,
    }
    values = merged(values, recipe.overrides)
    for name, value in chosen.items():
        section, _, key = name.partition(".")
        values = merged(values, {section: {key: value}})
    return values


def sampling_grids(teacher: bool = False) -> dict[str, list[float]]:
    """Pre-shift σ lists by name: the ladder's even grids and, under the name FOREIGN, the shifted one
    (already true σ).
    """
    grids = {str(n): [1 - i / n for i in range(n)] for n in ((*LADDER, 50) if teacher else LADDER)}
    grids[FOREIGN] = [3 * s / (1 + 2 * s) for s in (1.0, 0.75, 0.5, 0.25)]
    return grids
