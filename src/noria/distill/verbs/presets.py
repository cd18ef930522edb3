"""`noria distill presets`: the recipes that a training can start from."""

from __future__ import annotations

from typing import Annotated

import click
from pydantic import Field

from noria.core.config import Config, Option
from noria.core.yaml_values import yaml_text
from noria.distill.config import PRESET_NOTES, DistillConfig
from noria.verbs.command import command as make_command


class PresetsConfig(Config):
    """Settings of `noria distill presets`."""

    show: Annotated[str | None, Option(metavar="NAME")] = Field(
        None, description="Print all settings of one preset, as YAML for --config."
    )


@make_command(PresetsConfig)
def command(config: PresetsConfig) -> None:
    """List the recipes that a training can start from."""
    if config.show is None:
        width = max(map(len, PRESET_NOTES))
        click.echo("\n".join(f"{name:{width}}  {note}" for name, note in PRESET_NOTES.items()))
        return
    values = DistillConfig(preset=config.show).model_dump(mode="json", exclude={"name"})
    values = {"preset": config.show} | values
    click.echo(yaml_text(values), nl=False)
