"""What the jobs of `noria blending` share: a folder of results that appears whole, and one page of several.

A job goes from what a user typed to `results.json`, which says what was found, and `report.html`, drawn from it
alone; some write a snapshot or a plan file beside them. Whatever a user can get wrong is checked before the first
file is written.
"""

from __future__ import annotations

import json
import math
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from noria.blending.snapshot import Snapshot
from noria.blending.verbs.pages import TITLES, write_results_page
from noria.core.errors import ConfigError, DataError, require
from noria.core.files import appearing, output_path, write_atomic
from noria.core.records import json_values
from noria.core.statistics.intervals import Interval

__all__ = ["Done", "Engine", "ends", "finish", "report", "results_folder"]

Engine = Literal["duckdb", "spark"]


@dataclass(frozen=True)
class Done:
    """What a job leaves: its folder, its page, and its results."""

    folder: Path
    report: Path
    results: dict[str, Any]


def finish(folder: Path, verb: str, results: Mapping[str, Any], **files: Any) -> Done:
    """Write the folder whole: results, page, and other files by name."""
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
        write_results_page(place / "report.html", [whole])
    return Done(folder, folder / "report.html", whole)


def _write_rows(path: Path, columns: Mapping[str, Sequence[Any]]) -> None:
    arrow, parquet = require("pyarrow", "blending"), require("pyarrow.parquet", "blending")
    numbers = {
        name: arrow.array(list(column), arrow.decimal128(38, 0))
        for name, column in columns.items()
        if name[1:].isdigit()
    }
    parquet.write_table(arrow.table(dict(columns) | numbers), path)


def results_folder(output: str | None, verb: str) -> Path:
    """Where results go: what was asked for, or `runs/blending/VERB`; an earlier result there may be replaced."""
    folder = output_path(output) if output else Path("runs") / "blending" / verb
    if folder.exists() and (
        not folder.is_dir() or (any(folder.iterdir()) and not (folder / "results.json").is_file())
    ):
        raise ConfigError(f"{folder} is no folder of results", where="--output", mend="give another folder")
    return folder


def ends(interval: Interval | None) -> list[float | None] | None:
    """[effect, low, high] as JSON has it; None where there is no effect."""
    if interval is None or math.isnan(interval.effect):
        return None
    found: list[float | None] = json_values([interval.effect, interval.low, interval.high])
    return found


def report(folders: Sequence[Path], output: str | None) -> Path:
    """One page of the results in several folders.

    Raises:
        DataError: a folder without results.
        RunError: the disk refuses.
    """
    found = []
    for folder in folders:
        path = folder / "results.json"
        try:
            values = json.loads(path.read_bytes())
        except (OSError, ValueError):
            values = None
        if not isinstance(values, dict) or values.get("verb") not in TITLES:
            raise DataError(
                "no results are there", where=str(folder), mend="give a folder that another verb wrote"
            )
        found.append(values)
    page = output_path(output) if output else folders[0] / "report.html"
    write_results_page(page, found)
    return page
