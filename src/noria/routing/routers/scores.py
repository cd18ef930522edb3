"""Scores of routers on tables, and the records of them that trainings leave."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from noria.core.errors import ConfigError
from noria.core.files import write_atomic
from noria.core.records import json_values
from noria.routing.routers.baselines import fit_router
from noria.routing.routers.metrics import Score, judge
from noria.routing.routers.router import Router
from noria.routing.tables.table import Table

__all__ = ["TrainResult", "judge_router", "score_record", "table_digest", "write_score"]


@dataclass(frozen=True)
class TrainResult:
    """The files and the outcome of a training.

    Attributes:
        folder: the run's.
        report: the run's page.
        step: number of steps made in all.
        score: how the policy does on questions that it did not see.
    """

    folder: Path
    report: Path
    step: int
    score: Score


def judge_router(router: Router, table: Table, trade: float | None = None) -> Score:
    """Score a router's choices on a table that has its routes.

    Raises:
        ConfigError: one of the router's routes is not in the table.
    """
    column = {route: n for n, route in enumerate(table.routes)}
    missing = [route.label for route in router.routes if route not in column]
    if missing:
        raise ConfigError(
            f"the table has no route {missing[0]!r}",
            where=router.kind,
            mend=f"it has {', '.join(r.label for r in table.routes)}",
        )
    choices = router.choose(table.texts, table.dataset, trade=trade)
    place = [column[route] for route in router.routes]
    return judge([place[n] if n >= 0 else -1 for n in choices], table.score, table.cost, table.dataset)


def score_record(score: Score) -> dict[str, Any]:
    """A score as JSON values; what is not known is null."""
    record: dict[str, Any] = json_values(asdict(score))
    del record["costed"]
    return record


def write_score(folder: Path, step: int, policy: Mapping[str, Any], train: Table, held: Table) -> None:
    """Write `score.json`: the policy beside baselines that are fitted and judged on the same questions.

    Args:
        folder: the run's.
        step: last step of the training.
        policy: record of the policy's score.
        train: questions that the policy was trained on.
        held: questions that it was judged on.

    Raises:
        RunError: the disk refuses.
    """
    fitted = {kind: fit_router(kind, train) for kind in ("random", "best_single", "best_per_task")}
    fitted["oracle"] = fit_router("oracle", held)
    baselines = {kind: score_record(judge_router(router, held)) for kind, router in fitted.items()}
    content = {"step": step, "policy": policy, "baselines": baselines}
    write_atomic(folder / "score.json", json.dumps(content, indent=1) + "\n")


def table_digest(table: Table) -> str:
    """A hash of all questions, routes, scores and costs."""
    digest = hashlib.sha256()
    for question in table.questions:
        digest.update(json.dumps([question.id, question.dataset, question.text, question.answers]).encode())
    digest.update(json.dumps([route.label for route in table.routes]).encode())
    digest.update(table.score.tobytes() + table.cost.tobytes())
    return digest.hexdigest()[:16]
