"""From what a user typed to settings and folders; bad input is told before PyTorch is loaded."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from noria.core.config import load_config
from noria.core.errors import ConfigError
from noria.core.runs.outputs import named_run
from noria.credit.config import NAMES, CreditConfig, TrainConfig

__all__ = ["resolve_credit", "resolve_training"]


def resolve_credit(name: str, overrides: Sequence[str] = ()) -> CreditConfig:
    """Credit by name, with `key=value` settings over it.

    Raises:
        ConfigError: something in them is unknown, malformed or out of its range.
    """
    if name not in NAMES:
        raise ConfigError(
            f"no credit {name!r}", where="--credit or --names", mend=f"choose from {', '.join(NAMES)}"
        )
    return load_config(CreditConfig, base=NAMES[name], overrides=overrides)


def resolve_training(
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
    load_config(CreditConfig, base=NAMES[config.credit] | {"answer": config.answer} | config.credit_settings)
    return named_run(
        "credit",
        config,
        {"model": model, "data": data},
        needed={
            "model": "a model folder, a hub id, or small",
            "data": "a .jsonl or .parquet file of questions, chains, or gym:FAMILY",
        },
        output=output,
        label=lambda c: f"{Path(str(c.model)).stem or 'model'}-{c.credit}-{c.seed}",
    )
