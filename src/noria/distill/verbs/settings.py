"""From what a user typed to the settings and folder of a training; bad input is told before PyTorch is loaded."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import yaml
from pydantic import BaseModel

from noria.core.config import load_config
from noria.core.runs.outputs import named_run
from noria.distill.config import DistillConfig, preset

__all__ = ["resolve", "show_preset"]


class _Peek(BaseModel):
    """The one setting that must be known before the others can be read."""

    preset: str | None = None


def resolve(
    *,
    model: str | None = None,
    prompts: str | None = None,
    preset_name: str | None = None,
    file: Path | None = None,
    output: str | None = None,
    overrides: Sequence[str] = (),
) -> tuple[DistillConfig, Path]:
    """Settings and run folder of a training: options beat `key=value`, which beats the file, which beats the preset.

    Raises:
        ConfigError: something in them is unknown, malformed, out of its range or missing.
    """
    name = preset_name or load_config(_Peek, file=file, overrides=overrides).preset or "cdm"
    config = load_config(DistillConfig, file=file, overrides=overrides, base=preset(name))
    return named_run(
        "distill",
        config,
        {"preset": name, "model": model, "prompts": prompts},
        needed={"model": "a diffusers folder, a hub id or a .safetensors file", "prompts": "a file"},
        output=output,
        label=lambda c: f"{Path(str(c.model)).stem or 'model'}-{name}",
    )


def show_preset(name: str) -> str:
    """All settings of a preset as YAML that `--config` takes.

    Raises:
        ConfigError: there is no such preset.
    """
    values = load_config(DistillConfig, base=preset(name) | {"preset": name}).model_dump(mode="json")
    return str(
        yaml.safe_dump({n: v for n, v in values.items() if n != "name"}, sort_keys=False, allow_unicode=True)
    )
