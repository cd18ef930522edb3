"""`noria reports render`: a finished report in other formats."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal

import click
from pydantic import Field

from noria.core.config import Argument, Config, Option
from noria.core.files import output_path, read_text, write_atomic
from noria.verbs.command import command as make_command

SUFFIX = {"html": "html", "md": "md", "pdf": "pdf", "docx": "docx", "bib": "bib", "csl": "csl.json"}


class RenderConfig(Config):
    """Settings of `noria reports render`."""

    report: Annotated[Path, Argument()] = Field(description="Folder of a report.")
    to: tuple[Literal["html", "md", "pdf", "docx", "bib", "csl"], ...] = Field(
        ("html",), description="Formats to write: html, md, pdf, docx, and bib or csl for the references."
    )
    output: Annotated[str | None, Option("-o", metavar="DIR")] = Field(
        None, description="Folder of the files (default: the report's)."
    )
    css: Annotated[Path | None, Option(metavar="FILE", was=("--house",))] = Field(
        None, description="Style sheet that is added to the page's own, such as that of a company."
    )
    fonts: Annotated[Path | None, Option(metavar="DIR")] = Field(
        None, description="Folder of more fonts for the PDF."
    )


@make_command(RenderConfig, extra="reports")
def command(config: RenderConfig) -> None:
    """Render a report again from its blocks; the report itself is not changed."""
    from noria.reports.document.bundle import read_bundle
    from noria.reports.document.exports import export

    bundle = read_bundle(config.report)
    bundle.house = "" if config.css is None else read_text(config.css, limit=1_000_000)
    folder = output_path(config.output) if config.output else config.report
    made = {kind: export(bundle, kind, fonts=config.fonts) for kind in config.to}
    folder.mkdir(parents=True, exist_ok=True)
    for kind, data in made.items():
        path = folder / f"report.{SUFFIX[kind]}"
        write_atomic(path, data)
        click.echo(f"{kind}  {path}")
