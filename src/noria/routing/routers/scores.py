"""Scores of routers on tables, and the record of them that a training leaves."""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from noria.core.errors import ConfigError
from noria.core.files import write_atomic
from noria.routing.routers.baselines import fit_router
from noria.routing.routers.metrics import Score, judge
from noria.routing.routers.router import Router
from noria.routing.tables.table import Table

__all__ = ["Trained", "baselines_of", "judged", "known", "score_record", "table_content", "write_score"]


# -- training ---------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Trained:
    """What a training leaves: its folder, its page, the step, and the score on questions it did not see."""

    folder: Path
    report: Path
    step: int
    score: Score


def baselines_of(train: Table, held: Table) -> dict[str, Any]:
    """What a policy is shown beside: fitted on its own training questions, judged on the same held-out ones."""
    fitted = {k: fit_router(k, train) for k in ("random", "best_single", "best_per_task")}
    fitted["oracle"] = fit_router("oracle", held)
    return {kind: score_record(judged(router, held)) for kind, router in fitted.items()}


def write_score(
    folder: Path,
    score: Score,
    step: int,
    baselines: Mapping[str, Any],
    record: Mapping[str, Any] | None = None,
) -> None:
    """`score.json`; `record` instead of the score's own where there is more to say."""
    own = score_record(score) if record is None else dict(record)
    content = {"step": step, "policy": own, "baselines": dict(baselines)}
    write_atomic(folder / "score.json", json.dumps(content, indent=1) + "\n")


def table_content(table: Table) -> str:
    """A hash of all questions, routes, scores and costs."""
    digest = hashlib.sha256()
    for question in table.questions:
        digest.update(json.dumps([question.id, question.dataset, question.text, question.answers]).encode())
    digest.update(json.dumps([route.label for route in table.routes]).encode())
    digest.update(table.score.tobytes() + table.cost.tobytes())
    return digest.hexdigest()[:16]


def judged(router: Router, table: Table, trade: float | None = None) -> Score:
    """The score of a router's choices on a table that has its routes.

    Raises:
        ConfigError: a route of the router's is not in the table.
    """
    column = {route: n for n, route in enumerate(table.routes)}
    missing = [route.label for route in router.routes if route not in column]
    if missing:
        raise ConfigError(
            f"the table has no route {missing[0]!r}",
            where=router.kind,
            mend=f"it has {', '.join(r.label for r in table.routes)}",
        )
    own = router.choose(table.texts, table.dataset, trade=trade)
    place = [column[route] for route in router.routes]
    return judge([place[n] if n >= 0 else -1 for n in own], table.score, table.cost, table.dataset)


def score_record(score: Score) -> dict[str, Any]:
    """A score as JSON values; what is not known is null."""
    return {
        "macro": known(score.macro),
        "micro": known(score.micro),
        "cost": known(score.cost),
        "regret": known(score.regret),
        "scored": score.scored,
        "questions": score.questions,
        "accuracy": {name: known(value) for name, value in score.accuracy.items()},
    }


def known(value: float) -> float | None:
    """None for NaN."""
    return None if math.isnan(value) else float(value)
