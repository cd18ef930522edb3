"""`noria distill serve`: a student, or any pipeline, as an OpenAI-compatible server of pictures."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

from pydantic import Field

from noria.core.config import Argument, Option
from noria.core.errors import ConfigError, RunError
from noria.core.models.config import DownloadOption
from noria.distill.verbs.options import silence_libraries
from noria.verbs.command import command as make_command
from noria.verbs.options import ListenOptions, VersionsOption

if TYPE_CHECKING:
    from noria.distill.service.drawing import Painter


class ServeConfig(DownloadOption, VersionsOption, ListenOptions):
    """Settings of `noria distill serve`."""

    source: Annotated[Path, Argument()] = Field(
        description="Folder of a run, an exported student, or a diffusers pipeline; or a small model's .safetensors."
    )
    model: Annotated[str | None, Option(metavar="MODEL")] = Field(
        None, description="Model of the run where it has moved."
    )
    name: Annotated[str, Option("--as", metavar="NAME")] = Field(
        "student", min_length=1, description="Name of the model that the service answers to."
    )
    teacher: bool = Field(
        False, description="Draw with the model that the run distils, not with its student."
    )
    steps: int | None = Field(
        None,
        ge=1,
        le=1000,
        description="Number of evenly spaced steps (default: the student's grid, else 50).",
    )
    guidance: float | None = Field(
        None,
        ge=1,
        le=30,
        description="Classifier-free guidance of a pipeline that is no student (default: 1).",
    )
    batch_size: int = Field(4, ge=1, le=256, description="Number of pictures that are drawn together.")
    waiting: int = Field(64, ge=1, le=4096, description="Pictures that may wait; more are answered 429.")
    seconds: float = Field(600.0, gt=0, le=86_400, description="Most seconds of a request.")


@make_command(ServeConfig, extra="distill", needs=("torch",))
def command(config: ServeConfig) -> None:
    """Serve /v1/images/generations: requests that wait are drawn together, each picture from its seed."""
    silence_libraries()
    painter = open_painter(config)

    from noria.core.service.hosting import serve_routes
    from noria.core.service.serving import Limits
    from noria.core.versions.served import ServedVersions
    from noria.distill.service.service import Drawing, PictureService

    @contextlib.asynccontextmanager
    async def opened(folder: Path) -> AsyncIterator[Drawing]:
        plain = {"source": folder, "teacher": False, "steps": None, "guidance": None}
        found = await asyncio.to_thread(open_painter, config.model_copy(update=plain))
        drawing = Drawing(found, config.batch_size, config.waiting)
        async with drawing.batching.running():
            yield drawing

    versions = None if config.versions is None else ServedVersions(config.versions, "student", opened)
    pictures = PictureService(
        painter, config.name, batch_size=config.batch_size, waiting=config.waiting, seconds=config.seconds,
        versions=versions,
    )  # fmt: skip
    limits = Limits(seconds=config.seconds)
    serve_routes("distill", pictures.routes(), config, limits=limits, around=pictures.around)


def open_painter(config: ServeConfig) -> Painter:
    """Open what the options name.

    Raises:
        NoriaError: it cannot be opened, or guidance is asked of a student.
    """
    from noria.distill.evaluation.grids import REFERENCE_STEPS, Grid, even_grid
    from noria.distill.service.drawing import Painter
    from noria.distill.students.loading import Student, default_device, open_model, open_student

    plain = config.source.suffix == ".safetensors" or _is_plain_pipeline(config.source)
    if plain:
        from noria.distill.config import LoadConfig

        load = LoadConfig(allow_download=config.allow_download)
        adapter = open_model(str(config.source), load, device=default_device())
        student = Student(config.source.name, adapter, (), None, None, lambda role: adapter.network, True)
    else:
        student = open_student(
            config.source, teacher=config.model, device=default_device(), allow_download=config.allow_download
        )
    taught = plain or config.teacher
    if config.guidance is not None and not taught:
        raise ConfigError(
            "guidance on a student",
            where="--guidance",
            mend="a few-step student draws without it; leave it out",
        )
    if taught and not student.has_teacher:
        raise ConfigError(
            "an exported student comes without its teacher", where="--teacher", mend="name it with --model"
        )
    contract = student.adapter.contract
    if config.steps is not None or taught:
        grid = even_grid(contract, config.steps or REFERENCE_STEPS)
    else:
        grid = Grid("own", tuple(float(s) for s in contract.grid(student.sigmas)))
    return Painter(student, grid, "teacher" if taught else "student", config.guidance or 1.0)


def _is_plain_pipeline(source: Path) -> bool:
    """Whether a folder is a diffusers pipeline that no export of a student is."""
    from noria.distill.students.loading import read_record

    if not (source / "model_index.json").is_file():
        return False
    try:
        read_record(source)
    except RunError:
        return True
    return False
