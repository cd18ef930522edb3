"""`noria mtp export`: the model with the head in its own files, and how engines serve it."""

from __future__ import annotations

import contextlib
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

import click
from pydantic import Field

from noria.core.files import disk_errors
from noria.core.runs.outputs import run_folder
from noria.mtp.config import SourceOptions
from noria.mtp.types import MAX_GAMMA, Rule
from noria.verbs.command import command as make_command
from noria.verbs.options import OutputOption

if TYPE_CHECKING:
    from noria.core.models.loading import LanguageModel
    from noria.mtp.engines.engine_flags import ServingConfig


class ExportConfig(SourceOptions, OutputOption):
    """Settings of `noria mtp export`."""

    gamma: int | None = Field(
        None,
        ge=1,
        le=MAX_GAMMA,
        description="Drafts of a round of the engines (default: 3, or fewer layers).",
    )
    rule: Rule = Field("rejection", description="Rule by which the engines verify drafts.")
    overwrite: bool = Field(False, description="Replace an earlier export, or the model's own files.")


@dataclass(frozen=True)
class ExportResult:
    """An exported head.

    Attributes:
        folder: the model's folder, with the head in its files.
        layers: number of the head's layers.
        layout: vendor whose names the tensors have.
        serving: settings of the engines.
    """

    folder: Path
    layers: int
    layout: str
    serving: ServingConfig


@make_command(ExportConfig, extra="mtp", needs=("torch", "transformers"))
def command(config: ExportConfig) -> None:
    """Write the model with the head in its own files, and print how engines serve it."""
    result = run(config)
    plural = "s" * (result.layers > 1)
    click.echo(f"model  {result.folder}   a head of {result.layers} layer{plural}, {result.layout} names")
    if result.serving.note is not None:
        click.echo(f"note   {result.serving.note}. For an engine that can:")
    click.echo(result.serving.text(str(result.folder)))


def run(config: ExportConfig) -> ExportResult:
    """Write the model with a run's head in its own files, and find how to serve it.

    Raises:
        NoriaError: anything that a user can mend; nothing is written or changed then.
    """
    from noria.mtp.engines.engine_flags import against_serving, serving_config
    from noria.mtp.heads.checkpoint import save_with_head
    from noria.mtp.heads.layouts import family_of
    from noria.mtp.heads.loading import open_policy

    serving_config(
        config.gamma or 3, config.rule
    )  # refuses a rule that no engine has before the model is read
    label = f"export-{Path(config.source).stem or 'model'}"
    output = run_folder("mtp", config.output, label)
    source = open_policy(config)
    policy, head = source.policy, source.head
    assert head is not None
    source.check_gamma(config.gamma)
    model_config = policy.model.config
    note = against_serving(model_config.model_type, family_of(model_config), head.layout.name, head.layers)
    serving = serving_config(config.gamma or min(3, head.most_drafts), config.rule)
    with _safetensors(policy, output) as files:
        folder = save_with_head(policy.model, head, files, output, overwrite=config.overwrite)
    return ExportResult(folder, head.layers, head.layout.name, replace(serving, note=note))


@contextlib.contextmanager
def _safetensors(policy: LanguageModel, output: Path) -> Iterator[Path]:
    """The model's folder; of a GGUF file, one for the time being with its weights unpacked, beside the output."""
    if policy.files.is_dir():
        yield policy.files
        return
    from noria.core.models.loading import save_language_model

    output.parent.mkdir(parents=True, exist_ok=True)
    with disk_errors(output), tempfile.TemporaryDirectory(dir=output.parent, prefix=".unpacked-") as folder:
        save_language_model(policy.model, policy.tokenizer, Path(folder) / "model")
        yield Path(folder) / "model"
