"""Folders that a verb may write to: run folders by name, and folders of results."""

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
    """Where a run goes: `output`, or `runs/SYSTEM/LABEL`.

    Raises:
        ConfigError: either leaves its folder.
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
    """Settings with the command line's options over them, and the folder of the run, whose name they get.

    Args:
        system: name of the system.
        config: settings with a field `name`.
        options: fields that the command line gave, or None.
        needed: fields that cannot do without a value, and what each takes, in words.
        output: the folder that the command line gave.
        label: names a run that the settings do not.

    Raises:
        ConfigError: a field is missing, or the name leaves its folder.
    """
    config = config.model_copy(update={field: value for field, value in (options or {}).items() if value})
    for field, what in needed.items():
        if not getattr(config, field):
            raise ConfigError(f"no {field} given", where=field, mend=f"give --{field} with {what}")
    named = "name" in config.model_fields_set
    folder = run_folder(system, output, str(config.name) if named else label(config))  # type: ignore[attr-defined]
    return config.model_copy(update={"name": folder.name or folder.resolve().name}), folder


def check_run_folder(folder: Path) -> None:
    """Refuse a folder that holds something else than a run.

    Raises:
        RunError: it does.
    """
    if folder.exists() and not folder.is_dir():
        raise RunError("there is a file of that name", where=str(folder), mend="give another --output")
    if folder.is_dir() and any(p.name != ".lock" for p in folder.iterdir()) and not is_run(folder):
        raise RunError(
            "the folder holds something else than a run", where=str(folder), mend="give another --output"
        )


def results_folder(output: str | None, label: str, *, system: str = "") -> Path:
    """Folder of results that are no run: `output`, or `runs/SYSTEM/LABEL`. It is not made yet.

    Raises:
        ConfigError: it leaves its folder.
        RunError: a file, or a run, has that name.
    """
    folder = (
        run_folder(system, output, label) if system else output_path(output if output is not None else label)
    )
    if folder.exists() and not folder.is_dir():
        raise RunError("there is a file of that name", where=str(folder), mend="give another --output")
    if is_run(folder):
        raise RunError("it is a run's folder", where=str(folder), mend="give another --output")
    return folder


def is_run(folder: Path) -> bool:
    """Whether this is a run's folder, and not that of a model, which has a `config.json`, too."""
    return (folder / "config.json").is_file() and any(
        (folder / name).is_file() for name in ("versions.json", ".lock")
    )
