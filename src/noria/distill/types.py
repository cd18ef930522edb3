"""Names that the rooms share: roles, the ladder's numbers of steps, figures and what they mean."""

from __future__ import annotations

from typing import Literal

__all__ = ["FIGURES", "LADDER", "LADDER_KEY", "SIGMA_BINS", "Role", "TauSampler"]

Role = Literal["teacher", "student", "critic"]

TauSampler = Literal["uniform", "capped", "above", "logit_normal"]
"""Laws of the level that a teacher reads at: anywhere, below the anchor's σ, above it, or by a logit-normal law."""

LADDER = (1, 2, 3, 4, 6, 8)
"""Numbers of steps that a student is judged at; it is trained for 4."""

LADDER_KEY = "ladder."
"""Begins the names under which a training logs its distance on each grid."""

SIGMA_BINS = (0.0, 0.25, 0.5, 0.75, 1.0)
"""Edges of the σ bins in which the lengths of pushes are reported."""

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
"""Meaning of each figure; a figure that cannot be had is None."""
