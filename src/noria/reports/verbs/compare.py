"""`noria reports compare`: systems on the same tasks, or two states of one report."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Annotated, Any

import click
from pydantic import Field

from noria.core.config import Argument
from noria.core.records import json_object, json_values
from noria.reports.verbs.writing import changes_table
from noria.verbs.command import command as make_command
from noria.verbs.options import JsonOption
from noria.verbs.tables import table


class CompareConfig(JsonOption):
    """Settings of `noria reports compare`."""

    first: Annotated[Path, Argument()] = Field(
        description="Scores of one system (scores.json), or folder of a report."
    )
    second: Annotated[Path, Argument()] = Field(
        description="Scores of another system, or folder of a later report."
    )


@make_command(CompareConfig, extra="reports")
def command(config: CompareConfig) -> None:
    """Paired differences over tasks with intervals; for two reports, the numbers that changed."""
    from noria.reports.document.bundle import read_bundle
    from noria.reports.evaluation.comparing import changed_numbers, compare_scores

    if config.first.is_dir() and config.second.is_dir():
        rows = changed_numbers(read_bundle(config.first), read_bundle(config.second))
        if config.as_json:
            click.echo(json.dumps(rows, ensure_ascii=False, indent=2))
            return
        click.echo(changes_table(rows))
        return
    first, second = (_scores(path) for path in (config.first, config.second))
    names = sorted({name for scores in (*first.values(), *second.values()) for name in scores})
    compared = compare_scores(first, second, names)
    same = len(first.keys() & second.keys())
    if same < max(len(first), len(second)):
        click.echo(
            f"noria: warning: {same} of {len(first)} and {len(second)} tasks have the same id; the others are left out",
            err=True,
        )
    if config.as_json:
        click.echo(json.dumps(json_values(compared), indent=2))
        return
    rows_ = [["metric", "tasks", "first", "second", "difference", "95 % from", "to", "p (Holm)"]]
    for row in compared:
        shown = [row[key] for key in ("first", "second", "difference", "low", "high", "p_holm")]
        rows_.append(
            [row["metric"], str(row["tasks"]), *("-" if v is None or v != v else f"{v:.3f}" for v in shown)]
        )
    click.echo(table(rows_))


def _scores(path: Path) -> dict[str, dict[str, Any]]:
    """Scores by task of a file of `bench-tasks`.

    Raises:
        DataError: it is none.
    """
    from noria.core.errors import DataError

    value = json_object(path, "scores of tasks").get("tasks")
    if not isinstance(value, dict) or not all(isinstance(entry, dict) for entry in value.values()):
        raise DataError("no scores of tasks", where=str(path), mend="give scores.json of bench-tasks")
    return {
        task: {k: _finite(v) for k, v in entry.items() if v is None or isinstance(v, int | float)}
        for task, entry in value.items()
    }


def _finite(value: float | None) -> float | None:
    """A score; None where it is missing, NaN or infinite."""
    return value if value is not None and math.isfinite(value) else None
