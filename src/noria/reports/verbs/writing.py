"""What the verbs that write a report print: warnings of fonts, progress, and the lines that say what came out."""

from __future__ import annotations

import contextlib
import json
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from noria.core.progress import Progress
from noria.reports.jobs.options import WritingOptions
from noria.verbs.tables import counted, table

if TYPE_CHECKING:
    from noria.reports.agents.pipeline import Watch
    from noria.reports.agents.research import Findings
    from noria.reports.document.bundle import Bundle


def prepare_fonts(config: WritingOptions, text: str) -> None:
    """Register the fonts of the options, and warn where a text needs one that is not installed.

    Raises:
        DataError: there is no such folder of fonts.
    """
    from noria.reports.charts.drawing import missing_font, register_fonts

    if config.fonts is not None:
        register_fonts(config.fonts)
    texts = [text, "中文" if config.language == "zh" else ""]
    if warning := missing_font(texts, fonts=config.fonts):
        click.echo(f"noria: warning: {warning}", err=True)


@contextlib.contextmanager
def shown_progress(*, quiet: bool) -> Iterator[Watch]:
    """Show the progress of a report on stderr: a bar on a terminal, elsewhere a line every few seconds."""
    with Progress(quiet=quiet) as progress:
        task = progress.task("report", 100)
        try:
            yield lambda share, what: task.at(round(100 * share), what)
        finally:
            task.stop()


def changes_table(rows: Sequence[Mapping[str, str]]) -> str:
    """Numbers that changed as a table, and how many there are."""
    lines = [
        [r["entity"][:40], r["measure"][:40], r["period"], r["before"] or "-", r["after"] or "-"]
        for r in rows
    ]
    shown = table([["entity", "measure", "period", "before", "after"], *lines], names=3)
    return f"{shown}\n{counted({'changed numbers': len(rows)})}"


def print_report(
    bundle: Bundle, folder: Path, findings: Findings, *, as_json: bool, changes: Sequence[Any] | None = None
) -> int:
    """Print the counts of a finished report, what is missing of it, and what its verification finds.

    Returns:
        Exit code of the verification.
    """
    from noria.reports.jobs.making import outcome

    made, verification = outcome(bundle, folder, findings)
    code = verification.exit_code(strict=False)
    if as_json:
        more = {} if changes is None else {"changes": changes}
        click.echo(json.dumps({"folder": str(folder), **more, **made}, ensure_ascii=False))
        return code
    click.echo(counted({name: count for name, count in made.items() if isinstance(count, int)}))
    lines = [f"left out: {one}" for one in made["left_out"][:10]]
    lines += [f"not produced: {one['what']}: {one['why']}" for one in made["missing"]]
    lines += [f"partial: {made['stopped']}"] if made["stopped"] else []
    lines += [f"{one.where}: {one.what}" for one in verification.findings[:10]]
    lines += [] if verification.checked else ["nothing of it could be verified: it rests on no source"]
    if (spent := made["spent"]) is not None:
        lines.append(
            f"spent: {spent['tokens']:,} tokens, {spent['cost']:.4g} in money, {spent['unpriced']} unpriced"
        )
        if lost := spent.get("lost"):
            lines.append(f"model: {lost} questions without a usable reply; rules answered them")
    for line in [*lines, f"report  {folder / 'report.html'}"]:
        click.echo(line)
    return code
