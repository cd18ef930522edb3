"""`noria grounding run`: ask a model a whole benchmark, in a run folder that resumes."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import click
from pydantic import Field

from noria.core.config import Option
from noria.core.errors import ConfigError
from noria.core.progress import Progress
from noria.core.runs.outputs import check_run_folder, run_folder
from noria.core.runs.run import Run, settled
from noria.grounding.asking.config import AskSettings, LocalModelOptions, MediaSettings
from noria.grounding.asking.types import WITHOUT_CLIP
from noria.grounding.verbs.options import BudgetOption, CacheOption
from noria.verbs.command import command as make_command
from noria.verbs.options import OutputOption, QuietOption, ServerOptions, refuse_given

if TYPE_CHECKING:
    from noria.core.chat import ChatModel, ChatServer
    from noria.grounding.asking.store import Sample


class RunConfig(
    AskSettings,
    MediaSettings,
    LocalModelOptions,
    ServerOptions,
    BudgetOption,
    CacheOption,
    OutputOption,
    QuietOption,
):
    """Settings of `noria grounding run`. A server answers, or a model in this process."""

    data: Annotated[Path, Option(metavar="DIR")] = Field(
        description="Folder of the annotations, one JSON file a video."
    )
    videos: Annotated[Path | None, Option(metavar="DIR")] = Field(None, description="Folder of the clips.")
    hf: Annotated[str | None, Option(metavar="MODEL")] = Field(
        None, description="Hugging Face image-text-to-text model to run here, in the place of a server."
    )

    def answering(self) -> ChatServer | None:
        """The server that answers; None where a model in this process does.

        Raises:
            ConfigError: neither or both are named, or the server is malformed.
        """
        if (self.url is None) == (self.hf is None):
            mend = "name one who answers: give --url and --model, or --hf"
            raise ConfigError("no model to ask, or two", where="run", mend=mend)
        return None if self.hf else self.server()


@dataclass(frozen=True)
class RunResult:
    """A run's outcome: its folder, how many samples are in each state, and what had to be mended first."""

    folder: Path
    counts: Mapping[str, int]
    mended: Sequence[str]


@make_command(RunConfig, extra="grounding")
def command(config: RunConfig) -> int:
    """Ask the model; the same command resumes a run that was stopped or killed."""
    result = run(config, Progress(quiet=config.quiet))
    click.echo("  ".join(f"{status} {n}" for status, n in sorted(result.counts.items())))
    click.echo(f"run  {result.folder}")
    failed = result.counts.get("error", 0)
    if failed:
        click.echo(f"{failed} failed; the same command asks them again", err=True)
    if not result.counts.get("ok", 0):
        click.echo("noria: no reply answers anything that was asked", err=True)
        return 1
    return 0


def run(config: RunConfig, progress: Progress) -> RunResult:
    """Ask a model a whole corpus. The same settings again ask only what is left.

    Raises:
        ConfigError: settings that do not go together.
        RunError: the folder holds another run.
        ModelError: the server answers nothing.
    """
    from noria.grounding.asking.media import Cinema
    from noria.grounding.asking.protocols import plan, strangers
    from noria.grounding.asking.runner import run_plan
    from noria.grounding.asking.store import SampleStore
    from noria.grounding.corpus.files import load_corpus
    from noria.grounding.results.sources import corpus_digest

    server = config.answering()
    refuse_unused(config)
    corpus = load_corpus(config.data)
    chains = plan(corpus, config)
    if config.videos is None and config.control not in WITHOUT_CLIP:
        mend = "give it, or --control transcript, blind or oracle"
        raise ConfigError("no folder of clips", where="--videos", mend=mend)
    name = server.model if server else str(config.hf)
    slug = "".join(c if c.isalnum() or c in "-." else "-" for c in name.rstrip("/").rpartition("/")[2])
    folder = run_folder("grounding", config.output, f"{slug}-{config.protocol}-{config.control}")
    check_run_folder(folder)
    identity = settled(
        folder,
        _identity(config, name, server.url if server else "here"),
        {"data": (str(config.data), corpus_digest(config.data))},
    )
    cinema = Cinema(
        {record.video_id: record for record in corpus},
        config.videos,
        config.part(MediaSettings),
        strangers=strangers(corpus, config.seed) if config.control == "shuffled" else None,
    )

    def note(sample: Sample) -> None:
        bad = sample.status != "ok"
        task.advance(note=f"{sample.id}: {sample.status} {sample.error}".rstrip() if bad else "")

    async def ask() -> Mapping[str, int]:
        async with _model(config, server, store.spent()) as (model, in_flight):
            settings = config.part(AskSettings)
            return await run_plan(
                chains, corpus, model, cinema, store, settings, in_flight=in_flight, on_sample=note
            )

    with Run.open(folder, config=identity), SampleStore(folder) as store, progress:
        for words in store.mended:
            progress.say(words)
        steps = sum(len(chain) for chain in chains)
        task = progress.task("samples", total=steps, start=len(store.statuses()))
        counts = asyncio.run(ask())
        task.done(note=", ".join(f"{n} {status}" for status, n in sorted(counts.items())))
        return RunResult(folder, dict(counts), list(store.mended))


def refuse_unused(config: RunConfig) -> None:
    """Refuse settings that this protocol, control or model would not honour.

    Raises:
        ConfigError: one of them was given.
    """
    if config.hf:
        unused = (*ServerOptions.model_fields, *CacheOption.model_fields, "budget", "json_mode")
        refuse_given(config, *unused, because="a model in this process answers, no server")
        refuse_given(config, "audio", because="models in this process take frames alone")
        if config.send == "video":
            raise ConfigError("models in this process take frames alone", where="--send", mend="give frames")
    else:
        local = ("precision", "device", "allow_download", "trust_remote_code")
        refuse_given(config, *local, because="a server answers, no model in this process")
    shown = config.control
    if config.protocol != "permute":
        refuse_given(config, "orders", because="options come in several orders under permute alone")
    if config.protocol != "staged":
        refuse_given(config, "conversation", because="it is a setting of the staged protocol")
    if config.protocol != "unified":
        refuse_given(config, "fallback", because="only a unified run has follow-ups")
    if shown in WITHOUT_CLIP:
        refuse_given(config, *MediaSettings.model_fields, "videos", because=f"{shown} shows no clip")
    if shown in ("black", "reversed", "cropped-box"):
        refuse_given(config, "send", "audio", because=f"{shown} sends frames, without sound")
    if config.send == "video":
        refuse_given(config, "frames", "side", "quality", because="the file is sent as it is")
    if shown == "cropped-box":
        refuse_given(config, "frames", because="it shows one frame, at a question's time")


def _identity(config: RunConfig, model: str, url: str) -> dict[str, Any]:
    """What decides the answers, and so may not change in a run."""
    from noria.grounding.asking.prompts import VERSION

    asking = config.part(AskSettings).model_dump(mode="json", exclude={"retry_errors"})
    if not config.reasoning_tags:
        del asking["reasoning_tags"]  # runs from before it was a setting can be resumed
    return {
        **asking,
        "media": config.part(MediaSettings).model_dump(mode="json"),
        "model": model,
        "url": url,
        "prompts": VERSION,
    }


@contextlib.asynccontextmanager
async def _model(
    config: RunConfig, server: ChatServer | None, spent: float
) -> AsyncIterator[tuple[ChatModel, int]]:
    """The model that answers, and how many requests may be under way."""
    if server is None:
        from noria.grounding.integrations.hugging import HuggingModel

        yield HuggingModel.open(str(config.hf), config.part(LocalModelOptions)), 1
        return
    from noria.core.chat import ChatClient

    async with ChatClient(server, cache=config.replies(), budget=config.remaining(spent)) as client:
        yield client, server.in_flight
