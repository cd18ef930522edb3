"""`noria grounding compare`: models on the same videos."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated

import click
from pydantic import Field

from noria.core.config import Argument
from noria.grounding.scoring.config import ScoreSettings
from noria.grounding.verbs.options import SourceOptions
from noria.verbs.command import command as make_command
from noria.verbs.options import JsonOption
from noria.verbs.tables import table


class CompareConfig(ScoreSettings, SourceOptions, JsonOption):
    """Settings of `noria grounding compare`."""

    sources: Annotated[list[Path], Argument()] = Field(description="Run folders, or files of predictions.")


@make_command(CompareConfig, extra="grounding")
def command(config: CompareConfig) -> None:
    """Paired differences with intervals, McNemar's tests, corrected for how many there are."""
    from noria.grounding.results.scores import compare_sources
    from noria.grounding.results.sources import open_source

    sources = [
        open_source(path, data=config.data, judge=config.judge, tags=config.reasoning_tags)
        for path in config.sources
    ]
    result = compare_sources(sources, config.part(ScoreSettings))
    if config.as_json:
        click.echo(json.dumps(result, indent=2))
        return
    for pair in result["pairs"]:
        click.echo(f"{pair['first']}  against  {pair['second']}")
        rows = [
            ["figure", "first", "second", "difference", f"{100 * config.level:g} % from", "to", "p (Holm)"]
        ]
        for row in pair["rows"]:
            values = (row[key] for key in ("first", "second", "difference", "low", "high", "adjusted"))
            rows.append([row["name"], *("-" if v is None else f"{v:.3f}" for v in values)])
        click.echo(table(rows) + "\n")
    if len(result["models"]) > 2:
        for name, pairs in result["family"].items():
            adjusted = ", ".join(f"{pair} p={'-' if p is None else f'{p:.3f}'}" for pair, p in pairs.items())
            click.echo(f"{name}, all pairs together: {adjusted}")
