"""Errors that tell a user, in one line, what was wrong, where, and what mends it.

A `NoriaError` is bad input or a bad environment: the command line prints it as one line and exits with
`exit_code`. Anything else is a fault of the program and keeps its traceback.
"""

from __future__ import annotations

import contextlib
import importlib
from collections.abc import Iterator
from types import ModuleType


class NoriaError(Exception):
    """What was wrong (`what`), where (`where`: a file and line, a field, an option), what mends it (`mend`).

    `str(error)` is always one line: `where: what; mend`.
    """

    exit_code = 2

    def __init__(self, what: str, *, where: str | None = None, mend: str | None = None) -> None:
        super().__init__(what)
        self.what = what
        self.where = where
        self.mend = mend

    def __str__(self) -> str:
        line = self.what if self.where is None else f"{self.where}: {self.what}"
        if self.mend is not None:
            line = f"{line}; {self.mend}"
        return " ".join(line.split())


class ConfigError(NoriaError):
    """A setting that is unknown, malformed or out of its range."""


class DataError(NoriaError):
    """Input data that cannot be used as it is."""


class CheckpointError(NoriaError):
    """A checkpoint that is damaged, or belongs to another model."""


class ModelError(NoriaError):
    """A model that cannot be opened, or does not do what the job needs."""


class RunError(NoriaError):
    """A run folder that cannot be written or continued: in use, of another config, on a full disk."""


class DivergenceError(NoriaError):
    """A computation that left the finite numbers or blew up. A failed check, hence exit code 1."""

    exit_code = 1


class MissingExtra(NoriaError):
    """A package that an optional part needs is not installed."""

    def __init__(self, package: str, extra: str) -> None:
        super().__init__(
            f"the package {package!r} is not installed", mend=f'mend it with: pip install "noria[{extra}]"'
        )
        self.args = (package, extra)  # what pickle rebuilds it from, so that it crosses a process boundary
        self.package = package
        self.extra = extra


@contextlib.contextmanager
def needing(extra: str) -> Iterator[None]:
    """Say which extra brings what an import within could not find.

    A package that is present but broken keeps its own error: installing the extra again would not mend it.

    Raises:
        MissingExtra: a third-party package was not found.
    """
    try:
        yield
    except ModuleNotFoundError as error:
        package = (error.name or "").partition(".")[0]
        if package in ("", "noria"):
            raise
        raise MissingExtra(package, extra) from error


def require(module: str, extra: str) -> ModuleType:
    """Import `module`, or say which extra brings it, or brings what it needs in turn.

    Raises:
        MissingExtra: a third-party package was not found.
    """
    with needing(extra):
        return importlib.import_module(module)
