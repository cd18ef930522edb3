"""`noria grounding review`: sheets on which people verify a benchmark."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import click
from pydantic import Field

from noria.core.config import Argument, Config
from noria.core.errors import DataError
from noria.core.files import output_path
from noria.core.runs.outputs import results_folder
from noria.grounding.verbs.options import OutputPath
from noria.verbs.command import HELP, command as make_command
from noria.verbs.options import OutputOption


class SheetConfig(OutputOption):
    """Settings of `noria grounding review export`."""

    data: Annotated[Path, Argument()] = Field(description="Folder of the annotations.")
    output: OutputPath = Field(None, description="Sheet to write (default: runs/grounding/review/sheet.csv).")


class ApplyConfig(OutputOption):
    """Settings of `noria grounding review apply`."""

    data: Annotated[Path, Argument()] = Field(description="Folder of the annotations.")
    sheet: Annotated[Path, Argument()] = Field(description="Sheet with its verdicts filled in.")
    output: OutputPath = Field(
        None, description="Folder of the reviewed annotations (default: runs/grounding/reviewed)."
    )


class AgreementConfig(Config):
    """Settings of `noria grounding review agreement`."""

    sheets: Annotated[list[Path], Argument()] = Field(
        description="Sheets of the same records, by several people."
    )


@make_command(SheetConfig, extra="grounding")
def export(config: SheetConfig) -> None:
    """Write one row an observation and a question."""
    from noria.grounding.building.review import export_sheet
    from noria.grounding.corpus.files import load_corpus

    if config.output is None:
        path = results_folder("grounding", None, "review") / "sheet.csv"
    else:
        path = output_path(config.output)
    click.echo(f"{export_sheet(load_corpus(config.data), path)} rows: {path}")


@make_command(ApplyConfig, extra="grounding")
def apply(config: ApplyConfig) -> None:
    """Apply the verdicts of a sheet: correct, corrected (with a correction), delete."""
    from noria.grounding.building.review import apply_sheet
    from noria.grounding.corpus.files import load_corpus, save_corpus

    folder = results_folder("grounding", config.output, "reviewed")
    result = apply_sheet(load_corpus(config.data), config.sheet)
    if not set(result.counts) - {"open"}:
        mend = "write correct, corrected or delete in its verdicts"
        raise DataError("no row has a verdict", where=str(config.sheet), mend=mend)
    save_corpus(result.corpus, folder)
    click.echo(f"{folder}: " + ", ".join(f"{n} {verdict}" for verdict, n in sorted(result.counts.items())))


@make_command(AgreementConfig, extra="grounding")
def agreement(config: AgreementConfig) -> None:
    """Print Krippendorff's alpha of several people's sheets of the same records."""
    from noria.core.judging import krippendorff_alpha
    from noria.grounding.building.review import verdict_table

    table = verdict_table(config.sheets)
    alpha = krippendorff_alpha(table)
    value = "undefined, for all verdicts are the same" if alpha is None else f"{alpha:.3f}"
    click.echo(f"alpha {value}, over {table.shape[1]:,} rows with two verdicts or more")


command = click.Group(
    "review",
    {"export": export, "apply": apply, "agreement": agreement},
    help="Write a CSV sheet, have people fill in its verdicts, and take it in again.",
    context_settings=HELP,
)
