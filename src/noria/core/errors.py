"""Errors that tell a user, in one line, what was wrong, where, and what mends it.

A `NoriaError` is bad input or a bad environment: the command line prints it as one line and exits with
`exit_code`. Anything else is a fault of the program and keeps its traceback.
"""

from __future__ import annotations

import contextlib
import importlib
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType

DISTRIBUTION = "noria-loop"
"""Name of the package in an installer; the name `noria` belongs to another project there."""


def install_command(extra: str) -> str:
    """The command that installs an extra: into the checkout that this code runs from, else beside the wheel."""
    package = Path(__file__).parents[1]
    root = package.parents[1]
    is_checkout = package.parent.name == "src" and (root / "pyproject.toml").is_file()
    return f'pip install -e "{root}[{extra}]"' if is_checkout else f'pip install "{DISTRIBUTION}[{extra}]"'


class NoriaError(Exception):
    """An error that a user can cause or mend; `str(error)` is one line, `where: what; mend`.

    Attributes:
        what: what is wrong.
        where: place of the mistake: a file and line, a field, an option.
        mend: what the user can do about it.
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
    """A model that cannot be loaded, or does not do what the job needs."""


class RunError(NoriaError):
    """A run folder that cannot be written or resumed: in use, made with other settings, on a full disk."""


class ConflictError(RunError):
    """A change based on what somebody else changed meanwhile. Nothing was written."""


class ServedError(RunError):
    """A failure of something that serves, in our own words: any caller may read `what`, which names no address, no path
    and nothing that another program said.
    """


class DivergenceError(NoriaError):
    """A computation that diverged or left the finite numbers. It counts as a failed check, hence exit code 1."""

    exit_code = 1


class CheckError(NoriaError):
    """A proof's check of what must hold (an identity, a theorem) did not hold: a fault to report."""

    exit_code = 1


class MissingExtra(NoriaError):
    """A package that an optional part needs is not installed."""

    def __init__(self, package: str, extra: str) -> None:
        super().__init__(
            f"the package {package!r} is not installed", mend=f"mend it with: {install_command(extra)}"
        )
        # Pickle calls the class with `args`: without this, an error of a worker process could not be rebuilt here.
        self.args = (package, extra)
        self.package = package
        self.extra = extra


_LINES: dict[type[NoriaError], str] = {
    ModelError: "a model that it needs gave no answer",
    RunError: "what it needs does not serve now",
    ConfigError: "the service is not set up for it",
}


def caller_line(error: NoriaError) -> str:
    """The line of an error for a caller on the network, who may read no address, no path and no other program's words.

    Args:
        error: what went wrong. A `DataError` is about what the caller sent and keeps its words, with its field or
            the name of its file; a `ServedError` keeps `what`; any other gets a line of its kind, and the log
            must say why.
    """
    if isinstance(error, DataError):
        where = error.where or ""
        name = None if "://" in where else where.rpartition("/")[2] or None
        return str(DataError(error.what, where=name, mend=error.mend))
    if isinstance(error, ServedError):
        return str(ServedError(error.what))
    line = next((line for kind, line in _LINES.items() if isinstance(error, kind)), "it failed")
    return f"{line}; the service's log says why"


@contextlib.contextmanager
def needing(extra: str) -> Iterator[None]:
    """Turn a missing package, imported inside the block, into an error that names the extra to install.

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


@contextlib.contextmanager
def ungrouped() -> Iterator[None]:
    """Raise the first error of a task group by itself, where the group ended by errors of ours alone."""
    try:
        yield
    except ExceptionGroup as group:
        ours, others = group.split(NoriaError)
        if ours is None or others is not None:
            raise
        first: Exception = ours
        while isinstance(first, ExceptionGroup):
            first = first.exceptions[0]
        raise first from group


def require(module: str, extra: str) -> ModuleType:
    """Import `module`; a package that it lacks becomes an error that names the extra to install.

    Raises:
        MissingExtra: a third-party package was not found.
    """
    with needing(extra):
        return importlib.import_module(module)
