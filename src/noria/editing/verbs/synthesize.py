"""`noria editing synthesize`: invent tasks of reasoning edits, for generated pictures or for the user's own."""

from __future__ import annotations

import asyncio
import contextlib
from collections import Counter
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import click
from pydantic import Field

from noria.core.config import Option
from noria.core.errors import ConfigError
from noria.core.files import input_errors
from noria.core.progress import Progress
from noria.core.runs.outputs import results_folder
from noria.verbs.command import command as make_command
from noria.verbs.options import OutputOption, QuietOption, SeedOption, ServerOptions

if TYPE_CHECKING:
    from noria.editing.data.tasks import Task

SUFFIXES = (".png", ".jpg", ".jpeg", ".webp", ".bmp")


class SynthesizeConfig(ServerOptions, SeedOption, OutputOption, QuietOption):
    """Settings of `noria editing synthesize`."""

    families: Annotated[tuple[str, ...], Option(metavar="LIST")] = Field(
        (), description="Families of edits, such as rise.temporal (default: all)."
    )
    number: Annotated[int, Option("-n")] = Field(
        4, ge=1, le=64, description="Tasks of each kind, or of each picture."
    )
    pictures: Annotated[Path | None, Option(metavar="DIR")] = Field(
        None, description="Folder of pictures to invent tasks for (default: pictures are generated)."
    )
    images_url: str | None = Field(None, description="Address of an API with images/generations.")
    images_model: Annotated[str, Option(metavar="NAME")] = Field(
        "default", description="Name of the model on the picture generator's server."
    )
    images_key_env: Annotated[str | None, Option(metavar="NAME")] = Field(
        None, description="Name of the environment variable that holds the picture generator's key."
    )
    size: int = Field(1024, ge=64, le=4096, description="Width and height of generated pictures.")
    draws: int = Field(2, ge=0, le=8, description="References written anew that must agree with the first.")
    language: str = Field("English", min_length=1, description="Language of the instructions.")
    licence: str = Field("not stated", description="Licence of the pictures, which each task states.")


@make_command(SynthesizeConfig, extra="editing")
def command(config: SynthesizeConfig) -> int:
    """Invent tasks: a scene, a request that does not give its outcome away, and a reference that others agree with."""
    tasks, reasons, folder = run(config, Progress(quiet=config.quiet))
    click.echo(
        f"{len(tasks):,} tasks; left out: {', '.join(f'{w} {n}' for w, n in reasons.most_common()) or 'none'}"
    )
    click.echo(f"tasks  {folder / 'tasks.jsonl'}")
    return 0 if tasks else 1


def run(config: SynthesizeConfig, progress: Progress) -> tuple[list[Task], Counter[str], Path]:
    """Make tasks, and write `tasks.jsonl` with its pictures. It resumes.

    Raises:
        NoriaError: anything that a user can mend.
    """
    from noria.core.chat import ChatClient
    from noria.editing.data.tasks import write_tasks
    from noria.editing.editors.server import ServerGenerator
    from noria.editing.synthesis.tasks import SynthesisSettings, jobs, synthesize
    from noria.editing.synthesis.taxonomy import leaves
    from noria.editing.verbs.options import named_server

    if (config.pictures is None) == (config.images_url is None):
        raise ConfigError(
            "no pictures, or two sources", where="--pictures", mend="give --pictures or --images-url"
        )
    server = config.server()
    work_ = jobs(leaves(config.families), config.number, _pictures(config.pictures))
    folder = results_folder("editing", config.output, "synthesize")
    settings = SynthesisSettings(
        config.draws, (config.size,) * 2, config.language, config.seed, config.licence
    )

    async def work() -> tuple[list[Task], Counter[str]]:
        async with contextlib.AsyncExitStack() as stack:
            model = await stack.enter_async_context(ChatClient(server))
            model_name = config.images_model if config.images_url else None
            images = named_server("images", config.images_url, model_name, config.images_key_env, 4)
            generator = None if images is None else await stack.enter_async_context(ServerGenerator(images))
            return await synthesize(
                model, generator, work_, folder, settings, in_flight=config.in_flight, progress=progress
            )

    with progress:
        tasks, reasons = asyncio.run(work())
    write_tasks(folder / "tasks.jsonl", tasks)
    return tasks, reasons, folder


def _pictures(folder: Path | None) -> list[Path]:
    """Pictures in a folder, by name.

    Raises:
        ConfigError: there is none.
        DataError: the folder cannot be read.
    """
    if folder is None:
        return []
    with input_errors(folder):
        found = sorted(path for path in folder.iterdir() if path.suffix.lower() in SUFFIXES)
    if not found:
        raise ConfigError("no pictures there", where=str(folder), mend=f"they end in {', '.join(SUFFIXES)}")
    return found
