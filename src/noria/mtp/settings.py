"""From what a user typed to the settings and folder of a training; bad input is told before PyTorch is loaded."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from noria.core.config import load_config
from noria.core.errors import ConfigError
from noria.core.runs import run_folder
from noria.mtp.config import TrainConfig

__all__ = ["resolve"]


def resolve(
    *,
    model: str | None = None,
    data: str | None = None,
    file: Path | None = None,
    output: str | None = None,
    overrides: Sequence[str] = (),
) -> tuple[TrainConfig, Path]:
    """Settings and run folder of a training: options beat `key=value`, which beats the file.

    Raises:
        ConfigError: something in them is unknown, malformed, out of its range or missing.
    """
    config = load_config(TrainConfig, file=file, overrides=overrides)
    given = {"model": model or config.model, "data": data or config.data}
    for field, what in (
        ("model", "a model folder, a hub id, or small"),
        ("data", "the .jsonl or .parquet file of the policy's own text"),
    ):
        if not given[field]:
            raise ConfigError(f"no {field} given", where=field, mend=f"give --{field} with {what}")
    stem = Path(str(given["model"])).stem or "model"
    label = config.name if "name" in config.model_fields_set else f"{stem}-{config.loss}"
    folder = run_folder("mtp", output, label)
    given["name"] = folder.name or folder.resolve().name
    return config.model_copy(update=given), folder
