"""Parts that the verbs of all systems share: the bridge from a Config to a command, groups of options, tables."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import click

from noria.core.errors import ConfigError
from noria.verbs.tables import plain_warnings, table

__all__ = ["DOWNLOAD", "JSON", "PATH", "QUIET", "SETTINGS", "numbers", "output", "plain_warnings", "table"]

PATH = click.Path(path_type=Path)
DOWNLOAD = click.option(
    "--allow-download", is_flag=True, help="Fetch a hub model that is not in the local cache."
)
QUIET = click.option("--quiet", "-q", is_flag=True, help="Say nothing while it runs.")
JSON = click.option("--json", "as_json", is_flag=True, help="Print the results as JSON instead of a table.")
SETTINGS = {"max_content_width": 100, "help_option_names": ["-h", "--help"]}
"""Click's settings of a group of verbs."""


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
