"""`noria reports verify`: is what a finished report says what its sources say?"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated

import click
import msgspec
from pydantic import Field

from noria.core.config import Argument
from noria.verbs.command import command as make_command
from noria.verbs.options import JsonOption
from noria.verbs.tables import table


class VerifyConfig(JsonOption):
    """Settings of `noria reports verify`."""

    report: Annotated[Path, Argument()] = Field(
        description="Folder of a report, or a Markdown file of any system."
    )
    strict: bool = Field(False, description="Count what could not be checked as wrong.")


@make_command(VerifyConfig, extra="reports")
def command(config: VerifyConfig) -> int:
    """Check a report offline: exit 0 where nothing is wrong, 1 where something is, 2 without a report."""
    from noria.reports.checking.verify import verify

    result = verify(config.report)
    code = result.exit_code(strict=config.strict)
    if config.as_json:
        click.echo(json.dumps(msgspec.to_builtins(result), ensure_ascii=False, indent=2))
        return code
    for finding in result.findings:
        click.echo(f"{finding.where}: {finding.what} ({finding.kind})")
    rows = [
        [name, f"{c.checked:,}", f"{c.unchecked:,}", f"{c.blocked:,}"] for name, c in result.coverage.items()
    ]
    click.echo(table([["", "checked", "unchecked", "blocked"], *rows]))
    if result.support:
        click.echo(
            "sentences: " + ", ".join(f"{count:,} {name}" for name, count in sorted(result.support.items()))
        )
    click.echo(f"{len(result.findings):,} findings")
    if not result.checked:
        click.echo("nothing could be checked: the report cites nothing that can be read here")
    return code
