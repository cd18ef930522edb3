"""From what a user typed to the settings and folder of a training; bad input is told before PyTorch is loaded."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from noria.core.config import load_config
from noria.core.errors import ConfigError
from noria.core.runs import run_folder
from noria.routing.config import NetworkTraining, WriterTraining

__all__ = ["resolve"]


def resolve(
    policy: str,
    *,
    table: str | None = None,
    model: str | None = None,
    file: Path | None = None,
    output: str | None = None,
    overrides: Sequence[str] = (),
) -> tuple[NetworkTraining | WriterTraining, Path]:
    """Settings and run folder of a training: options beat `key=value`, which beats the file.

    Raises:
        ConfigError: something in them is unknown, malformed, out of its range or missing.
    """
    config: NetworkTraining | WriterTraining = (
        load_config(WriterTraining, file=file, overrides=overrides)
        if policy == "writer"
        else load_config(NetworkTraining, file=file, overrides=overrides)
    )
    given = {"table": table or config.table}
    if not given["table"]:
        raise ConfigError("no table given", where="table", mend="give --table with a replay table")
    if isinstance(config, WriterTraining):
        given["model"] = model or config.model
        if not given["model"]:
            raise ConfigError("no model given", where="model", mend="give --model with a folder or a hub id")
    elif model:
        raise ConfigError(
            "a network has no model", where="--model", mend="give --policy writer, or leave it out"
        )
    stem = Path(str(given["table"])).stem or "table"
    label = config.name if "name" in config.model_fields_set else f"{stem}-{policy}-{config.calibration}"
    folder = run_folder("routing", output, label)
    given["name"] = folder.name or folder.resolve().name
    return config.model_copy(update=given), folder
