"""`noria blending report`: one page of the results of several verbs."""

from __future__ import annotations

from importlib import import_module
from pathlib import Path
from typing import Annotated

import click
from pydantic import Field

from noria.blending.verbs import output
from noria.core.config import Argument
from noria.core.errors import DataError
from noria.core.files import decoding, output_path
from noria.core.records import read_json
from noria.verbs.command import command as make_command
from noria.verbs.options import OutputOption

PAGES = {
    "fit": "fit",
    "replay": "replay",
    "attribute": "attribute",
    "solve": "solve",
    "import-legacy": "import_legacy",
    "import": "import_legacy",  # as the verb was called before
}
"""Module that draws a verb's results."""


class ReportConfig(OutputOption):
    """Settings of `noria blending report`; `output` is the page."""

    folders: Annotated[list[Path], Argument()] = Field(
        min_length=1, description="Folders that other verbs wrote."
    )


@make_command(ReportConfig)
def command(config: ReportConfig) -> None:
    """Draw one page of the results in FOLDERS (default: runs/blending/report/report.html)."""
    click.echo(f"report  {run(config)}")


def run(config: ReportConfig) -> Path:
    """Draw one page of the results in several folders.

    Raises:
        DataError: a folder without results.
        RunError: the disk refuses.
    """
    parts = [_read(folder) for folder in config.folders]
    page = output_path(config.output or "runs/blending/report/report.html")
    with decoding(config.folders[0], "results of a verb"):
        output.write_results_page(page, parts)
    return page


def _read(folder: Path) -> tuple[output.Results, output.Page]:
    path = folder / "results.json"
    results = read_json(path) if path.exists() else None
    if not isinstance(results, dict) or results.get("verb") not in PAGES:
        raise DataError(
            "no results are there", where=str(folder), mend="give a folder that another verb wrote"
        )
    return results, import_module(f"noria.blending.verbs.{PAGES[results['verb']]}").PAGE
