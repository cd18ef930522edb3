"""Names that settings, verbs and routers share."""

from __future__ import annotations

__all__ = ["BASELINES"]

BASELINES = ("random", "best_single", "best_per_task", "knn", "mf", "oracle")
"""Baselines that `noria.routing.routers.baselines.fit_router` makes, by name."""
