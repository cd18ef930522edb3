"""`noria tryon judge`: whether generated clips show their actions, by a vision-language model that is tried first."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import click
from pydantic import Field

from noria.core.config import Argument, Option
from noria.core.progress import Progress
from noria.core.runs.outputs import results_folder
from noria.verbs.command import command as make_command
from noria.verbs.options import JsonOption, OutputOption, QuietOption, ServerOptions
from noria.verbs.tables import table

if TYPE_CHECKING:
    from noria.tryon.integrations.judge import JudgedClips, SuccessRate


class JudgeConfig(OutputOption, ServerOptions, JsonOption, QuietOption):
    """Settings of `noria tryon judge`."""

    generated: Annotated[Path, Argument()] = Field(description="Folder of generated videos.")
    reference: Annotated[Path, Option(metavar="DIR")] = Field(
        description="Folder of the real videos of the same names, on which the judge is tried."
    )
    actions: Annotated[Path, Option(metavar="DIR")] = Field(
        description="Folder of the timed actions of each video, by name: .json, .srt or .vtt."
    )
    votes: int = Field(3, ge=1, le=25, description="Times that each action is asked.")


@make_command(JudgeConfig, extra="tryon", needs=("av", "openai"))
def command(config: JudgeConfig) -> None:
    """Ask a model whether each action shows in the generated clips: the judged success rate.

    The judge is tried on the real clips first: with their own actions, which it must see, and with actions of other
    clips, which it must not. The protocol is Noria's; the paper's is not published.
    """
    folder, judged = run(config, Progress(quiet=config.quiet))
    if config.as_json:
        click.echo(json.dumps(figures(judged), indent=1))
        return
    rows: list[tuple[str, ...]] = [("actions", "shown", "judged", "invalid", "rate")]
    rows += [(name, *map(str, _row(rate))) for name, rate in _parts(judged)]
    click.echo(table(rows, names=1))
    words = {
        True: "can be trusted",
        False: "cannot be trusted: it errs on the real clips",
        None: "was not tried",
    }
    click.echo(f"judge   {words[judged.trusted]}")
    click.echo(f"page    {folder / 'report.html'}")


def run(config: JudgeConfig, progress: Progress) -> tuple[Path, JudgedClips]:
    """Judge the generated clips, and the judge on the real ones.

    Returns:
        The folder of the page, and the three rates.

    Raises:
        NoriaError: a file cannot be used, a generated clip has no reference or no actions, or no server is named.
    """
    server = config.server()
    folder = results_folder("tryon", config.output, f"judge-{config.generated.resolve().name}")

    from noria.core.errors import DataError
    from noria.core.files import write_atomic
    from noria.tryon.actions.reading import read_actions
    from noria.tryon.evaluation.companions import ACTIONS
    from noria.tryon.evaluation.pairs import companion, paired
    from noria.tryon.integrations.judge import JudgedClips, joined, other_actions, success_rate
    from noria.tryon.video.clips import read_clip

    names = paired(config.generated, config.reference)
    actions = [read_actions(companion(config.actions, name, ACTIONS)) for name in names]
    if not any(actions):
        raise DataError("no clip has an action", where=str(config.actions))
    rates: list[list[SuccessRate]] = [[], [], []]
    with progress:
        task = progress.task("judge", len(names))
        for name, own, others in zip(names, actions, other_actions(actions), strict=True):
            real = read_clip(config.reference / name)
            made = read_clip(config.generated / name)
            for part, (clip, asked) in zip(rates, ((made, own), (real, own), (real, others)), strict=True):
                part.append(success_rate(clip, asked, server, votes=config.votes))
            task.advance()
        task.done()
    whole = [joined(part) for part in rates]
    judged = JudgedClips(whole[0], whole[1], whole[2] if whole[2].verdicts else None)
    rows = [
        {
            "clip": name,
            "start": a.start,
            "end": a.end,
            "caption": a.caption,
            "generated": v.value,
            "real": r.value,
        }
        for name, own, made_rate, real_rate in zip(names, actions, rates[0], rates[1], strict=True)
        for a, v, r in zip(own, made_rate.verdicts, real_rate.verdicts, strict=True)
    ]
    about = figures(judged) | {"model": config.model, "votes": config.votes, "actions": rows}
    write_atomic(folder / "judged.json", json.dumps(about, indent=1, ensure_ascii=False) + "\n")
    _write_page(folder, config, judged, rows)
    return folder, judged


def figures(judged: JudgedClips) -> dict[str, Any]:
    """Rates as JSON: None where nothing was judged."""
    parts = {
        name: {"shown": r.shown, "judged": r.judged, "invalid": r.invalid, "rate": r.rate}
        for name, r in _parts(judged)
    }
    return parts | {"trusted": judged.trusted}


def _parts(judged: JudgedClips) -> list[tuple[str, SuccessRate]]:
    parts = [("generated", judged.generated), ("real", judged.real)]
    return parts + ([("real, others' actions", judged.others)] if judged.others is not None else [])


def _row(rate: SuccessRate) -> tuple[int, int, int, str]:
    return rate.shown, rate.judged, rate.invalid, "—" if rate.rate is None else f"{rate.rate:.3f}"


def _write_page(folder: Path, config: JudgeConfig, judged: JudgedClips, rows: list[dict[str, Any]]) -> None:
    from noria.core.pages.charts import Figure
    from noria.core.pages.report import write_page

    heads = ["actions", "shown", "judged", "invalid", "rate"]
    trust = {True: "yes", False: "no", None: "not tried"}[judged.trusted]
    rates = Figure.table("Rates", heads, [[name, *_row(rate)] for name, rate in _parts(judged)])
    names = ["clip", "start", "end", "caption", "generated", "real"]
    each = Figure.table("Each action", names, [[row[name] for name in names] for row in rows])
    intro = f"Judged by {config.model}, {config.votes} votes an action. The judge tells what shows from what does not "
    intro += f"on the real clips: {trust}. A verdict that is invalid is in no rate."
    sections = [("Figures", [rates, each])]
    write_page(folder / "report.html", f"Actions of {config.generated.name}", sections, intro=intro)
