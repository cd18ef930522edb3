"""`noria grounding validate`: faults of annotations, and what is in them."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated

import click
from pydantic import Field

from noria.core.config import Argument
from noria.grounding.scoring.config import LevelSettings
from noria.verbs.command import command as make_command
from noria.verbs.options import JsonOption
from noria.verbs.tables import table

__all__ = ["ValidateConfig", "command"]

COUNTED = ("videos", "sources", "observations", "boxes", "analyses", "questions")


class ValidateConfig(LevelSettings, JsonOption):
    """Settings of `noria grounding validate`."""

    data: Annotated[Path, Argument()] = Field(description="Folder of the annotations, one JSON file a video.")


@make_command(ValidateConfig, extra="grounding")
def command(config: ValidateConfig) -> int:
    """Check every record of a folder. A fault that keeps a record from being scored ends with exit code 1."""
    from noria.grounding.corpus.checks import check, statistics
    from noria.grounding.corpus.files import load_corpus

    corpus = load_corpus(config.data)
    problems = check(corpus)
    grave = sum(problem.grave for problem in problems)
    counts, code = statistics(corpus, config.bins, config.polarity), 1 if grave else 0
    if config.as_json:
        result = {"statistics": counts, "problems": [vars(one) for one in problems], "grave": grave}
        click.echo(json.dumps(result, indent=2))
        return code
    click.echo(table([["", "count"], *([name, f"{counts[name]:,}"] for name in COUNTED)]))
    kinds: dict[str, list[str]] = {}
    for one in problems:
        kinds.setdefault(one.kind, []).append(f"{one.video} {one.field}: {one.what}")
    for kind, places in kinds.items():
        click.echo(f"\n{kind}: {len(places)}, first {places[0]}")
    click.echo(f"\n{len(problems)} problems, {grave} grave")
    return code
