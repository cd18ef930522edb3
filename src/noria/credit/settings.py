"""From what a user typed to settings and folders; bad input is told before PyTorch is loaded."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from noria.core.config import load_config
from noria.core.errors import ConfigError
from noria.core.runs import run_folder
from noria.credit.config import NAMES, CreditConfig, TrainConfig

__all__ = ["resolve_credit", "resolve_training"]


def resolve_credit(name: str, overrides: Sequence[str] = ()) -> CreditConfig:
    """Credit by name, with `key=value` settings over it.

    Raises:
        ConfigError: something in them is unknown, malformed or out of its range.
    """
    if name not in NAMES:
        raise ConfigError(f"no credit {name!r}", where="--credit", mend=f"choose from {', '.join(NAMES)}")
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
    given = {"model": model or config.model, "data": data or config.data}
    for field, what in (
        ("model", "a model folder, a hub id, or small"),
        ("data", "a .jsonl or .parquet file of questions, chains, or gym:FAMILY"),
    ):
        if not given[field]:
            raise ConfigError(f"no {field} given", where=field, mend=f"give --{field} with {what}")
    load_config(CreditConfig, base=NAMES[config.credit] | {"answer": config.answer} | config.credit_settings)
    stem = Path(str(given["model"])).stem or "model"
    label = config.name if "name" in config.model_fields_set else f"{stem}-{config.credit}-{config.seed}"
    folder = run_folder("credit", output, label)
    given["name"] = folder.name or folder.resolve().name
    return config.model_copy(update=given), folder
