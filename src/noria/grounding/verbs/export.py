"""`noria grounding export`: answers for the released scorer, or a benchmark as a task of another harness."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal

import click
from pydantic import Field

from noria.core.config import Argument, Option
from noria.core.runs.outputs import run_folder
from noria.grounding.verbs.options import OutputPath
from noria.grounding.verbs.tables import first_order_only
from noria.verbs.command import command as make_command
from noria.verbs.options import OutputOption, refuse_given


class ExportConfig(OutputOption):
    """Settings of `noria grounding export`."""

    source: Annotated[Path, Argument()] = Field(
        description="Run or file of predictions (official), or folder of annotations (tasks)."
    )
    kind: Annotated[Literal["official", "lmms-eval", "inspect"], Option("--to")] = Field(
        description="Format to write: the released scorer's, or a task folder of a harness."
    )
    data: Annotated[Path | None, Option(metavar="DIR")] = Field(
        None, description="Folder of the annotations, for a file of predictions."
    )
    videos: Annotated[Path | None, Option(metavar="DIR")] = Field(
        None, description="Folder of the clips, for tasks that show them."
    )
    judge: Annotated[str | None, Option(metavar="NAME")] = Field(
        None, description="Judgement to write beside the answers (official), where a run has several."
    )
    frames: int = Field(16, ge=1, description="Number of frames of a clip, for inspect.")
    output: OutputPath = Field(
        None,
        description="File (official) or folder (tasks) to write (default: runs/grounding/export-FORMAT).",
    )


@make_command(ExportConfig, extra="grounding")
def command(config: ExportConfig) -> None:
    """Write a run's answers for the released scorer, or annotations as a task of lmms-eval or inspect_ai."""
    click.echo(f"{config.kind}  {run(config)}")


def run(config: ExportConfig) -> Path:
    """Write the export, and give its path.

    Raises:
        ConfigError: answers where annotations are meant, or a setting that the format does not have.
    """
    if config.kind == "official":
        refuse_given(config, "videos", "frames", because="predictions hold no clips")
    else:
        refuse_given(config, "data", "judge", because="SOURCE is the folder of the annotations")
        if config.kind == "lmms-eval" or config.videos is None:
            why = "lmms-eval opens the clips itself" if config.videos else "no clips are shown"
            refuse_given(config, "frames", because=why)
    path = run_folder("grounding", config.output, f"export-{config.kind}")
    if config.kind == "official":
        from noria.grounding.results.sources import open_source
        from noria.grounding.scoring.predictions import save_predictions

        path = path if config.output else path / "predictions.jsonl"
        source = open_source(config.source, data=config.data, judge=config.judge)
        for note in first_order_only(source):
            click.echo(f"noria: warning: {note}", err=True)
        save_predictions(path, source.sets[0].values())
        return path
    from noria.grounding.corpus.files import load_corpus

    corpus = load_corpus(config.source)
    if config.kind == "lmms-eval":
        from noria.grounding.integrations.lmms_eval import export_lmms_eval

        return export_lmms_eval(corpus, path, config.videos)
    from noria.grounding.integrations.inspect_ai import export_inspect

    return export_inspect(corpus, path, config.videos, frames=config.frames)
