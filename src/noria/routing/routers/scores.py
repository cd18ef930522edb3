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
from noria.core.runs.outputs import is_run
from noria.core.runs.run import read_config
from noria.routing.routers.baselines import fit_router
from noria.routing.routers.metrics import Score, judge
from noria.routing.routers.router import Router
from noria.routing.tables.table import Table


@dataclass(frozen=True)
class TrainResult:
    """The files and the outcome of a training.

    Attributes:
        folder: the run's.
        report: the run's page.
        step: number of steps made in all.
        score: how the policy does on questions that it did not see.
        baselines: how baselines that were fitted on the same questions do there.
    """

    folder: Path
    report: Path
    step: int
    score: Score
    baselines: Mapping[str, Score]


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
    chosen = [place[n] if n >= 0 else -1 for n in choices]
    return judge(chosen, table.quality, table.cost, table.dataset, table.available)


def score_record(score: Score) -> dict[str, Any]:
    """A score as JSON values; what is not known is null."""
    record: dict[str, Any] = json_values(asdict(score))
    del record["costed"]
    return record


def judge_baselines(train: Table, held: Table, trade: float = 0.0) -> dict[str, Score]:
    """Judge baselines on the questions that a policy is judged on, fitted on those that it was trained on."""
    fitted = {kind: fit_router(kind, train) for kind in ("random", "best_single", "best_per_task")}
    fitted["oracle"] = fit_router("oracle", held)
    return {kind: judge_router(router, held, trade) for kind, router in fitted.items()}


def write_score(folder: Path, step: int, policy: Mapping[str, Any], baselines: Mapping[str, Score]) -> None:
    """Write `score.json`: the policy beside baselines that were judged on the same questions.

    Args:
        folder: the run's.
        step: last step of the training.
        policy: record of the policy's score.
        baselines: scores of the baselines.

    Raises:
        RunError: the disk refuses.
    """
    records = {kind: score_record(score) for kind, score in baselines.items()}
    content = {"step": step, "policy": policy, "baselines": records}
    write_atomic(folder / "score.json", json.dumps(content, indent=1) + "\n")


def training_on(folder: Path, table: Table) -> dict[str, Any] | None:
    """Settings of the run in `folder` where it was trained on this very table; None where it was not, or is no run.

    Raises:
        RunError: the run's settings are damaged.
    """
    settings = read_config(folder) if is_run(folder) else {}
    return settings if settings.get("table_fingerprint") == table_digest(table) else None


def table_digest(table: Table) -> str:
    """A hash of all questions, routes, scores and costs."""
    digest = hashlib.sha256()
    for question in table.questions:
        digest.update(json.dumps([question.id, question.dataset, question.text, question.answers]).encode())
    digest.update(json.dumps([route.label for route in table.routes]).encode())
    digest.update(table.quality.tobytes() + table.cost.tobytes())
    return digest.hexdigest()[:16]
