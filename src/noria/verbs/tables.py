"""What verbs print: tables, and warnings as one line."""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import click

__all__ = ["plain_warnings", "table"]


def table(lines: Sequence[Sequence[str]], *, names: int = 1) -> str:
    """Lines of cells under each other: the first `names` columns to the left, numbers to the right."""
    widths = [max(len(line[n]) for line in lines) for n in range(len(lines[0]))]

    def aligned(line: Sequence[str]) -> list[str]:
        pairs = list(zip(line, widths, strict=True))
        return [cell.ljust(width) for cell, width in pairs[:names]] + [
            cell.rjust(width) for cell, width in pairs[names:]
        ]

    return "\n".join("  ".join(aligned(line)).rstrip() for line in lines)


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
