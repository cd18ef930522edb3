"""Results of a verb: a folder that appears whole, with `results.json` and a page drawn from it alone."""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeAlias

import click

from noria.blending.snapshot import Snapshot
from noria.core.errors import ConfigError, require
from noria.core.files import appearing, output_path, write_atomic
from noria.core.pages.report import write_page
from noria.core.records import json_values

if TYPE_CHECKING:
    from noria.core.pages.charts import Figure

Results: TypeAlias = "Mapping[str, Any]"
Blocks: TypeAlias = "list[Figure | str]"
Sections: TypeAlias = "list[tuple[str, Blocks]]"


@dataclass(frozen=True)
class Page:
    """The page of a verb: a title, and sections from the results alone."""

    title: str
    sections: Callable[[Results], Sections]


@dataclass(frozen=True)
class VerbResult:
    """Result of a verb: its folder, its page, and its content."""

    folder: Path
    report: Path
    results: dict[str, Any]


def folder_of(output: str | None, verb: str) -> Path:
    """Folder of the results: `output`, or `runs/blending/VERB`; an earlier result there may be replaced.

    Raises:
        ConfigError: the folder holds something else.
    """
    folder = output_path(output) if output else Path("runs") / "blending" / verb
    if folder.exists() and (
        not folder.is_dir() or (any(folder.iterdir()) and not (folder / "results.json").is_file())
    ):
        raise ConfigError(f"{folder} is no folder of results", where="--output", mend="give another folder")
    return folder


def finish(folder: Path, verb: str, results: Results, page: Page, **files: Any) -> VerbResult:
    """Write the folder whole: results, page, and other files by name, with `__` for the dot."""
    made = time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime())
    whole: dict[str, Any] = json_values({"verb": verb, "made": made, **results})
    with appearing(folder) as place:
        for name, content in files.items():
            path = place / name.replace("__", ".")
            if isinstance(content, Snapshot):
                content.save(path)
            elif isinstance(content, str):
                write_atomic(path, content)
            else:
                _write_rows(path, content)
        write_atomic(place / "results.json", json.dumps(whole, indent=1, allow_nan=False) + "\n")
        write_results_page(place / "report.html", [(whole, page)])
    return VerbResult(folder, folder / "report.html", whole)


def write_results_page(path: Path, parts: Sequence[tuple[Results, Page]]) -> None:
    """Write one page of the results of one verb, or of several.

    Raises:
        RunError: the disk refuses.
    """
    sections = [section for results, page in parts for section in page.sections(results)]
    made = max(str(results["made"]) for results, _ in parts)
    write_page(
        path,
        parts[0][1].title if len(parts) == 1 else "Traffic and what it costs",
        sections,
        intro="Values and boosts are in expected effective completions. Scores add up over plans; exposures do not.",
        footer=f"Made by noria blending {', '.join(str(results['verb']) for results, _ in parts)} at {made}.",
    )


def _write_rows(path: Path, blocks: Iterable[Mapping[str, Sequence[Any]]]) -> None:
    arrow, parquet = require("pyarrow", "blending"), require("pyarrow.parquet", "blending")
    writer: Any = None
    for columns in blocks:
        numbers = {
            name: arrow.array(list(column), arrow.decimal128(38, 0))
            for name, column in columns.items()
            if name[1:].isdigit()
        }
        table = arrow.table(dict(columns) | numbers)
        writer = writer or parquet.ParquetWriter(path, table.schema)
        writer.write_table(table)
    writer.close()


def warn(results: Results) -> None:
    """Say on how much of a log the figures rest, and which columns plans are for and the candidates lack."""
    if results.get("sampled"):
        click.echo(f"noria: {results['sampled']}", err=True)
    if results.get("absent"):
        columns = ", ".join(results["absent"])
        click.echo(
            f"noria: warning: the candidates have no column {columns}: plans for it hit nobody", err=True
        )


def show(result: VerbResult, as_json: bool, printed: Callable[[VerbResult], None]) -> None:
    """Print results, as JSON or as the verb prints them, and what a reader must know of them on stderr."""
    warn(result.results)
    if as_json:
        click.echo(json.dumps(result.results, indent=1))
    else:
        printed(result)


def cell(value: float | None) -> str:
    """A number of a printed table; a dash for none."""
    return "-" if value is None else f"{value:.4g}"


def leftovers(reasons: Mapping[str, int]) -> None:
    """Print how many rows were left out, by reason."""
    if reasons:
        click.echo("\nleft out: " + ", ".join(f"{count:,} {reason}" for reason, count in reasons.items()))
