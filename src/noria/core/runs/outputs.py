"""Folders that a verb writes: run folders by name, and folders of results."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, TypeVar

from noria.core.errors import ConfigError, DataError, RunError
from noria.core.files import inside, output_path

if TYPE_CHECKING:
    from pydantic import BaseModel


__all__ = ["check_run_folder", "is_run", "named_run", "results_folder", "run_folder"]

T = TypeVar("T", bound="BaseModel")


def run_folder(system: str, output: str | None, label: str) -> Path:
    """Folder of a run: `output`, or `runs/SYSTEM/LABEL`.

    Raises:
        ConfigError: `output` or `label` leaves its folder.
    """
    if output is not None:
        return output_path(output)
    home = Path("runs") / system
    try:
        inside(home, label)
    except DataError as error:
        raise ConfigError(
            f"{label!r} does not stay inside {home}", where="name", mend="give a plain name"
        ) from error
    return home / label


def named_run(
    system: str,
    config: T,
    options: Mapping[str, str | None] | None = None,
    *,
    needed: Mapping[str, str],
    output: str | None,
    label: Callable[[T], str],
) -> tuple[T, Path]:
    """Settle the name and the folder of a run: the settings with their `name`, and the folder.

    Args:
        system: name of the system.
        config: settings with a field `name`.
        options: values of the command line, laid over the settings; None where an option was left out.
        needed: required fields, each with a phrase that says what it takes.
        output: folder that the user asked for, if any.
        label: makes a name from settings that have none.

    Raises:
        ConfigError: a required field is empty, or the name leaves its folder.
    """
    config = config.model_copy(update={field: value for field, value in (options or {}).items() if value})
    for field, what in needed.items():
        if not getattr(config, field):
            raise ConfigError(f"no {field} given", where=field, mend=f"give --{field} with {what}")
    has_name = "name" in config.model_fields_set
    folder = run_folder(system, output, str(config.name) if has_name else label(config))  # type: ignore[attr-defined]
    return config.model_copy(update={"name": folder.name or folder.resolve().name}), folder


def check_run_folder(folder: Path) -> None:
    """Refuse a folder that holds something else than a run.

    Raises:
        RunError: it does, or it is a file.
    """
    _check_not_file(folder)
    if folder.is_dir() and any(p.name != ".lock" for p in folder.iterdir()) and not is_run(folder):
        raise RunError(
            "the folder holds something else than a run", where=str(folder), mend="give another --output"
        )


def results_folder(output: str | None, label: str, *, system: str = "") -> Path:
    """Folder of results that are not a run: `output`, or `runs/SYSTEM/LABEL`. It is not made yet.

    Raises:
        ConfigError: `output` or `label` leaves its folder.
        RunError: a file, or a run, has that name.
    """
    folder = run_folder(system, output, label) if system else output_path(label if output is None else output)
    _check_not_file(folder)
    if is_run(folder):
        raise RunError("it is a run's folder", where=str(folder), mend="give another --output")
    return folder


def is_run(folder: Path) -> bool:
    """Whether a folder is that of a run."""
    # The folder of a model has a `config.json`, too.
    return (folder / "config.json").is_file() and any(
        (folder / name).is_file() for name in ("versions.json", ".lock")
    )


def _check_not_file(folder: Path) -> None:
    if folder.exists() and not folder.is_dir():
        raise RunError("there is a file of that name", where=str(folder), mend="give another --output")
