"""`noria grounding build`: a benchmark of one's own consented clips."""

from __future__ import annotations

import asyncio
import json
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import click
from pydantic import Field

from noria.core.config import Argument, Option
from noria.core.errors import DataError
from noria.core.files import inside, lock, write_atomic
from noria.core.progress import Progress
from noria.core.records import read_json
from noria.core.runs.outputs import results_folder
from noria.grounding.asking.config import MediaSettings
from noria.grounding.building.config import BuildSettings
from noria.grounding.verbs.options import BudgetOption
from noria.verbs.command import command as make_command
from noria.verbs.options import OutputOption, QuietOption, ServerOptions

if TYPE_CHECKING:
    from noria.grounding.asking.store import SampleStore
    from noria.grounding.building.builder import BuildResult


class BuildConfig(BuildSettings, MediaSettings, ServerOptions, BudgetOption, OutputOption, QuietOption):
    """Settings of `noria grounding build`."""

    clips: Annotated[Path, Argument()] = Field(
        description='File of clips (.jsonl): video_id, video_path, transcription, original_scores, "consent": true.'
    )
    videos: Annotated[Path | None, Option(metavar="DIR")] = Field(None, description="Folder of the clips.")


@make_command(BuildConfig, extra="grounding")
def command(config: BuildConfig) -> int:
    """Write a benchmark of clips whose people consented; the same command resumes a build that was stopped."""
    result, folder = run(config, Progress(quiet=config.quiet))
    questions = sum(len(record.mcq_questions) for record in result.corpus)
    click.echo(f"{len(result.corpus)} videos, {questions} questions: {folder / 'annotations'}")
    for number, solved in enumerate(result.rounds):
        words = "too few to tell" if solved is None else f"{100 * solved:.1f} % answered without seeing"
        click.echo(f"round {number}: {words}")
    for name, reason in sorted(result.dropped.items()):
        click.echo(f"left out: {name}: {reason}")
    if not len(result.corpus):
        click.echo("noria: no clip became a record", err=True)
        return 1
    return 0


def run(config: BuildConfig, progress: Progress) -> tuple[BuildResult, Path]:
    """Build a benchmark into `annotations` of a folder, which keeps all replies, and give the folder.

    Records that an earlier build wrote and this one does not, because a clip was taken out or now fails, are removed.

    Raises:
        DataError: the clips' file is faulty, or someone in it did not consent.
    """
    from noria.core.chat import ChatClient
    from noria.grounding.asking.media import Cinema
    from noria.grounding.asking.store import SampleStore
    from noria.grounding.building.builder import build, read_clips
    from noria.grounding.corpus.files import save_corpus

    server = config.server()
    folder = results_folder("grounding", config.output, f"build-{config.clips.stem}")
    records = read_clips(config.clips)
    cinema = Cinema({r.video_id: r for r in records}, config.videos, config.part(MediaSettings))
    settings = config.part(BuildSettings)

    async def write(store: SampleStore) -> BuildResult:
        async with ChatClient(server, budget=config.remaining(store.spent())) as client:
            return await build(
                records,
                client,
                cinema,
                store,
                settings,
                in_flight=server.in_flight,
                on_step=lambda step: task.advance(note=step),
            )

    with lock(folder), progress, SampleStore(folder) as store:
        task = progress.task("writing", total=None)
        result = asyncio.run(write(store))
        task.done()
        home, note = folder / "annotations", folder / "build.json"
        save_corpus(result.corpus, home)
        for name in set(_written(note)) - set(result.corpus.ids):
            inside(home, f"{name}.json").unlink(missing_ok=True)
        outcome = {
            "videos": result.corpus.ids,
            "dropped": result.dropped,
            "rounds": result.rounds,
            "rewritten": result.rewritten,
        }
        write_atomic(note, json.dumps(outcome, indent=1, ensure_ascii=False))
    return result, folder


def _written(note: Path) -> list[str]:
    """Ids of the records that the last build wrote."""
    try:
        return [str(name) for name in read_json(note)["videos"]]
    except (DataError, KeyError, TypeError):
        return []
