"""From what a user typed to the settings and folder of a training; bad input is told before PyTorch is loaded."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from noria.core.config import load_config
from noria.core.errors import ConfigError
from noria.core.runs.outputs import named_run
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
    needed = {"table": "a replay table"}
    if isinstance(config, WriterTraining):
        needed["model"] = "a folder or a hub id"
    elif model:
        raise ConfigError(
            "a network has no model", where="--model", mend="give --policy writer, or leave it out"
        )
    return named_run(
        "routing",
        config,
        {"table": table, "model": model},
        needed=needed,
        output=output,
        label=lambda c: f"{Path(str(c.table)).stem or 'table'}-{policy}-{c.calibration}",
    )
