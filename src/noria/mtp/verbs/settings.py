"""From what a user typed to the settings and folder of a training; bad input is told before PyTorch is loaded."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from noria.core.config import load_config
from noria.core.runs.outputs import named_run
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
    return named_run(
        "mtp",
        config,
        {"model": model, "data": data},
        needed={
            "model": "a model folder, a hub id, or small",
            "data": "the .jsonl or .parquet file of the policy's own text",
        },
        output=output,
        label=lambda c: f"{Path(str(c.model)).stem or 'model'}-{c.loss}",
    )
