"""`noria assistant query`: SQL over a gateway's traces."""

from __future__ import annotations

import json
from typing import Annotated, Any

import click
from pydantic import Field

from noria.assistant.verbs.options import FolderOption
from noria.core.config import Argument, Option
from noria.verbs.command import command as make_command
from noria.verbs.options import JsonOption
from noria.verbs.tables import table

WIDEST = 60
"""Most characters of a cell in the table."""


class QueryConfig(FolderOption, JsonOption):
    """Settings of `noria assistant query`."""

    sql: Annotated[str, Argument("SQL")] = Field(
        description="One SELECT over traces, spans, feedback, withdrawals, judgements."
    )
    rows: Annotated[int, Option("-n")] = Field(
        100, ge=1, le=1_000_000, description="Most rows that are printed."
    )
    seconds: float = Field(60.0, gt=0, description="Seconds after which the query is stopped.")


@make_command(QueryConfig, extra="traces")
def command(config: QueryConfig) -> None:
    """Run one SELECT of DuckDB over the traces, beside the gateway; nothing is changed and no other file is read.

    As in: noria assistant query "SELECT bundle, count(*), avg(seconds) FROM traces GROUP BY bundle"
    """
    from noria.core.traces.queries import query

    result = query(config.folder, config.sql, rows=config.rows, seconds=config.seconds)
    if config.as_json:
        for row in result.rows:
            click.echo(
                json.dumps(dict(zip(result.columns, row, strict=True)), default=str, ensure_ascii=False)
            )
    else:
        lines = [list(result.columns), *([_cell(value) for value in row] for row in result.rows)]
        click.echo(table(lines, names=len(result.columns)))
    more = f"; there are more, see --rows {config.rows}" if result.truncated else ""
    click.echo(f"{len(result.rows)} rows in {result.seconds:.2f} s{more}", err=True)


def _cell(value: Any) -> str:
    text = "" if value is None else f"{value:.6g}" if isinstance(value, float) else str(value)
    text = " ".join(text.split())
    return text if len(text) <= WIDEST else text[: WIDEST - 1] + "…"
