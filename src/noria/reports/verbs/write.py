"""`noria reports write`: a request becomes a report of text, charts and pictures."""

from __future__ import annotations

import contextlib
import json
from pathlib import Path
from typing import Annotated

import click
import msgspec
from pydantic import Field

from noria.core.config import Argument, Option
from noria.core.errors import ConfigError
from noria.core.files import read_text
from noria.core.runs.outputs import run_folder
from noria.reports.verbs.options import WritingOptions
from noria.verbs.command import command as make_command
from noria.verbs.options import JsonOption, OutputOption, ServerOptions


class WriteConfig(WritingOptions, ServerOptions, OutputOption, JsonOption):
    """Settings of `noria reports write`."""

    request: Annotated[str, Argument()] = Field(description="The request in words, or @FILE.")
    index: Annotated[Path, Option("-i", metavar="FILE")] = Field(
        description="File of the index (noria reports index)."
    )
    plan_only: bool = Field(
        False, description="Write plan.json and stop, to be edited before anything is spent."
    )
    offline: bool = Field(False, description="Forbid every connection to the network.")


@make_command(WriteConfig, extra="reports")
def command(config: WriteConfig) -> int:
    """Write a report; the same command resumes one that was killed, and keeps a plan that was edited."""
    from noria.core.digests import digest_of
    from noria.reports.agents.pipeline import Extractive, Job, Limits
    from noria.reports.charts.drawing import missing_font, register_fonts
    from noria.reports.checking.verify import verify_bundle
    from noria.reports.evidence.records import digest
    from noria.reports.search.guard import offline
    from noria.reports.search.index import Index

    text = (
        read_text(Path(config.request[1:]), limit=200_000)
        if config.request.startswith("@")
        else config.request
    )
    folder = run_folder("reports", config.output, digest(text)[:12])
    if config.offline and config.url:
        raise ConfigError(
            "a server on the network is asked for", where="--offline, --url", mend="give one of them"
        )
    if config.fonts is not None:
        register_fonts(config.fonts)
    if warning := missing_font([text], fonts=config.fonts):
        click.echo(f"noria: warning: {warning}", err=True)
    with contextlib.ExitStack() as stack:
        if config.offline:
            stack.enter_context(offline())
        index = stack.enter_context(Index(config.index))
        agents = Extractive()
        if config.url or config.model:
            from noria.reports.agents.models import ModelAgents

            agents = ModelAgents(config.server())  # type: ignore[assignment]
        version = f"{digest_of(index.path)}{config.model}{config.charts}{config.images}"
        job = Job(
            folder,
            index,
            agents,
            Limits(config.seconds),
            config.charts,
            config.images,
            config.until,
            config.since,
            config.countries(),
            config.style(),
            version,
        )
        folder.mkdir(parents=True, exist_ok=True)
        _same_request(folder, text)
        if config.plan_only:
            _, plan = job.plan(text)
            click.echo(
                json.dumps(msgspec.to_builtins(plan), ensure_ascii=False, indent=2)
                if config.as_json
                else f"plan  {folder / 'plan.json'}"
            )
            return 0
        bundle = job.write(text)
        result = verify_bundle(folder)
    _print(config, folder, bundle, result)
    return result.exit_code(strict=False)


def _same_request(folder: Path, text: str) -> None:
    """Keep the request beside the report, and refuse another one in the same folder."""
    from noria.core.errors import RunError
    from noria.core.files import write_atomic

    path = folder / "request.txt"
    if path.is_file() and read_text(path) != text:
        raise RunError(
            "the folder holds a report of another request", where=str(folder), mend="give another --output"
        )
    if not path.is_file() and any(p.name != "plan.json" for p in folder.iterdir()):
        raise RunError(
            "the folder holds something else than a report", where=str(folder), mend="give another --output"
        )
    write_atomic(path, text)


def _print(config: WriteConfig, folder: Path, bundle: object, result: object) -> None:
    from noria.reports.checking.findings import Verification
    from noria.reports.document.blocks import figures, sentences
    from noria.reports.document.bundle import Bundle

    assert isinstance(bundle, Bundle)
    assert isinstance(result, Verification)
    report = bundle.report
    counts = {
        "sections": len(report.sections),
        "sentences": sum(1 for _ in sentences(report)),
        "figures": len(figures(report)),
        "sources": len(bundle.book.sources),
        "findings": len(result.findings),
    }
    if config.as_json:
        missing = [msgspec.to_builtins(one) for one in report.missing]
        click.echo(
            json.dumps(
                {"folder": str(folder), "stopped": report.stopped, "missing": missing, **counts},
                ensure_ascii=False,
            )
        )
        return
    click.echo(", ".join(f"{count:,} {name}" for name, count in counts.items()))
    for one in report.missing:
        click.echo(f"not produced: {one.what}: {one.why}")
    if report.stopped:
        click.echo(f"partial: {report.stopped}")
    for finding in result.findings[:10]:
        click.echo(f"{finding.where}: {finding.what}")
    click.echo(f"report  {folder / 'report.html'}")
