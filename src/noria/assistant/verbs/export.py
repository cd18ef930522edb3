"""`noria assistant export`: data sets and spans out of a gateway's traces."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated, Literal

import click
from pydantic import Field

from noria.assistant.verbs.options import FolderOption
from noria.core.config import Argument, Option
from noria.verbs.command import command as make_command

Split = Literal["train", "route gate", "body gate", "model gate"]


class ExportConfig(FolderOption):
    """Settings of `noria assistant export`."""

    what: Annotated[Literal["sft", "preferences", "prompts", "spans"], Argument("WHAT")] = Field(
        description="Rows for TRL (sft, preferences, prompts), or spans as OTLP JSON (spans)."
    )
    output: Annotated[Path, Option("--output", "-o", metavar="FILE")] = Field(
        description="File to write: .jsonl, or .parquet for rows."
    )
    split: Split = Field("train", description="Split of the rows; no user, picture or request lies in two.")
    contents: bool = Field(False, description="Whether spans hold the texts of requests and answers.")


@make_command(ExportConfig, extra="traces")
def command(config: ExportConfig) -> None:
    """Write traces to learn from, or spans for a collector, beside the gateway.

    The split `final` is not given out: a gate has not seen it.
    """
    from noria.assistant.folder import data_salt, dataset_rows, opened_control
    from noria.core.traces.datasets import write_dataset

    if config.what == "spans":
        count = _write_spans(config)
        click.echo(f"{count:,} traces in {config.output}")
        return
    with opened_control(config.folder) as control:
        salt = data_salt(control)
    chosen, chats, lost = dataset_rows(config.folder, salt, config.what, config.split)
    digest = write_dataset(config.output, chosen)
    click.echo(f"{config.output}  SHA-256 {digest}")
    if lost:
        click.echo(
            f"{lost:,} of {chats:,} chats lie in no split: they share a content with another one", err=True
        )


def _write_spans(config: ExportConfig) -> int:
    """Write one export request a line; the number of traces."""
    from noria.core.errors import DataError
    from noria.core.files import write_atomic
    from noria.core.traces.store import read_views
    from noria.core.traces.telemetry import otlp

    if config.output.suffix != ".jsonl":
        raise DataError("spans are JSON lines", where=str(config.output), mend="end it in .jsonl")
    lines = [
        json.dumps(
            otlp([view.trace], judgements=view.judgements, contents=config.contents), ensure_ascii=False
        )
        for view in read_views(config.folder)
    ]
    if not lines:
        raise DataError("there is no trace", where=str(config.folder), mend="name the folder of a gateway")
    write_atomic(config.output, "\n".join(lines) + "\n")
    return len(lines)
