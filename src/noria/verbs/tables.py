"""Output of verbs: tables, and warnings as one line."""

from __future__ import annotations

import warnings
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import click


def table(lines: Sequence[Sequence[str]], *, names: int = 1) -> str:
    """Align lines of cells in columns: the first `names` columns to the left, the others, numbers, to the right."""
    widths = [max(map(len, column)) for column in zip(*lines, strict=True)]

    def aligned(line: Sequence[str]) -> str:
        cells = [
            cell.ljust(width) if column < names else cell.rjust(width)
            for column, (cell, width) in enumerate(zip(line, widths, strict=True))
        ]
        return "  ".join(cells).rstrip()

    return "\n".join(aligned(line) for line in lines)


def counted(counts: Mapping[str, int]) -> str:
    """Counts of things by their plural names, as in `1 source, 3 passages`."""
    return ", ".join(f"{n:,} {name.removesuffix('s') if n == 1 else name}" for name, n in counts.items())


def plain_warnings() -> None:
    """Print each warning of this package as one line on stderr; warnings of others stay as they are."""
    warnings.showwarning = _show


def _show(
    message: Warning | str,
    category: type[Warning],
    filename: str,
    lineno: int,
    file: Any = None,
    line: str | None = None,
) -> None:
    if Path(filename).is_relative_to(Path(__file__).parents[1]):
        text = f"noria: warning: {message}"
    else:
        text = warnings.formatwarning(message, category, filename, lineno).rstrip()
    click.echo(text, err=True)
