"""What the verbs of all systems share: their options, how they print tables and warnings."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import click

from noria.core.errors import ConfigError

__all__ = ["DOWNLOAD", "JSON", "PATH", "QUIET", "SETTINGS", "numbers", "output", "plain_warnings", "table"]

PATH = click.Path(path_type=Path)
DOWNLOAD = click.option(
    "--allow-download", is_flag=True, help="Fetch a hub model that is not in the local cache."
)
QUIET = click.option("--quiet", "-q", is_flag=True, help="Say nothing while it runs.")
JSON = click.option("--json", "as_json", is_flag=True, help="Print the results as JSON instead of a table.")
SETTINGS = {"max_content_width": 100, "help_option_names": ["-h", "--help"]}
"""Of every group of verbs."""


def output(what: str, *, required: bool = False) -> Callable[[Any], Any]:
    """The option `--output`."""
    return click.option("--output", "--out", "-o", metavar="PATH", required=required, help=what)


def numbers(text: str | None, option: str, example: str) -> list[float] | None:
    """Numbers in one option, apart by commas or blanks.

    Raises:
        ConfigError: something else is among them.
    """
    try:
        return None if text is None else [float(part) for part in text.replace(",", " ").split()]
    except ValueError:
        raise ConfigError(
            f"{text!r} is no list of numbers", where=option, mend=f"write it as {example}"
        ) from None


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
    """From now on our own warnings are one line on stderr; others are as they are."""
    warnings.showwarning = _show


def _show(
    message: Warning | str,
    category: type[Warning],
    filename: str,
    lineno: int,
    file: Any = None,
    line: str | None = None,
) -> None:
    own = Path(filename).is_relative_to(Path(__file__).parent)
    text = (
        f"noria: warning: {message}"
        if own
        else warnings.formatwarning(message, category, filename, lineno).rstrip()
    )
    click.echo(text, err=True)
